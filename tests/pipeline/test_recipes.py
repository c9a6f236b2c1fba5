"""A recipe is complete and checked before anything runs, and everything in it can be accounted for."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from trine.config.base import HardwareConfig
from trine.config.control import ControlConfig
from trine.config.evaluation import EvaluateConfig
from trine.config.finetuning import FinetuneConfig
from trine.config.preferences import RewardConfig
from trine.config.rl import PpoConfig
from trine.config.text import PretrainConfig
from trine.data.task_texts import read_task_texts
from trine.model.config import gpt2_config
from trine.pipeline.recipe_file import built_in_recipes, recipe_text
from trine.pipeline.recipes import Recipe, load_recipe
from trine.runtime.errors import TrineError

OUT = Path("runs/here")
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of nested mappings."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {key: leaf for name, inner in value.items() for key, leaf in flat(inner, f"{prefix}.{name}").items()}


def configs(recipe: Recipe) -> dict[str, Any]:
    return {key: value for step in recipe.steps for key, value in flat(step.config.model_dump(), step.name).items()}


def load(text: str, tmp_path: Path, **options: Any) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(
        str(path), options.pop("out", OUT), options.pop("seed", 0), options.pop("minutes", None), **options
    )


def test_the_quickstart_is_built_in_and_holds_the_three_steps() -> None:
    assert "quickstart" in built_in_recipes()
    recipe = load_recipe("quickstart", OUT, 0, None)
    stages = [step.stage for step in recipe.steps]
    assert [stage for stage in stages if stage in ("pretrain", "finetune", "reward", "ppo")] == [
        "pretrain", "finetune", "reward", "reward", "ppo",
    ]  # fmt: skip
    assert recipe.minutes == yaml.safe_load(recipe_text("quickstart"))["minutes"]


SCALED = """
minutes: 10
stages:
  - {name: a, stage: finetune, scale: [epochs], config: {model: m, examples: e, epochs: 0.8}}
  - {name: b, stage: preferences, scale: [max_prompts], config: {model: m, examples: e, max_prompts: 300, samples: 7}}
"""


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_minutes_scale_exactly_the_named_fields(factor: float, tmp_path: Path) -> None:
    plain, scaled = configs(load(SCALED, tmp_path)), configs(load(SCALED, tmp_path, minutes=10 * factor))
    named = {"a.epochs", "b.max_prompts"}
    assert {key for key in plain if plain[key] != scaled[key]} == named
    for key in named:
        assert scaled[key] == pytest.approx(plain[key] * factor, rel=0.01)
        assert type(scaled[key]) is type(plain[key])


def test_its_own_minutes_change_nothing(tmp_path: Path) -> None:
    assert load(SCALED, tmp_path, minutes=10.0) == load(SCALED, tmp_path)


def test_a_scaled_count_is_never_less_than_one(tmp_path: Path) -> None:
    assert configs(load(SCALED, tmp_path, minutes=0.001))["b.max_prompts"] == 1


def test_the_seed_changes_every_stages_seed_and_nothing_else() -> None:
    one, other = (configs(load_recipe("quickstart", OUT, seed, None)) for seed in (0, 1))
    changed = {key for key in one if one[key] != other[key]}
    assert changed == {f"{step.name}.seed" for step in load_recipe("quickstart", OUT, 0, None).steps}


def test_reward_and_held_out_reward_have_seeds_of_their_own() -> None:
    values = configs(load_recipe("quickstart", OUT, 0, None))
    assert values["reward.seed"] != values["held_out_reward.seed"]


def test_a_name_stands_for_the_run_folder_of_an_earlier_stage() -> None:
    values = configs(load_recipe("quickstart", OUT, 0, None))
    assert values["pretrain.tokenizer"] == OUT / "tokenizer"
    assert values["finetune.examples"] == OUT / "functions" / "all.jsonl"
    assert values["ppo.reward"] == str(OUT / "reward")
    assert values["ppo.out"] == OUT / "ppo"
    assert not [key for key, value in values.items() if str(value).startswith("@")]


def test_a_later_stage_cannot_be_named(tmp_path: Path) -> None:
    text = "stages: [{stage: pretrain, config: {tokenizer: '@tokenizer'}}, {stage: tokenizer}]"
    with pytest.raises(TrineError, match=r"stage 1 \(pretrain\): @tokenizer is no earlier stage"):
        load(text, tmp_path)


GIVEN = {
    "gpt1-reviews": ["reviews=r.jsonl"],
    "reviews-words": ["reviews=r.jsonl"],
    "reviews-encoder": ["reviews=r.jsonl"],
    "reviews-gpt": ["reviews=r.jsonl"],
    "methods": ["sentiment=runs/sentiment", "queries=q.jsonl"],
    "refresh": ["quickstart=runs/quickstart", "prompts=p.jsonl", "held_out=h.jsonl"],
    "critic-first": ["quickstart=runs/quickstart", "prompts=p.jsonl", "held_out=h.jsonl"],
    "sentiment": ["reviews=r.jsonl"],
    "distill": ["student=a", "teacher=b", "prompts=p.jsonl"],
}
"""What recipes are to be given."""


@pytest.mark.parametrize("name", built_in_recipes())
def test_every_built_in_recipe_is_complete_and_checked(name: str) -> None:
    recipe = load_recipe(name, OUT, 0, None, overrides=GIVEN.get(name, ()))
    makes = PretrainConfig | ControlConfig | FinetuneConfig | RewardConfig | PpoConfig | EvaluateConfig
    assert [step for step in recipe.steps if isinstance(step.config, makes)]


def pretraining(name: str, **options: Any) -> PretrainConfig:
    steps = load_recipe(name, OUT, 0, None, **options).steps
    return next(step.config for step in steps if isinstance(step.config, PretrainConfig))


def test_codeparrot_is_what_the_course_trains() -> None:
    config, values = pretraining("codeparrot-124m"), configs(load_recipe("codeparrot-124m", OUT, 0, None))
    assert values["tokenizer.vocab_size"] == 50_000
    shape = config.model
    model = gpt2_config(50_000, shape.context, shape.layers, shape.width, shape.heads)
    assert (shape.family, model.parameter_count) == ("gpt2", 124_242_432)
    assert (config.row_tokens, shape.context, config.packing) == (128, 1024, "windows")
    assert (config.micro_batch_size, config.batch_size, config.epochs) == (32, 32 * 8, 1.0)
    optimizer = config.optimizer
    assert (optimizer.kind, optimizer.learning_rate, optimizer.weight_decay) == ("adamw", 5e-4, 0.1)
    assert (optimizer.warmup_steps, optimizer.decay) == (1000, "cosine")
    assert (config.loop.evaluate_every, config.loop.save_every) == (5000, 5000)


@pytest.mark.parametrize("name", ["codeparrot-124m", "pretrain-laptop", "pretrain-gpu", "pretrain-8gpu"])
def test_the_dial_takes_a_recipe_to_another_depth(name: str) -> None:
    config = pretraining(name, depth=8)
    assert (config.depth, config.model.layers, config.model.width, config.model.heads) == (8, 8, 512, 8)
    assert config.model.context == pretraining(name).model.context or name in ("pretrain-gpu", "pretrain-8gpu")


def test_its_own_depth_changes_nothing() -> None:
    assert pretraining("codeparrot-124m", depth=12) == pretraining("codeparrot-124m")


def test_a_recipe_without_a_depth_has_no_dial() -> None:
    with pytest.raises(
        TrineError, match="quickstart: --depth 6 has nothing to set: no stage states a depth of its own"
    ):
        load_recipe("quickstart", OUT, 0, None, depth=6)


def test_a_recipe_without_minutes_is_not_scaled_by_them(tmp_path: Path) -> None:
    assert load("stages: [{stage: tokenizer}]", tmp_path).minutes is None
    with pytest.raises(TrineError, match="states no minutes to scale from"):
        load("stages: [{stage: tokenizer}]", tmp_path, minutes=5.0)


def test_every_distribution_of_the_quickstart_is_pinned() -> None:
    pinned = {line.split("==")[0] for line in CONSTRAINTS.read_text().splitlines() if "==" in line}
    named = {key.split(".")[-1] for key in configs(load_recipe("quickstart", OUT, 0, None)) if ".distributions." in key}
    assert len(named) > 5
    assert named - pinned == set()
    assert "trine" not in named


def test_constraints_pin_exact_versions() -> None:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[^=\s]+", line)] == []


TWO_PRECISIONS = """
stages:
  - {stage: tokenizer, config: {hardware: {precision: fp32, threads: 2}}}
  - {name: other, stage: tokenizer}
