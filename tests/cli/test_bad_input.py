"""Bad input, one by one: exit code 2, a message that names place and remedy, nothing half-written."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.small_corpus import write_corpus
from trine.runtime import files
from trine.runtime.files import read_json

CPU = ("--hardware.device", "cpu", "--hardware.precision", "fp32", "--hardware.threads", "1")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, printed, message = result
    assert code == 2, message
    assert printed == "" and "\nerror: " in "\n" + message and "Traceback" not in message
    assert [word for word in words if word not in message.replace("\n", " ")] == [], message


def tokenizer(folder: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("tokenizer", "--out", out, "--corpus.folders", folder, "--vocab_size", 300, *more)


def test_a_missing_corpus_folder(command: Command, tmp_path: Path, out: Path) -> None:
    refused(command(*tokenizer(tmp_path / "nowhere", out)), f"corpus {tmp_path / 'nowhere'} does not exist")
    assert not out.exists()


def test_an_empty_corpus_folder(command: Command, tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(command(*tokenizer(tmp_path / "empty", out)), f"{tmp_path / 'empty'} has no text", "read are .py")
    assert not out.exists()


def test_no_corpus_at_all(command: Command, out: Path) -> None:
    refused(command("tokenizer", "--out", out), "the corpus is empty: set corpus.folders")
    assert not out.exists()


def test_broken_utf8_above_the_share(command: Command, tmp_path: Path, out: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", 9)
    (folder / "bad.py").write_bytes(b"x = 1\n\xff\n")
    refused(command(*tokenizer(folder, out)), f"{folder / 'bad.py'}:2: not UTF-8", "corpus.max_broken_share")
    assert not (out / "tokenizer.json").exists()
    (folder / "bad.py").write_text("x = 1\n")
    assert command(*tokenizer(folder, out))[0] == 0


def test_broken_utf8_below_the_share(command: Command, tmp_path: Path, out: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", 9)
    (folder / "bad.py").write_bytes(b"x = 1\n\xff\n")
    code, _, message = command(*tokenizer(folder, out, "--corpus.max_broken_share", 0.1))
    assert code == 0, message
    assert (out / "tokenizer.json").exists()
    assert ", 1 broken (" in message and f"{folder / 'bad.py'}:2: not UTF-8" in message
    account = read_json(out / "done.json")["account"]
    assert (account["records"], account["broken"]) == (10, 1)
    assert account["places"][0].startswith(f"{folder / 'bad.py'}:2: not UTF-8")


def test_a_corpus_record_without_its_field(command: Command, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "fine"}\n{"txt": "not fine"}\n')
    refused(command(*tokenizer(path, out)), f"{path}:2: no field 'text'; there are txt")
    assert not (out / "tokenizer.json").exists()


def test_a_distribution_that_is_not_installed(command: Command, out: Path) -> None:
    arguments = ("tokenizer", "--out", out, "--corpus.distributions", "{no-such-thing: 1.0}")
    refused(command(*arguments), "'no-such-thing'", "pip install no-such-thing")


def test_a_vocabulary_too_large_for_the_corpus(command: Command, corpus_folder: Path, out: Path) -> None:
    result = command("tokenizer", "--out", out, "--corpus.folders", corpus_folder, "--vocab_size", 30_000)
    refused(result, "too small for vocab_size=30000", "give more text or a smaller vocabulary")
    assert not (out / "tokenizer.json").exists() and not (out / "done.json").exists()


def test_a_vocabulary_too_small_for_bytes(command: Command, corpus_folder: Path, out: Path) -> None:
    result = command("tokenizer", "--out", out, "--corpus.folders", corpus_folder, "--vocab_size", 100)
    refused(result, "vocab_size=100 is too small", "at least 260")


def test_a_corpus_shorter_than_a_row(command: Command, tmp_path: Path, tokenizer_run: Path, out: Path) -> None:
    (tmp_path / "short.txt").write_text("x = 1\n")
    result = command("pretrain", "--out", out, "--corpus.folders", tmp_path / "short.txt", "--tokenizer", tokenizer_run,
                     "--corpus.held_out_share", 0, *CPU)  # fmt: skip
    refused(result, "fewer than one row of 1024 + 1", "smaller row_tokens")
    assert not (out / "model").exists()


def test_rows_longer_than_the_context(command: Command, corpus_folder: Path, tokenizer_run: Path, out: Path) -> None:
    result = command("pretrain", "--out", out, "--corpus.folders", corpus_folder, "--tokenizer", tokenizer_run,
                     "--model.context", 64, "--row_tokens", 65)  # fmt: skip
    refused(result, "row_tokens=65 is longer than model.context=64")
    assert not out.exists()


def test_an_example_without_its_field(command: Command, tmp_path: Path, pretrain_run: Path, out: Path) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text('{"prompt": "x", "response": "y"}\n{"prompt": "x", "answer": "y"}\n')
    result = command("finetune", "--out", out, "--model", pretrain_run, "--examples", path, "--row_tokens", 64, *CPU)
    refused(result, f"{path}:2: field 'response' must be a string, found None")
    assert not (out / "model").exists()


def test_an_example_longer_than_a_row(command: Command, tmp_path: Path, pretrain_run: Path, out: Path) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text('{"prompt": "x", "response": "y"}\n{"prompt": "x", "response": "' + "word " * 300 + '"}\n')
    result = command("finetune", "--out", out, "--model", pretrain_run, "--examples", path, "--row_tokens", 64, *CPU)
    refused(result, f"{path}:2: the example has", "more than row_tokens=64", "shorten it or raise row_tokens")


def test_a_folder_that_holds_no_model(command: Command, tmp_path: Path, out: Path) -> None:
    refused(
        command("generate", tmp_path, "--prompt", "x"),
        f"{tmp_path} holds no model",
        "name a run, model or adapter folder",
    )


def test_a_prompt_longer_than_the_context(command: Command, pretrain_run: Path) -> None:
    result = command("generate", pretrain_run, "--prompt", "word " * 400, *CPU)
    refused(result, "prompt 0", "tokens", "context", "128")


def test_an_empty_prompt(command: Command, pretrain_run: Path) -> None:
    refused(command("generate", pretrain_run, "--prompt", "", *CPU), "prompt 0 is empty")


@pytest.mark.parametrize("keep", [0, 100, 20_000])
def test_damaged_weights(command: Command, tmp_path: Path, pretrain_run: Path, keep: int) -> None:
    model = shutil.copytree(pretrain_run / "model", tmp_path / "model")
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:keep])
    result = command("generate", model, "--prompt", "x", *CPU)
    words = ("is damaged", "download or create it again") if keep else ("is empty", "download the file again")
    refused(result, str(model / "model.safetensors"), *words)


def test_a_damaged_config_of_a_model(command: Command, tmp_path: Path, pretrain_run: Path) -> None:
    model = shutil.copytree(pretrain_run / "model", tmp_path / "model")
    (model / "config.json").write_text("{")
    refused(command("generate", model, "--prompt", "x", *CPU), f"{model / 'config.json'} is not readable JSON")


def test_a_reward_model_in_place_of_a_language_model(command: Command, reward_run: Path) -> None:
    refused(command("generate", reward_run, "--prompt", "x", *CPU), "holds a reward model", "not a language model")


def test_unknown_keys_on_the_command_line_and_in_yaml(command: Command, tmp_path: Path, out: Path) -> None:
    refused(command("tokenizer", "--out", out, "--vocab_sise", 300), "--vocab_sise", "did you mean 'vocab_size'?")
    (tmp_path / "config.yaml").write_text(f"out: {out}\ncorpus: {{folder: [x]}}\n")
    result = command("tokenizer", "--config", tmp_path / "config.yaml")
    refused(result, f"{tmp_path / 'config.yaml'}: unknown key 'corpus.folder'; did you mean 'folders'?")
    assert not out.exists()


def test_a_wrong_type(command: Command, out: Path) -> None:
    refused(command("tokenizer", "--out", out, "--vocab_size", "big"), "trine tokenizer: vocab_size='big'", "integer")


RECIPE = "title: t\nminutes: 1\nstages:\n  - {name: words, stage: tokenizer, config: {vocab_size: 300}}\n"


@pytest.mark.parametrize(
    "text, words",
    [
        (RECIPE + "colour: red\n", ["unknown key 'colour'"]),
        (RECIPE.replace("minutes", "minuets"), ["unknown key 'minuets'; did you mean 'minutes'?"]),
        (RECIPE.replace("tokenizer", "tokeniser"), ["stage 1 (words): stage 'tokeniser' is unknown", "'tokenizer'?"]),
        (RECIPE.replace("name:", "nmae:"), ["stage 1: unknown key 'nmae'; did you mean 'name'?"]),
        (RECIPE.replace("vocab_size", "vocab_sise"), ["stage 1 (words): unknown key 'vocab_sise'", "'vocab_size'?"]),
        (RECIPE.replace("300", "many"), ["stage 1 (words): vocab_size='many'"]),
        (RECIPE + "  - {stage: pretrain, config: {tokenizer: '@wrods'}}\n", ["stage 2 (pretrain): @wrods", "'words'?"]),
        (RECIPE + "  - {name: words, stage: tokenizer}\n", ["stage 2 (words): the name 'words' is taken"]),
        (
            RECIPE.replace("stage: tokenizer, ", ""),
            ["stage 1: needs a key 'stage', one of tokenizer, shards, pretrain"],
        ),
        (RECIPE.replace("minutes: 1", "minutes: ten"), ["minutes='ten': not a number"]),
        (RECIPE.replace("{vocab_size: 300}", "[1]"), ["stage 1: config=['1']: not a mapping"]),
        (RECIPE.replace("config:", "scale: [voc], config:"), ["scale names 'voc', which its config does not set"]),
        ("stages: 3\n", ["stage 1: needs a key 'stage'"]),
        ("title: nothing\n", ["the recipe has no stages"]),
        ("- a\n", ["expected a mapping of keys", "found a list"]),
        ("a: [1\n", ["not readable YAML"]),
    ],
)
def test_a_mistake_in_a_recipe(command: Command, tmp_path: Path, out: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    refused(command("run", path, "--out", out), str(path), *words)
    assert not out.exists()


def test_an_unknown_recipe(command: Command, out: Path) -> None:
    refused(
        command("run", "slowstart", "--out", out),
        "recipe 'slowstart' is neither a file nor built in; did you mean 'quickstart'?",
    )


def test_a_full_disk(command: Command, corpus_folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", refuse)
        result = command(*tokenizer(corpus_folder, out))
    refused(result, f"cannot write {out}/", "No space left on device", "free some space there or choose another place")
    assert [path.name for path in out.iterdir()] == [".lock"]
    assert command(*tokenizer(corpus_folder, out))[0] == 0


def test_a_run_folder_below_a_file(command: Command, corpus_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(
        command(*tokenizer(corpus_folder, tmp_path / "file" / "run")),
        "cannot write",
        "a file is in the way: choose another place",
    )
    refused(
        command("run", "quickstart", "--out", tmp_path / "file" / "run"),
        "cannot write",
        "a file is in the way: choose another place",
    )


def test_a_run_folder_of_another_config(command: Command, corpus_folder: Path, out: Path) -> None:
    assert command(*tokenizer(corpus_folder, out))[0] == 0
    before = (out / "tokenizer.json").read_bytes()
    again = ("tokenizer", "--out", out, "--corpus.folders", corpus_folder, "--vocab_size", 280, "--seed", 3)
    refused(
        command(*again),
        f"{out} holds a run with other settings:",
        "seed: 0 → 3",
        "vocab_size: ",
        "→ 280",
        "--overwrite true would delete",
    )
    assert (out / "tokenizer.json").read_bytes() == before
    code, _, message = command(*again, "--overwrite", "true")
    assert code == 0, message
    assert (out / "tokenizer.json").read_bytes() != before


def test_a_report_of_a_folder_without_runs(command: Command, tmp_path: Path) -> None:
    refused(command("report", tmp_path / "nowhere"), str(tmp_path / "nowhere"))
