"""Every key and stage that was renamed is refused by its old name, and the error names the new one: in YAML, as an
option, in a recipe."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from trine.cli.arguments import parse
from trine.cli.main import main
from trine.config.loading import validated, with_override
from trine.config.registry import STAGES, config_class
from trine.config.renamed import RENAMED, new_name
from trine.pipeline.recipes import load_recipe
from trine.runtime.errors import TrineError

# stage -> {dotted key that was: the name it has today}
LOOP = {"loop.largest_skips": "max_skips"}
CORPUS = {"corpus.largest_broken_share": "max_broken_share"}
CLIPPING = {
    "lam": "gae_lambda",
    "clip": "clip_range",
    "dual_clip": "dual_clip_range",
    "value_clip": "value_clip_range",
}
OLD: dict[str, dict[str, str]] = {
    "tokenizer": {"largest_bytes": "max_bytes"} | CORPUS,
    "shards": CORPUS,
    "pretrain": {"cutting": "packing", "batch_rows": "batch_size", "micro_batch_rows": "micro_batch_size"}
    | CORPUS
    | LOOP,
    "functions": {
        "prompt_tokens": "max_prompt_tokens",
        "response_tokens": "max_response_tokens",
        "smallest_response_tokens": "min_response_tokens",
        "judge_share": "held_out_reward_share",
    }
    | CORPUS,
    "finetune": {"batch_rows": "batch_size", "micro_batch_rows": "micro_batch_size"} | LOOP,
    "preferences": {"largest_prompts": "max_prompts", "response_tokens": "max_new_tokens"},
    "reward": {"comparisons": "preferences", "batch_pairs": "batch_size", "micro_batch_pairs": "micro_batch_size"}
    | LOOP,
    "ppo": {
        "batch_prompts": "batch_size",
        "minibatch_prompts": "minibatch_size",
        "micro_batch_prompts": "micro_batch_size",
        "response_tokens": "max_new_tokens",
        "length_penalty": "missing_eos_penalty",
        "length_score": "missing_eos_score",
        "kl.least": "min_coefficient",
    }
    | CLIPPING
    | LOOP,
    "evaluate": {"judge": "held_out_reward", "response_tokens": "max_new_tokens"},
    "control": CLIPPING | LOOP,
}
CASES = [(stage, old, new) for stage, keys in OLD.items() for old, new in keys.items()]
OLD_STAGES = {"compare": "preferences"}


def nested(key: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    with_override(values, key, 1)
    return values


def recipe(folder: Path, stage: str, **entry: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"stages": [{"stage": stage} | entry]}))
    return path


def test_the_cases_are_the_whole_table() -> None:
    assert {old.split(".")[-1] for _, old, _ in CASES} | set(OLD_STAGES) == set(RENAMED)
    assert {new for _, _, new in CASES} | set(OLD_STAGES.values()) == {
        new for names in RENAMED.values() for new in names
    }


@pytest.mark.parametrize("stage, old, new", CASES)
def test_an_old_key_is_refused_with_its_new_name(stage: str, old: str, new: str) -> None:
    with pytest.raises(TrineError, match=f"unknown key '{old}'; it is now '{new}'"):
        validated(config_class(stage), nested(old), "here")


@pytest.mark.parametrize("stage, old, new", CASES)
def test_an_old_option_is_refused_with_its_new_name(stage: str, old: str, new: str) -> None:
    dotted = ".".join((*old.split(".")[:-1], new))
    for option in (old, old.replace("_", "-")):
        with pytest.raises(TrineError, match=f"unknown option --{option}; it is now '{dotted}'"):
            parse(stage, config_class(stage), [f"--{option}", "1"])


@pytest.mark.parametrize("stage, old, new", CASES)
def test_a_recipe_with_an_old_key_is_refused_with_its_new_name(tmp_path: Path, stage: str, old: str, new: str) -> None:
    path = recipe(tmp_path, stage, config=nested(old))
    with pytest.raises(TrineError, match=rf"stage 1 \({stage}\): unknown key '{old}'; it is now '{new}'"):
        load_recipe(str(path), tmp_path, seed=0, minutes=None)


def test_a_recipe_that_scales_an_old_key_is_refused_with_its_new_name(tmp_path: Path) -> None:
    path = recipe(tmp_path, "preferences", scale=["largest_prompts"], config={"max_prompts": 3})
    with pytest.raises(TrineError, match="does not set; it is now 'max_prompts'"):
        load_recipe(str(path), tmp_path, seed=0, minutes=None)


@pytest.mark.parametrize("old, new", OLD_STAGES.items())
def test_an_old_stage_is_refused_with_its_new_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    with pytest.raises(TrineError, match=f"stage '{old}' is unknown; it is now '{new}'"):
        load_recipe(str(recipe(tmp_path, old)), tmp_path, seed=0, minutes=None)
    assert main([old, "--help"]) == 2
    assert f"unknown command '{old}'; it is now '{new}'" in capsys.readouterr().err


@pytest.mark.parametrize("stage", STAGES)
def test_no_old_name_is_a_key_of_today(stage: str) -> None:
    names = set(config_class(stage).model_fields)
    assert all(new_name(name, names) is None for name in names)
    assert not set(RENAMED) & names
