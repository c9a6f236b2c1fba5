"""Every field of every stage says what another value of it means to a run that is there; and it means that."""

from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest

from trine.config.base import StageConfig
from trine.config.best_of_n import BestOfNConfig
from trine.config.control import ControlConfig
from trine.config.corpus import SourceConfig
from trine.config.dpo import DpoConfig
from trine.config.evaluation import EvaluateConfig
from trine.config.fields import is_name
from trine.config.finetuning import FinetuneConfig
from trine.config.groups import GrpoConfig, ReinforcePlusPlusConfig, RlooConfig
from trine.config.loading import read_config_file
from trine.config.preferences import PreferencesConfig, RewardConfig
from trine.config.preview import PreviewConfig
from trine.config.reasoning import ReasoningConfig
from trine.config.registry import STAGES, config_class
from trine.config.resumption import Resumption, resumptions, settings_of, with_inputs
from trine.config.rl import PpoConfig
from trine.config.split import SplitConfig
from trine.config.text import FunctionsConfig, PretrainConfig, ShardsConfig, TokenizerConfig
from trine.config.values import kind_of
from trine.training.run_record import Change, changes, record_of

CORPUS = {"sources": [{"folder": "texts"}]}
CONFIGS: dict[str, StageConfig] = {
    "tokenizer": TokenizerConfig(out="run", corpus=CORPUS),
    "shards": ShardsConfig(out="run", corpus=CORPUS, tokenizer="t"),
    "pretrain": PretrainConfig(out="run", corpus=CORPUS, tokenizer="t", epochs=1.5, depth=2, row_tokens=64),
    "functions": FunctionsConfig(out="run", corpus=CORPUS, tokenizer="t"),
    "finetune": FinetuneConfig(
        out="run", model="m", examples="e", held_out="h", adapter="a", task="classify", compare_with="c"
    ),
    "preferences": PreferencesConfig(out="run", model="m", examples="e", held_out="h", adapter="a"),
    "reward": RewardConfig(out="run", model="m", preferences="p", held_out="h", adapter="a", reference="r"),
    "preview": PreviewConfig(out="run", model="m", adapter="a", reward="r", other="o", prompts="p"),
    "reasoning": ReasoningConfig(out="run", tasks=("leg_counting",)),
    "split": SplitConfig(out="run", records="r"),
    "ppo": PpoConfig(out="run", model="m", prompts="p", reward="r", adapter="a", held_out_reward="h"),
    "grpo": GrpoConfig(out="run", model="m", prompts="p", reward="r", adapter="a", held_out_reward="h"),
    "rloo": RlooConfig(out="run", model="m", prompts="p", reward="r", adapter="a", held_out_reward="h"),
    "reinforce++": ReinforcePlusPlusConfig(
        out="run", model="m", prompts="p", reward="r", adapter="a", held_out_reward="h"
    ),
    "dpo": DpoConfig(out="run", model="m", preferences="p", held_out="h", adapter="a"),
    "best_of_n": BestOfNConfig(out="run", model="m", prompts="p", reward="r", adapter="a"),
    "control": ControlConfig(out="run", environment="CartPole-v1"),
    "evaluate": EvaluateConfig(
        out="run", before="b", after="a", base="c", reward="r", held_out_reward="h", prompts="p"
    ),
}  # fmt: skip

OF_EVERY_STAGE = {"out": "MAY_CHANGE", "overwrite": "MAY_CHANGE", "hardware.device": "CHANGES_BITS",
                  "hardware.threads": "CHANGES_BITS"}  # fmt: skip
