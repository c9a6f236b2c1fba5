"""A dry run tells what would be done and writes nothing."""

from pathlib import Path

import pytest

from tests.conftest import Command


def test_pretraining_is_described_with_its_size(command: Command, tmp_path: Path, tokenizer_run: Path) -> None:
    arguments = ("pretrain", "--out", tmp_path / "run", "--tokenizer", tokenizer_run, "--model.layers", 2,
                 "--model.width", 32, "--model.heads", 2, "--tokens", 100_000, "--row_tokens", 64,
                 "--batch_size", 4, "--hardware.threads", 1, "--hardware.precision", "fp32")  # fmt: skip
    code, out, _ = command(*arguments, "--dry-run")
    assert code == 0
    assert "width: 32" in out and "learning_rate: 0.02" in out
    assert "# parameters: 0.0M" in out and "# tokens: 99,840 in 390 steps" in out
    assert "# memory: about" in out and "# time: about" in out
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_is_not_there_yet_is_no_mistake(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("pretrain", "--out", tmp_path / "run", "--tokenizer", tmp_path / "later", "--dry-run")
    assert code == 0 and "known once the tokenizer is trained" in out


@pytest.mark.parametrize("arguments", [("quickstart",), ("run", "quickstart")])
def test_a_recipe_is_described_stage_by_stage(command: Command, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, out, _ = command(*arguments, "--out", tmp_path / "run", "--dry-run")
    assert code == 0
    for name in (
        "tokenizer",
        "functions",
        "pretrain",
        "finetune",
        "preferences",
        "reward",
        "held_out_reward",
        "ppo",
        "evaluate",
    ):
        assert f"## {name} (stage " in out
    assert "responses of up to 64 tokens" in out and "# all together: about" in out
    assert not (tmp_path / "run").exists()


def test_passes_are_said_where_tokens_are_not_known(command: Command, tmp_path: Path, tokenizer_run: Path) -> None:
    code, out, _ = command(
        "pretrain", "--out", tmp_path / "run", "--tokenizer", tokenizer_run, "--depth", 4, "--epochs", 0.5, "--dry-run"
    )
    assert code == 0 and "width: 256" in out
    assert "# tokens: 0.5 passes over the rows" in out and "tokens a second on" in out


def test_a_recipe_says_the_size_of_a_model_whose_tokenizer_it_makes(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("run", "codeparrot-124m", "--out", tmp_path / "run", "--dry-run")
    assert code == 0 and "# parameters: 124.2M" in out and "all together" not in out


def test_the_dial_of_a_recipe_moves_its_shape(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("run", "codeparrot-124m", "--out", tmp_path / "run", "--depth", 6, "--dry-run")
    assert code == 0 and "width: 384" in out and "epochs: 0.125" in out