"""


def test_hardware_of_a_recipe_stands_where_nothing_else_is_asked_for(tmp_path: Path) -> None:
    recipe = load(TWO_PRECISIONS, tmp_path, hardware=HardwareConfig(threads=1))
    assert [step.config.hardware for step in recipe.steps] == [
        HardwareConfig(precision="fp32", threads=1), HardwareConfig(threads=1),
    ]  # fmt: skip


def test_a_stage_without_a_name_is_called_what_it_is(tmp_path: Path) -> None:
    recipe = load("title: t\nstages: [{stage: tokenizer}]", tmp_path)
    assert (recipe.title, recipe.steps[0].name, recipe.steps[0].config.out) == ("t", "tokenizer", OUT / "tokenizer")


def test_a_recipe_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(TrineError, match=r"recipe\.yaml: not readable as UTF-8"):
        load_recipe(str(path), OUT, 0, None)


INPUTS = (
    "inputs: {texts: null, model: small}\nstages:\n- {stage: finetune, config: {model: '@model', examples: '@texts'}}\n"
)


def test_what_a_recipe_asks_for_is_given_by_set(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(INPUTS)
    for overrides in (["texts=a=b.jsonl", "finetune.epochs=2"], {"texts": "a=b.jsonl", "finetune.epochs": 2.0}):
        config = load_recipe(str(path), OUT, 0, None, overrides=overrides).steps[0].config
        assert (str(config.examples), config.model, config.epochs) == ("a=b.jsonl", "small", 2.0)  # type: ignore[attr-defined]
    with pytest.raises(TrineError, match="needs --set texts="):
        load_recipe(str(path), OUT, 0, None)
    with pytest.raises(TrineError, match=r"write step\.key=value"):
        load_recipe(str(path), OUT, 0, None, overrides=["texts=a", "other=b"])


def test_files_that_come_with_trine_are_there() -> None:
    config = load_recipe("gpt2-tasks", OUT, 0, None).steps[-1].config
    assert len(read_task_texts(config.examples, config.task_tokens)) == 72  # type: ignore[attr-defined]