OF_A_CORPUS = {
    "corpus.folders": "BY_CONTENT", "corpus.sources.*.folder": "BY_CONTENT", "corpus.sources.*.dataset": "BY_CONTENT",
    "corpus.sources.*.streaming": "MAY_CHANGE", "corpus.max_broken_share": "MAY_CHANGE",
}  # fmt: skip
OF_A_LOOP = dict.fromkeys(
    (f"loop.{name}" for name in (
        "evaluate_every", "save_every", "keep_checkpoints", "keep_last", "on_bad_step", "max_skips", "spike_window",
        "spike_loss_factor", "spike_norm_factor", "trackers",
    )), "MAY_CHANGE",
)  # fmt: skip
OF_PPO = (
    OF_A_LOOP
    | dict.fromkeys(
        ("model", "adapter", "reference", "prompts", "user", "reward", "critic_model", "held_out", "held_out_reward"),
        "BY_CONTENT",
    )
    | dict.fromkeys(
        (
            "held_out_every",
            "held_out_size",
            "keep_best",
            "best_max_kl",
            "samples_every",
            "sample_count",
            "show",
            "recompute_blocks",
        ),
        "MAY_CHANGE",
    )
    | dict.fromkeys(("micro_batch_size", "parallel", "reward_overlap"), "CHANGES_BITS")
    | {"iterations": "EXTENDS"}
)
# What is not listed is identity: another value is another run.
KINDS: dict[str, dict[str, str]] = {
    "tokenizer": OF_A_CORPUS,
    "shards": OF_A_CORPUS | {"tokenizer": "BY_CONTENT"},
    "pretrain": OF_A_CORPUS | OF_A_LOOP | {
        "tokenizer": "BY_CONTENT", "shards": "BY_CONTENT", "tokens": "EXTENDS", "epochs": "EXTENDS",
        "depth": "MAY_CHANGE", "tokens_per_parameter": "MAY_CHANGE", "micro_batch_size": "CHANGES_BITS",
        "evaluation_tokens": "MAY_CHANGE", "recompute_blocks": "MAY_CHANGE", "compile": "CHANGES_BITS",
        "parallel": "CHANGES_BITS", "sample_prompts": "MAY_CHANGE", "sample_tokens": "MAY_CHANGE",
        "push_to_hub": "MAY_CHANGE", "push_private": "MAY_CHANGE",
    },
    "functions": OF_A_CORPUS | {"tokenizer": "BY_CONTENT"},
    "finetune": OF_A_LOOP | dict.fromkeys(("evaluate_tasks", "task_data", "keep_best"), "MAY_CHANGE") | {
        **dict.fromkeys(
            ("model", "adapter", "examples", "held_out", "chat_template", "compare_with"), "BY_CONTENT"
        ),
        "epochs": "EXTENDS", "micro_batch_size": "CHANGES_BITS", "parallel": "CHANGES_BITS", "show": "MAY_CHANGE",
    },
    "preferences": dict.fromkeys(("model", "adapter", "examples", "held_out"), "BY_CONTENT") | {"rows": "CHANGES_BITS"},
    "reward": OF_A_LOOP | dict.fromkeys(
        ("model", "adapter", "labels", "scores", "pairs", "rankings", "judgements", "preferences", "held_out",
         "reference", "other"),
        "BY_CONTENT",
    ) | {"epochs": "EXTENDS", "micro_batch_size": "CHANGES_BITS"},
    "preview": dict.fromkeys(("model", "adapter", "reward", "other", "prompts"), "BY_CONTENT")
    | {"rows": "CHANGES_BITS"},
    "reasoning": {},
    "split": {"records": "BY_CONTENT"},
    **dict.fromkeys(("ppo", "grpo", "rloo", "reinforce++"), OF_PPO),
    "dpo": OF_A_LOOP | dict.fromkeys(("model", "adapter", "preferences", "held_out"), "BY_CONTENT") | {
        "epochs": "EXTENDS", "micro_batch_size": "CHANGES_BITS", "share_prompt": "CHANGES_BITS",
        "parallel": "CHANGES_BITS",
    },
    "best_of_n": dict.fromkeys(("model", "adapter", "prompts", "reward"), "BY_CONTENT") | {"rows": "CHANGES_BITS"},
    "control": OF_A_LOOP | {
        "total_steps": "EXTENDS", "evaluation_episodes": "MAY_CHANGE", "film": "MAY_CHANGE", "resume": "CHANGES_BITS",
    },
    "evaluate": dict.fromkeys(
        ("models", "tasks", "data", "chat", "before", "after", "base", "reward", "held_out_reward", "prompts"),
        "BY_CONTENT",
    ) | {"json": "MAY_CHANGE", "fail_if_worse": "MAY_CHANGE"},
}  # fmt: skip


@pytest.mark.parametrize("stage", CONFIGS)
def test_every_field_has_the_kind_that_is_listed(stage: str) -> None:
    """1.2: a new field has to be thought of here, and its kind in its type."""
    found = {
        key: kind.name for key, kind in resumptions(config_class(stage)).items() if kind is not Resumption.IDENTITY
    }
    assert found == OF_EVERY_STAGE | KINDS[stage]
    assert CONFIGS.keys() == {name for name, each in STAGES.items() if each.config.startswith("trine.")}


@pytest.mark.parametrize("stage", CONFIGS)
def test_what_names_a_place_is_compared_by_content(stage: str) -> None:
    """1.1: no path of an input is compared as a string."""
    for cls in (config_class(stage), SourceConfig):
        for name, field in cls.model_fields.items():
            kind = kind_of(field)
            if name != "out" and (is_name(kind) or "Path" in str(field.annotation)):
                assert resumptions(cls)[name] is Resumption.BY_CONTENT, f"{stage}: {name}"


