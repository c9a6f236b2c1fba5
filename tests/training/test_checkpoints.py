"""Checkpoints are whole or passed over."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.mutations import mutations
from trine.runtime import files
from trine.runtime.errors import TrineError
from trine.training.checkpoints import (
    ONLY_FILE,
    _read_parts,
    list_checkpoints,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)


def tensors_of(step: int) -> dict[str, Tensor]:
    return {"weight": torch.full((50, 50), float(step)), "count": torch.tensor(step)}


def save(folder: Path, *steps: int, keep: int = 5) -> None:
    for step in steps:
        save_checkpoint(folder, step, tensors_of(step), {"objective": {"beta": step / 10}}, keep)


def loaded_step(folder: Path) -> int:
    loaded = load_checkpoint(folder)
    assert loaded is not None
    tensors, state = loaded
    assert torch.equal(tensors["weight"], tensors_of(state["step"])["weight"])
    return int(state["step"])


def truncate(path: Path) -> None:
    data = (path / ONLY_FILE).read_bytes()
    (path / ONLY_FILE).write_bytes(data[: len(data) // 2])


def change_a_byte(path: Path) -> None:
    data = bytearray((path / ONLY_FILE).read_bytes())
    data[-1] ^= 1
    (path / ONLY_FILE).write_bytes(data)


def change_the_state(path: Path) -> None:
    text = (path / "state.json").read_text()
    (path / "state.json").write_text(text.replace('"step": 2', '"step": 9'))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated tensors": truncate,
    "a changed byte": change_a_byte,
    "a changed state": change_the_state,
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "an empty manifest": lambda path: (path / "manifest.json").write_text("[]") and None,
    "no tensors": lambda path: (path / ONLY_FILE).unlink(),
    "a file of another": lambda path: shutil.copy(path / ONLY_FILE, path / "shard-00002.safetensors") and None,
}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, 7)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert {name: tensor.tolist() for name, tensor in loaded[0].items()} == {
        name: tensor.tolist() for name, tensor in tensors_of(7).items()
    }
    assert loaded[1] == {"step": 7, "objective": {"beta": 0.7}}


def test_what_one_process_writes_is_what_pytorchs_planner_reads(tmp_path: Path) -> None:
    """The form of `HuggingFaceStorageWriter`, so that any number of processes can go on."""
    save(tmp_path, 7)
    read = _read_parts(tmp_path / "step-00000007", {})
    assert read.keys() == tensors_of(7).keys()
    assert all(torch.equal(tensor, tensors_of(7)[name]) for name, tensor in read.items())


def test_without_checkpoints_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("trine.training.checkpoints.say", lambda text, style="": said.append(text))
    save(tmp_path, 1, 2)
    DAMAGES[damage](list_checkpoints(tmp_path)[-1])
    assert loaded_step(tmp_path) == 1
    assert len(said) == 2
    assert "step-00000002 is damaged" in said[0] and "set aside as damaged-step-00000002" in said[0]
    assert "falling back to the checkpoint of step 1: 1 steps are trained again" in said[1]
    assert loaded_step(tmp_path) == 1 and len(said) == 2


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("count", [1, 3])
def test_when_all_are_damaged_that_is_an_error_and_nothing_is_touched(tmp_path: Path, damage: str, count: int) -> None:
    """1.5: it said "falling back to the one before" and began at step 0."""
    save(tmp_path, *(2, 20, 21)[:count])
    for path in list_checkpoints(tmp_path):
        DAMAGES[damage](path)
    before = contents(tmp_path)
    with pytest.raises(TrineError, match=r"all checkpoints in .* are damaged, and nothing was changed") as error:
        load_checkpoint(tmp_path)
    assert all(path.name in str(error.value) for path in list_checkpoints(tmp_path))
    assert "Restore one from a copy" in str(error.value) and contents(tmp_path) == before


def test_two_damaged_ones_fall_back_to_the_third(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("trine.training.checkpoints.say", lambda text, style="": said.append(text))
    save(tmp_path, 10, 20, 30)
    for path in list_checkpoints(tmp_path)[1:]:
        truncate(path)
    assert loaded_step(tmp_path) == 10 and "step 10: 20 steps are trained again" in said[-1]


def test_every_mutation_of_a_checkpoints_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.5: what was saved is loaded, or the checkpoint before; never anything else."""
    monkeypatch.setattr("trine.training.checkpoints.say", lambda text, style="": None)
    save(tmp_path / "made", 1, 2)
    for name in ("state.json", "manifest.json", ONLY_FILE):
        data = (tmp_path / "made" / "step-00000002" / name).read_bytes()
        for label, damaged in mutations(data, seed=1, count=40):
            folder = tmp_path / f"{name}-{label}"
            shutil.copytree(tmp_path / "made", folder)
            (folder / "step-00000002" / name).write_bytes(damaged)
            assert loaded_step(folder) in ((1, 2) if name == "manifest.json" else (2,) if damaged == data else (1,))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 5, 10, 15, 20, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000015", "step-00000020"]


def test_a_write_that_fails_leaves_the_old_one_and_no_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, keep=1)

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(TrineError, match="No space left on device"):
        patch.setattr(files.os, "fsync", refuse)
        save(tmp_path, 2, keep=1)
    assert loaded_step(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_half_written_one_is_not_seen(tmp_path: Path) -> None:
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000002.partial")
    assert loaded_step(tmp_path) == 1


def test_a_damaged_one_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    truncate(list_checkpoints(tmp_path)[-1])
    save(tmp_path, 2)
    assert loaded_step(tmp_path) == 2


def test_an_optimizer_goes_on_where_it_was() -> None:
    def train(optimizer: torch.optim.Optimizer, weight: Tensor, steps: range) -> None:
        for step in steps:
            weight.grad = torch.full_like(weight, float(step) - 1.5)
            optimizer.step()

    straight, stopped = (torch.ones(3, requires_grad=True) for _ in range(2))
    train(torch.optim.AdamW([straight], lr=0.1), straight, range(6))
    first = torch.optim.AdamW([stopped], lr=0.1)
    train(first, stopped, range(3))
    second = torch.optim.AdamW([stopped], lr=0.1)
    restore_optimizer(second, "optimizer0", {"other/0/x": torch.ones(1)} | optimizer_tensors(first, "optimizer0"))
    train(second, stopped, range(3, 6))
    assert torch.equal(straight, stopped)


def test_a_damaged_checkpoint_does_not_push_out_a_good_one(tmp_path: Path) -> None:
    for step in (100, 200):
        save_checkpoint(tmp_path, step, {"w": torch.ones(2)}, {}, keep=2)
    (tmp_path / "step-00000200" / "state.json").write_text("{")
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded[1]["step"] == 100
    save_checkpoint(tmp_path, 150, {"w": torch.ones(2)}, {}, keep=1)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded[1]["step"] == 150
