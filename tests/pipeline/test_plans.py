"""A plan is fixed by its name; which one is followed depends on the machine, and on how the folder was begun."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import PLAIN_CPU, SHAPE, Command, pretrain_config
from trine.config.corpus import CorpusConfig
from trine.config.rl import PpoConfig
from trine.config.stage import Stage
from trine.config.use import QuickstartConfig, RunConfig
from trine.model.config import qwen3_config
from trine.pipeline import plans, runner
from trine.pipeline.plans import Choice, choose_plan
from trine.pipeline.recipe_file import read_recipe_file, recipe_text
from trine.pipeline.recipes import load_recipe
from trine.pipeline.speeds import Speeds, measured_speeds
from trine.pipeline.work import Work, seconds_of, work_of
from trine.report.run_reader import read_recipe_run
from trine.runtime.device import choose_hardware
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, write_json

OUT = Path("runs/here")
PLANS = ("small", "medium", "large")
# About: two cores with AVX512-BF16.
SPEEDS = Speeds(training=6000, sampling=4000, parsing=60)
Speed = Callable[[float], None]


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Speed:
    """Set how many times as fast as `SPEEDS` this machine is."""

    def set_speed(factor: float) -> None:
        monkeypatch.setattr(plans, "measured_speeds", lambda shape, *rest: speeds_of(shape.layers, factor))

    return set_speed


def choose(out: Path = OUT, **asked: Any) -> Choice:
    return choose_plan(RunConfig(recipe="quickstart", out=out, **asked), choose_hardware("cpu", "fp32", 1))


def speeds_of(layers: int, factor: float) -> Speeds:
    """A model of four layers is twice as fast as one of six."""
    of_model = factor * (2 if layers == 4 else 1)
    return Speeds(of_model * SPEEDS.training, of_model * SPEEDS.sampling, factor * SPEEDS.parsing)


def seconds(plan: str) -> float:
    """How long it takes where speed is 1."""
    steps = load_recipe("quickstart", OUT, 0, None, plan=plan).steps
    return seconds_of([step.config for step in steps], speeds_of(6 if plan == "large" else 4, 1.0))


# The plans


def test_the_quickstart_has_three_plans_each_larger_than_the_one_before() -> None:
    assert tuple(read_recipe_file("quickstart")[0].plans) == PLANS
    small, medium, large = map(seconds, PLANS)
    assert 1.3 * small < medium < large / 1.3


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_is_fixed_by_its_name_whatever_the_minutes(plan: str) -> None:
    one, other = (load_recipe("quickstart", OUT, 0, minutes, plan=plan) for minutes in (None, 3.0))
    assert one == other and one.plan == plan


def test_what_is_set_goes_on_top_of_a_plan() -> None:
    recipe = load_recipe("quickstart", OUT, 0, None, overrides=["ppo.iterations=3"], plan="large")
    plain = load_recipe("quickstart", OUT, 0, None, plan="large")
    changed = [step for step, other in zip(recipe.steps, plain.steps, strict=True) if step != other]
    assert [step.name for step in changed] == ["ppo"]
    assert isinstance(changed[0].config, PpoConfig) and changed[0].config.iterations == 3


def test_a_mistake_in_a_plan_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for key, message in (("tokenizr.seed", "has no step 'tokenizr'"), ("tokenizer.vocab", "unknown key 'vocab'")):
        path.write_text(f"plans: {{a: {{machine: m, set: {{{key}: 1}}}}}}\nstages: [{{stage: tokenizer}}]")
        with pytest.raises(TrineError, match=f"plan a {key}: .*{message}"):
            load_recipe(str(path), OUT, 0, None, plan="a")


# Which one


@pytest.mark.parametrize("factor, plan", [(0.2, "small"), (1.0, "medium"), (10.0, "large")])
def test_the_largest_that_takes_about_ten_minutes_is_chosen(speed: Speed, factor: float, plan: str) -> None:
    speed(factor * seconds("medium") / 600)
    choice = choose()
    assert choice.plan == plan
    assert choice.seconds == pytest.approx(seconds(plan) * 600 / (factor * seconds("medium")))


def test_minutes_are_minutes_here(speed: Speed) -> None:
    speed(1.0)
    for plan in PLANS:
        assert choose(minutes=seconds(plan) / 60).plan == plan
    assert choose(minutes=0.8 * seconds("medium") / 60).plan == "small"


def test_too_few_minutes_are_refused_with_the_smallest_plan_and_its_time(speed: Speed) -> None:
    speed(seconds("small") / 240)
    with pytest.raises(TrineError, match=r"--minutes 1: no plan .* the smallest, small, takes about 4 minutes"):
        choose(minutes=1)


def test_the_smallest_is_taken_where_nobody_asked_for_minutes_and_none_fits(speed: Speed) -> None:
    speed(seconds("small") / 1800)
    assert choose().plan == "small" and choose().seconds == pytest.approx(1800)


def test_it_is_said_which_what_the_others_take_and_that_a_larger_one_starts_from_nothing(speed: Speed) -> None:
    speed(seconds("small") / 600)
    lines = choose().lines
    assert lines[0].startswith("→ plan small ") and "about 10 minutes, meant for two cores with AVX2" in lines[0]
    assert [line.split()[1] for line in lines[1:3]] == ["medium", "large"] and "about " in lines[2]
    assert "starts from nothing" in lines[3] and "--plan medium" in lines[3]
    assert not any("starts from nothing" in line for line in choose(plan="large").lines)


def test_a_plan_that_is_asked_for_is_followed_however_long_it_takes(speed: Speed) -> None:
    speed(0.01)
    assert choose(plan="large").plan == "large"


def test_a_plan_that_does_not_exist_is_refused(speed: Speed, tmp_path: Path) -> None:
    speed(1.0)
    with pytest.raises(TrineError, match=r"plan 'smal' is none of small, medium, large; did you mean 'small'\?"):
        choose(plan="smal")
    (tmp_path / "plain.yaml").write_text("stages: [{stage: tokenizer}]")
    with pytest.raises(TrineError, match=r"plain\.yaml has no plans; leave --plan out"):
        choose_plan(
            RunConfig(recipe=str(tmp_path / "plain.yaml"), out=OUT, plan="small"), choose_hardware("cpu", "fp32", 1)
        )


def test_a_folder_keeps_its_plan_and_nothing_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "measured_speeds", lambda *shape: pytest.fail("measured"))
    write_json(tmp_path / "recipe.json", {"plan": "medium", "stages": []})
    for asked in ({}, {"plan": "medium"}, {"minutes": 1}):
        assert choose(tmp_path, **asked).plan == "medium"


def test_a_folder_that_is_started_over_has_the_new_plan_at_once(
    tmp_path: Path, speed: Speed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its first stage, it is the new plan that goes on."""
    speed(1.0)
    out = tmp_path / "out"
    write_json(out / "recipe.json", {"plan": "small", "stages": []})
    monkeypatch.setattr(Stage, "run_function", lambda stage: lambda config: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        runner.run(RunConfig(recipe="quickstart", out=out, plan="large", overwrite=True, hardware=PLAIN_CPU))
    assert read_json(out / "recipe.json")["plan"] == "large"


def test_another_plan_in_the_same_folder_needs_overwrite(tmp_path: Path, speed: Speed) -> None:
    speed(1.0)
    write_json(tmp_path / "recipe.json", {"plan": "small", "stages": []})
    with pytest.raises(TrineError, match="begun with plan small, and plan large starts from nothing"):
        choose(tmp_path, plan="large")
    assert choose(tmp_path, plan="large", overwrite=True).plan == "large"


# How long


def test_work_grows_with_the_counts() -> None:
    steps = {step.name: step.config for step in load_recipe("quickstart", OUT, 0, None, plan="medium").steps}
    for name, field in (("pretrain", "tokens"), ("ppo", "iterations"), ("finetune", "epochs")):
        twice = steps[name].model_copy(update={field: 2 * getattr(steps[name], field)})
        once, double = work_of(steps[name], {}), work_of(twice, {})
        assert 1.8 * once.trained < double.trained <= 2 * once.trained
    made = {steps["preferences"].out: steps["preferences"]}
    assert work_of(steps["reward"], made).trained > work_of(steps["reward"], {}).trained / 2 > 0


def test_seconds_are_work_over_speed() -> None:
    assert Work(trained=100, sampled=30, parsed=4).seconds(Speeds(50, 10, 2)) == 2 + 3 + 2


def test_speeds_are_measured_on_the_model_itself(tmp_path: Path) -> None:
    shape = qwen3_config(64, SHAPE.context, SHAPE.layers, SHAPE.width, SHAPE.heads)
    config = pretrain_config(tmp_path, CorpusConfig(), tmp_path)
    speeds = measured_speeds(shape, config, choose_hardware("cpu", "fp32", 1), seconds=0.0)
    assert min(speeds.training, speeds.sampling, speeds.parsing) > 1


# The whole of it, in miniature


def miniature(tmp_path: Path, corpus_folder: Path) -> Path:
    """The quickstart's recipe on a corpus of two dozen modules, its smallest plan with counts of seconds."""
    described = yaml.safe_load(recipe_text("quickstart"))
    for entry in described["stages"]:
        if "corpus" in entry["config"]:
            entry["config"]["corpus"] = {"folders": [str(corpus_folder)], "held_out_share": 0.25}
    counts = {
        "tokenizer.vocab_size": 320, "pretrain.model": SHAPE.model_dump(), "pretrain.tokens": 15_360,
        "pretrain.row_tokens": 64, "pretrain.batch_size": 4, "pretrain.micro_batch_size": 4,
        "pretrain.loop.evaluate_every": 0, "finetune.epochs": 4, "finetune.row_tokens": 128,
        "ppo.iterations": 2, "ppo.batch_size": 8, "ppo.minibatch_size": 4, "ppo.micro_batch_size": 4,
        "ppo.max_new_tokens": 16, "evaluate.max_new_tokens": 16,
    }  # fmt: skip
    for name in ("preferences", "held_out_preferences"):
        counts |= {f"{name}.max_prompts": 24, f"{name}.max_new_tokens": 48}
    for name in ("reward", "held_out_reward"):
        counts |= {f"{name}.max_new_tokens": 16, f"{name}.normalization_samples": 64}
    shape = counts.pop("pretrain.model")
    counts |= {f"pretrain.model.{key}": value for key, value in shape.items()}  # type: ignore[union-attr]
    described["plans"]["small"]["set"] = counts
    path = tmp_path / "miniature.yaml"
    path.write_text(yaml.safe_dump(described, sort_keys=False))
    return path


def test_the_smallest_plan_runs_to_its_report_and_then_keeps_the_folder(
    tmp_path: Path, corpus_folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = miniature(tmp_path, corpus_folder), tmp_path / "out"
    arguments = ["run", recipe, "--out", out, "--hardware.device", "cpu", "--hardware.precision", "fp32"]
    monkeypatch.setattr(plans, "measured_speeds", lambda *shape: SPEEDS)
    code, _, words = command(*arguments, "--plan", "small", "--hardware.threads", "1")
    assert code == 0, words
    assert "→ plan small" in words
    assert read_recipe_run(out).plan == "small" and (out / "report.html").exists()
    described = read_json(out / "recipe.json")
    assert described["plan"] == "small" and len(described["stages"]) == 10
    monkeypatch.setattr(plans, "measured_speeds", lambda *shape: pytest.fail("measured"))
    code, _, words = command(*arguments, "--hardware.threads", "1")
    assert code == 0 and words.count("finished before") == 10
    assert "plan small, as" in words
    assert "starts from nothing" in command(*arguments, "--plan", "large")[2]


def test_the_command_quickstart_passes_on_plan_and_minutes() -> None:
    asked = QuickstartConfig(plan="small", minutes=3, hardware=PLAIN_CPU)
    assert RunConfig(recipe="quickstart", **asked.model_dump()).plan == "small"
    assert QuickstartConfig().minutes is None
