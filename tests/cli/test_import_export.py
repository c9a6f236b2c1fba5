"""`trine import` and `trine export` through the command line."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny import random_ids, tiny_model, tiny_tokenizer
from trine.catalog.loading import OpenedModel, open_hardware, open_language_model
from trine.cli.main import main
from trine.config.base import HardwareConfig
from trine.model.folder import save_model
from trine.model.gguf.container import read_container


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder with a model in it."""
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    save_model(tiny_model("llama", vocab_size=320), folder, eos_token_id=[3, 0], pad_token_id=1)
    tiny_tokenizer().save(folder)
    return folder.parent


def opened(place: Path) -> OpenedModel:
    return open_language_model(place, open_hardware(HardwareConfig(device="cpu", precision="fp32", threads=1)))


def assert_same(first: OpenedModel, second: OpenedModel) -> None:
    assert first.model.config == second.model.config
    for name, parameter in first.model.named_parameters():
        assert torch.equal(parameter, second.model.get_parameter(name))
    assert first.tokenizer.encode("it's  12\n") == second.tokenizer.encode("it's  12\n")
    assert set(first.generation.eos_token_ids) == set(second.generation.eos_token_ids)
    assert first.generation.pad_token_id == second.generation.pad_token_id
    assert first.tokenizer.chat_template == second.tokenizer.chat_template


def test_a_model_goes_out_as_gguf_and_comes_in_again_bit_for_bit(run_folder: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "out.gguf", tmp_path / "in"
    assert main(["export", str(run_folder), "--to", "gguf", "--out", str(file)]) == 0
    assert main(["import", str(file), "--out", str(folder)]) == 0
    assert_same(opened(run_folder), opened(folder))


def test_what_the_makers_say_about_generating_comes_along(run_folder: Path, tmp_path: Path) -> None:
    """4.6: the ids of BOS, EOS and padding, stop strings and the length of an answer; none where there was none."""
    said = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1, "stop_strings": ["User:"], "max_new_tokens": 99}
    (run_folder / "model" / "generation_config.json").write_text(json.dumps(said))
    assert main(["import", str(run_folder), "--out", str(tmp_path / "in")]) == 0
    assert json.loads((tmp_path / "in" / "generation_config.json").read_text()) == said
    config = json.loads((tmp_path / "in" / "config.json").read_text())
    assert {key: config[key] for key in said if key.endswith("_id")} == {
        k: v for k, v in said.items() if k[-3:] == "_id"
    }
    (run_folder / "model" / "generation_config.json").write_text('{"eos_token_id": 3}')
    assert main(["import", str(run_folder), "--out", str(tmp_path / "other")]) == 0
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (None, 3, None)


def test_what_was_imported_is_described(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(run_folder), "--out", str(tmp_path / "in")]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["family"] == "llama"
    assert rows["parameters"].endswith("M")
    assert rows["dtype"] == "float32"
    assert rows["tokenizer"].startswith("320 entries, byte-level BPE")
    assert rows["template"] == "chat template of its own"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@torch.no_grad()
def test_transformers_opens_what_is_exported_to_hf(dtype: str, run_folder: Path, tmp_path: Path) -> None:
    out, ids = tmp_path / "out", random_ids(2, 9, vocab_size=320)
    assert main(["export", str(run_folder), "--to", "hf", "--out", str(out), "--dtype", dtype]) == 0
    theirs, ours = AutoModelForCausalLM.from_pretrained(out), opened(out)
    assert theirs.dtype == getattr(torch, dtype)
    assert ours.dtype == dtype
    logits = ours.model(ids) @ ours.model.output_weight.T
    assert_close(theirs.float()(ids).logits, logits, atol=1e-4, rtol=0)
    assert AutoTokenizer.from_pretrained(out).encode("it's 12") == tiny_tokenizer().encode("it's 12")
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [3, 0]


def test_a_half_precision_model_keeps_its_dtype_on_import(run_folder: Path, tmp_path: Path) -> None:
    assert main(["export", str(run_folder), "--out", str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    assert main(["import", str(tmp_path / "half"), "--out", str(tmp_path / "in")]) == 0
    assert_same(opened(tmp_path / "half"), opened(tmp_path / "in"))
    assert opened(tmp_path / "in").dtype == "bfloat16"


def test_q8_0_is_for_gguf(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.gguf"
    assert main(["export", str(run_folder), "--to", "gguf", "--out", str(out), "--dtype", "q8_0"]) == 0
    assert read_container(out).tensors["blk.0.attn_q.weight"].type.name == "Q8_0"
    assert main(["export", str(run_folder), "--to", "hf", "--out", str(tmp_path / "out"), "--dtype", "q8_0"]) == 2
    assert "--dtype q8_0 is a form of GGUF" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_is_replaced_unasked_and_nothing_but_models_ever(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    arguments = ["import", str(run_folder), "--out"]
    assert main([*arguments, str(out)]) == 0
    assert main([*arguments, str(out)]) == 2
    assert "exists; name another place, or add --overwrite true" in capsys.readouterr().err
    assert main([*arguments, str(out), "--overwrite", "true"]) == 0
    mine.mkdir()
    (mine / "diary.txt").write_text("mine")
    assert main([*arguments, str(mine), "--overwrite", "true"]) == 2
    assert (mine / "diary.txt").read_text() == "mine"


def test_a_damaged_file_is_named_and_writes_nothing(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.gguf"
    assert main(["export", str(run_folder), "--to", "gguf", "--out", str(file)]) == 0
    file.write_bytes(file.read_bytes()[:-100])
    assert main(["import", str(file), "--out", str(tmp_path / "in")]) == 2
    assert f"{file}: tensor" in capsys.readouterr().err
    assert not (tmp_path / "in").exists()


def test_names_and_forms_have_to_agree(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run_folder), "--to", "gguf", "--out", str(tmp_path / "folder")]) == 2
    assert main(["export", str(run_folder), "--to", "hf", "--out", str(tmp_path / "file.gguf")]) == 2
    assert capsys.readouterr().err.count("name a file that ends in .gguf with --to gguf") == 2
