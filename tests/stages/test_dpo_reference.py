"""The reference's log-probabilities: computed once, kept beside the data, computed anew where they are stale."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stages.direct_items import (
    dpo_config,
    objective_of,
    pair_items,
)
from tests.stages.test_dpo_objective import moved
from tests.tiny import tiny_model
from trine.runtime.errors import TrineError
from trine.stages.direct.items import Item
from trine.stages.direct.reference import RECORD, TENSORS


def test_it_is_kept_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model()
    first = objective_of(model, pair_items(), dpo_config(), tmp_path).train.reference
    (kept,) = tmp_path.glob(".items.jsonl.reference-*")
    before = (kept / TENSORS).stat().st_mtime_ns
    assert "kept in" in capsys.readouterr().err
    again = objective_of(model, pair_items(), dpo_config(), tmp_path).train.reference
    assert (kept / TENSORS).stat().st_mtime_ns == before and "are those of" in capsys.readouterr().err
    assert first is not None and again is not None and torch.equal(first.answers, again.answers)
    objective_of(moved(tiny_model()), pair_items(), dpo_config(), tmp_path)
    assert len(list(tmp_path.glob(".items.jsonl.reference-*"))) == 2


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "no record", "nonsense", "other records"])
def test_what_is_damaged_or_stale_is_computed_anew(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, items = tiny_model(), pair_items()
    expected = objective_of(model, items, dpo_config(), tmp_path).train.reference
    (kept,) = tmp_path.glob(".items.jsonl.reference-*")
    data = (kept / TENSORS).read_bytes()
    if damage == "flipped":
        (kept / TENSORS).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "cut":
        (kept / TENSORS).write_bytes(data[:40])
    elif damage == "gone":
        (kept / TENSORS).unlink()
    elif damage == "no record":
        (kept / RECORD).unlink()
    elif damage == "nonsense":
        (kept / RECORD).write_text("[1]")
    else:
        items = [*items[:-1], Item(items[-1].prompt, items[-1].answers[::-1])]
    capsys.readouterr()
    found = objective_of(model, items, dpo_config(), tmp_path).train.reference
    said = capsys.readouterr().err
    assert "is computed anew" in said and ("other records" in said) == (damage == "other records")
    assert found is not None and expected is not None
    if damage != "other records":
        assert torch.equal(found.answers, expected.answers)
    assert objective_of(model, items, dpo_config(), tmp_path).train.reference is not None
    assert "anew" not in capsys.readouterr().err


def test_where_nothing_can_be_written_it_is_kept_in_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trine.stages.direct import reference

    write = reference.write_folder

    def read_only(folder: Path, fill: Any) -> None:
        if folder.parent == tmp_path:
            raise TrineError(f"cannot write {folder}: Read-only file system")
        write(folder, fill)

    monkeypatch.setattr(reference, "write_folder", read_only)
    objective_of(tiny_model(), pair_items(), dpo_config(), tmp_path)
    assert len(list((tmp_path / "run").glob(".items.jsonl.reference-*"))) == 1
