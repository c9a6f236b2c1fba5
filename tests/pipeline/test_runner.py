"""A recipe run twice runs once, and its bytes follow from seed and recipe alone."""

from pathlib import Path

import pytest

from trine.config.base import HardwareConfig
from trine.config.use import RunConfig
from trine.pipeline import runner
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json
from trine.runtime.lock import folder_lock

CPU = HardwareConfig(device="cpu", precision="fp32", threads=1)

RECIPE = """
title: Tiny
minutes: 1
shared: {{corpus: &corpus {{folders: [{folder}], held_out_share: 0.25}}}}
stages:
  - {{stage: tokenizer, config: {{corpus: *corpus, vocab_size: 300}}}}
  - stage: pretrain
    scale: [tokens]
    config:
      corpus: *corpus
      tokenizer: "@tokenizer"
      model: {{layers: 1, width: 32, heads: 2, context: 32}}
      tokens: 1280
      row_tokens: 32
      batch_size: 4
"""


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reports have tests of their own; and the machine's speed is not measured here."""
    monkeypatch.setattr("trine.report.report.write_report", lambda out: (out / "report.html", "a report"))
    monkeypatch.setattr(runner, "time_factor", lambda hardware: 1.0)


@pytest.fixture
def recipe(tmp_path: Path, corpus_folder: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(folder=corpus_folder))
    return path


def run(recipe: Path, out: Path, seed: int = 0) -> None:
    runner.run(RunConfig(recipe=str(recipe), out=out, seed=seed, hardware=CPU))


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """{file: (time of change, bytes)} of everything in the run folders."""
    files = [path for path in folder.glob("*/**/*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def weights(folder: Path) -> bytes:
    return (folder / "pretrain" / "model" / "model.safetensors").read_bytes()


def test_the_second_time_nothing_is_done(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "out")
    before, description = state(tmp_path / "out"), (tmp_path / "out" / "recipe.json").read_bytes()
    run(recipe, tmp_path / "out")
    assert state(tmp_path / "out") == before
    assert (tmp_path / "out" / "recipe.json").read_bytes() == description


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(recipe: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(recipe, tmp_path / name, seed)
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")
    tokenizers = {(tmp_path / name / "tokenizer" / "tokenizer.json").read_bytes() for name in "abc"}
    assert len(tokenizers) == 1


def test_the_description_tells_the_stages_and_their_seconds(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "out", seed=3)
    described = read_json(tmp_path / "out" / "recipe.json")
    assert (described["title"], described["seed"]) == ("Tiny", 3)
    assert [(stage["name"], stage["stage"]) for stage in described["stages"]] == [
        ("tokenizer", "tokenizer"), ("pretrain", "pretrain"),
    ]  # fmt: skip
    assert all(stage["seconds"] > 0 for stage in described["stages"])


def test_an_unfinished_stage_is_run_and_the_finished_ones_are_not(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(recipe, out)
    before, made = state(out), weights(out)
    (out / "pretrain" / "done.json").unlink()
    (out / "pretrain" / "model" / "model.safetensors").unlink()
    run(recipe, out)
    assert weights(out) == made
    untouched = {name: value for name, value in state(out).items() if name.startswith("tokenizer/")}
    assert untouched == {name: value for name, value in before.items() if name.startswith("tokenizer/")}


def test_another_seed_in_the_same_folder_is_refused(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "out")
    with pytest.raises(TrineError, match=r"out/tokenizer holds a run with other settings:\s+seed: 0 → 1\s"):
        run(recipe, tmp_path / "out", seed=1)


def test_two_runs_do_not_share_a_folder(recipe: Path, tmp_path: Path) -> None:
    with folder_lock(tmp_path / "out"), pytest.raises(TrineError, match=rf"{tmp_path / 'out'} is in use by process"):
        run(recipe, tmp_path / "out")
