"""generation_config.json: read from others, written for others, and tolerant of what it does not know."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from tests.tiny import make_likely, random_ids, tiny_model
from trine.model.folder import save_model
from trine.model.generation_config import GenerationDefaults, read_generation_defaults, write_generation_defaults
from trine.runtime.errors import TrineError

QWEN = GenerationDefaults(
    eos_token_ids=(151645, 151643), bos_token_id=151643, pad_token_id=151643, temperature=0.6, top_k=20, top_p=0.95,
    min_p=0.0, repetition_penalty=1.1, do_sample=True, max_new_tokens=256, stop_strings=("User:", "\n\n"),
)  # fmt: skip


def write(folder: Path, name: str = "generation_config.json", **described: Any) -> None:
    (folder / name).write_text(json.dumps(described))


@pytest.mark.parametrize("defaults", [QWEN, GenerationDefaults(), GenerationDefaults((7,), temperature=0.2)])
def test_defaults_survive_the_way_there_and_back(defaults: GenerationDefaults, tmp_path: Path) -> None:
    write_generation_defaults(tmp_path, defaults)
    assert read_generation_defaults(tmp_path) == defaults


def test_transformers_reads_what_we_write(tmp_path: Path) -> None:
    write_generation_defaults(tmp_path, QWEN)
    theirs = GenerationConfig.from_pretrained(tmp_path)
    assert theirs.eos_token_id == [151645, 151643]
    assert (theirs.temperature, theirs.top_k, theirs.top_p, theirs.repetition_penalty) == (0.6, 20, 0.95, 1.1)
    assert theirs.do_sample is True
    assert (theirs.max_new_tokens, theirs.stop_strings) == (256, ["User:", "\n\n"])


def test_we_read_what_transformers_writes(tmp_path: Path) -> None:
    GenerationConfig(eos_token_id=5, pad_token_id=6, temperature=0.7, do_sample=True).save_pretrained(tmp_path)
    expected = GenerationDefaults((5,), pad_token_id=6, temperature=0.7, do_sample=True)
    assert read_generation_defaults(tmp_path) == expected


def test_keys_that_are_not_known_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, eos_token_id=2, num_beams=4, max_length=4096, transformers_version="4.31.0", something_new=[1])
    assert read_generation_defaults(tmp_path) == GenerationDefaults((2,))


def test_without_the_file_the_special_tokens_of_config_json_count_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, "config.json", eos_token_id=[3, 4], bos_token_id=1, pad_token_id=-1, temperature=0.1)
    assert read_generation_defaults(tmp_path) == GenerationDefaults((3, 4), bos_token_id=1)
    write(tmp_path, eos_token_id=9)
    assert read_generation_defaults(tmp_path) == GenerationDefaults((9,))


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", "hot"), ("top_k", 2.5), ("top_p", -0.1), ("do_sample", 1), ("eos_token_id", ["</s>"]),
     ("pad_token_id", True), ("min_p", float("nan")), ("max_new_tokens", 0), ("max_new_tokens", "many"),
     ("stop_strings", [""]), ("stop_strings", 5), ("stop_strings", ["a", 1]), ("eos_token_id", "<|im_end|>")],
)  # fmt: skip
def test_a_known_key_without_sense_is_refused_by_name(key: str, value: Any, tmp_path: Path) -> None:
    write(tmp_path, **{key: value})
    with pytest.raises(TrineError, match=rf"generation_config.json: {key}=.* is invalid"):
        read_generation_defaults(tmp_path)


def test_one_stop_string_may_stand_without_a_list(tmp_path: Path) -> None:
    """4.6: as transformers takes it."""
    write(tmp_path, stop_strings="User:")
    assert read_generation_defaults(tmp_path).stop_strings == ("User:",)


@torch.no_grad()
def test_generate_of_transformers_stops_where_our_folder_says(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    make_likely(model, 11, 40.0)
    save_model(model, tmp_path, eos_token_id=[3, 11], pad_token_id=1)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    text = theirs.generate(random_ids(1, 5), max_new_tokens=8, do_sample=False)
    assert text[0, 5:].tolist() == [11]


def test_a_model_saved_without_tokens_has_no_such_file(tmp_path: Path) -> None:
    save_model(tiny_model("gpt2"), tmp_path)
    assert not (tmp_path / "generation_config.json").exists()