def another(value: Any, annotation: Any) -> Any:  # noqa: PLR0911
    """Another value of the same type, larger if it is a number."""
    if get_origin(annotation) is Literal:
        return next((choice for choice in get_args(annotation) if choice != value), f"{value}-other")
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}-other"
    if isinstance(value, list):
        return [*value, "other"]
    if isinstance(value, dict):
        return value | {"other": 1.0}
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    number = any(kind in str(kinds) for kind in ("int", "float"))
    return 3 if number else "other"


def with_other(values: dict[str, Any], key: str, other: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values[int(parent)] if isinstance(values, list) else values[parent]
    values[last] = other


def differences(config: StageConfig, key: str, other: Any) -> list[Change]:
    """What a run of `config` finds changed when it is given with another value of one setting."""
    inputs = dict.fromkeys((name for name in type(config).model_fields if name not in ("out", "loop")), "same")
    before = record_of(config, inputs)
    now = record_of(config, inputs)
    with_other(now.config, key, other)
    return changes(before, now, type(config))


@pytest.mark.parametrize("stage", CONFIGS)
def test_each_kind_means_what_it_says(stage: str) -> None:
    """1.1, 1.2: every setting of every stage in turn has another value."""
    config = CONFIGS[stage]
    for key, setting in settings_of(type(config), config.model_dump(mode="json")).items():
        if key == "hardware.precision":
            continue  # the one that was computed in counts: tests/training/test_stage_run.py
        cls: Any = type(config)
        for part in key.split(".")[:-1]:
            if not part.isdecimal():
                cls = next(each for each in _classes(cls.model_fields[part].annotation))
        other = another(setting.value, cls.model_fields[key.split(".")[-1]].annotation)
        found = differences(config, key, other)
        if setting.kind is Resumption.IDENTITY:
            assert [change.key for change in found] == [key] and found[0].refused, key
        elif setting.kind is Resumption.EXTENDS:
            assert [change.refused for change in found] in ([False], [setting.value is None]), key
            smaller = differences(config, key, (setting.value or 1) / 2)
            assert [change.refused for change in smaller] == [True], key
        else:
            assert not any(change.refused for change in found), key
            assert setting.kind is not Resumption.BY_CONTENT or not found, key


def _classes(annotation: Any) -> list[Any]:
    options = [annotation, *get_args(annotation)] if get_origin(annotation) is not Union else get_args(annotation)
    return [each for each in options if hasattr(each, "model_fields")]


def test_a_setting_that_a_later_version_adds_counts_as_its_default() -> None:
    config = CONFIGS["pretrain"]
    before, now = record_of(config, {}), record_of(config, {})
    del before.config["optimizer"]["final_share"]
    assert not [change for change in changes(before, now, PretrainConfig) if change.refused]
    now.config["optimizer"]["final_share"] = 0.5
    assert [change.key for change in changes(before, now, PretrainConfig) if change.refused] == [
        "optimizer.final_share"
    ]


def test_paths_of_inputs_alone_are_changed() -> None:
    values = CONFIGS["pretrain"].model_dump(mode="json")
    found = with_inputs(PretrainConfig, values, str.upper)
    assert found["tokenizer"] == "T" and found["corpus"]["sources"][0]["folder"] == "TEXTS"
    rest = with_inputs(PretrainConfig, found, lambda place: "")
    assert rest == with_inputs(PretrainConfig, values, lambda place: "")


def test_the_config_in_a_run_folder_is_read_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.1: paths there are relative to the folder, which may have been moved."""
    run = tmp_path / "moved" / "run"
    (tmp_path / "moved" / "tokenizer").mkdir(parents=True)
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "config.yaml").write_text("out: .\ntokenizer: ../tokenizer\nshards: null\nseed: 3\n")
    monkeypatch.chdir(tmp_path)
    config = PretrainConfig.model_validate(read_config_file(Path("moved/run/config.yaml"), PretrainConfig))
    assert config.tokenizer.resolve() == tmp_path / "moved" / "tokenizer" and config.out.resolve() == run
    (run / "run.json").unlink()
    assert str(read_config_file(run / "config.yaml", PretrainConfig)["tokenizer"]) == "../tokenizer"


@pytest.mark.parametrize("stage", CONFIGS)
def test_the_config_that_a_run_wrote_is_read_back(stage: str) -> None:
    """config.yaml gives every setting, those too that were left at their defaults."""
    config = CONFIGS[stage]
    assert type(config).model_validate(config.model_dump(mode="json")) == config
