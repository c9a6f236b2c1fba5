"""`--set step.key=value`: a recipe's steps take values as options do, on top of all that the recipe says."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.config.generated import typed, value_of
from trine.cli.arguments import parse
from trine.config.fields import ConfigField, config_fields
from trine.config.loading import read_yaml, validated
from trine.config.registry import STAGES, config_class
from trine.config.use import RunConfig
from trine.config.values import read
from trine.pipeline.recipes import Recipe, load_recipe, recipe_of
from trine.runtime.errors import TrineError

OUT = Path("runs/here")


def quickstart(*overrides: str, **options: Any) -> Recipe:
    return load_recipe("quickstart", OUT, 0, options.pop("minutes", None), overrides=overrides, **options)


def config_of(recipe: Recipe, name: str) -> Any:
    return next(step.config for step in recipe.steps if step.name == name)


def test_an_override_changes_its_key_and_nothing_else() -> None:
    plain, changed = quickstart(), quickstart("pretrain.tokens=2e6", "ppo.kl.target=5", "ppo.iterations=3")
    assert config_of(changed, "pretrain").tokens == 2_000_000
    assert (config_of(changed, "ppo").kl.target, config_of(changed, "ppo").iterations) == (5.0, 3)
    assert config_of(changed, "ppo").kl.coefficient == config_of(plain, "ppo").kl.coefficient
    same = [step.name for step in plain.steps if step.config == config_of(changed, step.name)]
    assert [step.name for step in plain.steps if step.name not in same] == ["pretrain", "ppo"]


def test_an_override_is_not_scaled(tmp_path: Path) -> None:
    """In a recipe without plans, whose counts follow --minutes."""
    written = tmp_path / "scaled.yaml"
    entry = "{stage: finetune, scale: [epochs], config: {model: m, examples: e, epochs: 2.0}}"
    written.write_text(f"minutes: 10\nstages: [{entry}]")
    for overrides, epochs in ((["finetune.epochs=3"], 3.0), ([], 1.0)):
        recipe = load_recipe(str(written), OUT, 0, 5.0, overrides=overrides)
        assert config_of(recipe, "finetune").epochs == epochs


def test_lists_mappings_and_steps_as_in_options() -> None:
    recipe = quickstart(
        "tokenizer.corpus.folders=a", "tokenizer.corpus.folders=b", "functions.corpus.folders=c,d",
        "tokenizer.corpus.distributions.markdown-it-py=0.5", "ppo.reward=@held_out_reward", "evaluate.after=~/x",
        "pretrain.sample_prompts=@property", "pretrain.batch-size=4", "pretrain.micro_batch_size=4",
    )  # fmt: skip
    corpus = config_of(recipe, "tokenizer").corpus
    assert corpus.folders == (Path("a"), Path("b"))
    assert corpus.distributions["markdown-it-py"] == 0.5 and corpus.distributions["numpy"] == 0.2
    assert config_of(recipe, "functions").corpus.folders == (Path("c"), Path("d"))
    assert config_of(recipe, "ppo").reward == str(OUT / "held_out_reward")
    assert config_of(recipe, "evaluate").after == str(Path("~/x").expanduser())
    assert config_of(recipe, "pretrain").sample_prompts == ("@property",)
    assert config_of(recipe, "pretrain").batch_size == 4


@pytest.mark.parametrize(
    "override, words",
    [
        ("pretrian.tokens=1", "no step 'pretrian'; did you mean 'pretrain'"),
        ("pretrain.tokns=1", "--set pretrain.tokns: unknown key 'tokns'; did you mean 'tokens'"),
        ("pretrain.batch_rows=1", "it is now 'batch_size'"),
        ("pretrain.tokens=many", "tokens='many': not a whole number"),
        ("pretrain.tokens", "write step.key=value"),
        ("tokens=5", "write step.key=value"),
        ("pretrain.model=5", "unknown key 'model'"),
        ("pretrain.out=elsewhere", "by the name of the step; leave it out"),
        ("tokenizer.corpus.standard_library=perhaps", "neither true nor false"),
    ],
)
def test_a_mistake_is_named(override: str, words: str) -> None:
    with pytest.raises(TrineError) as caught:
        quickstart(override)
    assert words in str(caught.value)


def test_a_key_given_twice_is_an_error() -> None:
    """1.9: neither the first nor the last wins."""
    with pytest.raises(TrineError, match=r"--set pretrain\.tokens is given 2 times"):
        quickstart("pretrain.tokens=1", "pretrain.tokens=2")


def test_the_command_python_and_yaml_give_the_same_recipe(tmp_path: Path) -> None:
    arguments = ["quickstart", "--out", str(OUT), "--set", "pretrain.tokens=2e6", "ppo.seed=3", "--set=ppo.gamma=0.9"]
    expected = recipe_of(parse("run", RunConfig, arguments)[0])
    (tmp_path / "config.yaml").write_text("set: {pretrain.tokens: 2e6, ppo.seed: 3, ppo.gamma: 0.9}\n")
    values = read_yaml(tmp_path / "config.yaml") | {"recipe": "quickstart", "out": OUT}
    assert recipe_of(validated(RunConfig, values, "here")) == expected
    mapping = {"pretrain.tokens": 2_000_000, "ppo.seed": "3", "ppo.gamma": 0.9}
    assert recipe_of(RunConfig(recipe="quickstart", out=OUT, set=mapping)) == expected


def fields_of(stage: str) -> list[ConfigField]:
    owned = {"out", "environment", "algorithm"}
    return [field for field in config_fields(config_class(stage)) if field.name not in owned]


@pytest.mark.parametrize("stage", STAGES)
def test_any_value_is_the_same_as_an_option_and_as_an_override(stage: str, tmp_path: Path) -> None:
    """5.1: every field of every stage, several values each; what the stage refuses is refused both ways."""
    cls, checked = config_class(stage), 0
    needed = {"evaluate": ("models", "tasks"), "reward": ("labels",)}.get(stage, ())
    also = (*needed, *(["model"] if stage == "reward" else []))
    required = {f.name: f"{f.name}-1" for f in config_fields(cls) if f.required or f.name in also}
    recipe = tmp_path / "recipe.yaml"
    body = ", ".join(
        f"{name}: {[value] if name in needed else value}" for name, value in required.items() if name != "out"
    )
    recipe.write_text(f"stages: [{{name: one.two, stage: {stage}, config: {{{body}}}}}]")
    for field in fields_of(stage):
        random_ = random.Random(field.name)
        for _ in range(3):
            value = value_of(field.kind, random_)
            if value is None:
                continue
            texts = typed(field.kind, value)
            options = [*(f"--{name}={text}" for name, text in required.items() if name != field.name), "--out=x"]
            options = [each for each in options if not each.startswith("--out=out-1")]
            given = [*options, *(f"--{field.name}={text}" for text in texts)]
            by_option = outcome(partial(parse, stage, cls, given))
            overrides = [f"one.two.{field.name}={text}" for text in texts]
            by_recipe = outcome(partial(load_recipe, str(recipe), tmp_path, 0, None, overrides=overrides))
            if by_option is not None and by_recipe is not None:
                checked += 1
                one, other = by_option[0], by_recipe.steps[0].config
                assert one.model_dump(exclude={"out"}) == other.model_dump(exclude={"out"})
            assert (by_option is None) == (by_recipe is None), (field.name, value)
            assert by_option is None or read(field.kind, value) is not None
    assert checked > 10


def outcome(make: Any) -> Any:
    try:
        return make()
    except TrineError:
        return None


def test_what_a_step_is_given_names_no_folder_outside(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    for name in ("../x", "a/b", "..", "."):
        recipe.write_text(f"stages: [{{name: {name}, stage: tokenizer}}]")
        with pytest.raises(TrineError, match="leave out slashes"):
            load_recipe(str(recipe), OUT, 0, None)
