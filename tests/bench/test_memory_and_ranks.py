"""The rows of the groups that are measured by fresh processes."""

import mmap
from typing import Any

import pytest
from bench.workers import SideError

from bench import loader, memory, process_memory, ranks

EAGER, TUNED, CHECKPOINTED = "transformers autocast", "transformers autocast tuned", memory.CHECKPOINTING[0]


def peaks(**beyond: float) -> memory.Peaks:
    names = {"ours": memory.OURS, "eager": EAGER, "tuned": TUNED, "checkpointed": CHECKPOINTED}
    return {names[side]: [{"peak": size + 1000, "imports": 400, "beyond": size}] for side, size in beyond.items()}


def test_ours_is_held_against_the_leanest_of_a_peers_configurations() -> None:
    beyond, total = memory.rows("memory", peaks(ours=100, eager=190, tuned=300))
    assert (beyond.ratio, beyond.target, beyond.reached, beyond.note) == (1.9, "≥ 2", False, EAGER)
    assert (total.ours, total.theirs, total.reached) == (1100, 1190, None)


def test_half_of_the_peers_memory_reaches_the_target() -> None:
    beyond, _ = memory.rows("memory", peaks(ours=95, eager=190))
    assert beyond.reached is True


def test_checkpointing_is_reported_without_a_target() -> None:
    rows = memory.rows("memory", peaks(ours=100, eager=300, checkpointed=120))
    assert [row.reached for row in rows] == [True, None, None, None]


def test_the_peak_of_a_process_can_be_started_afresh() -> None:
    if not process_memory.peak_bytes():
        pytest.skip("this system does not tell")
    with mmap.mmap(-1, 64 << 20) as big:  # not from malloc, which may have been told to keep what is freed
        for _ in range(64):
            big.write(b"x" * (1 << 20))
        process_memory.reset_peak()
        with_it = process_memory.peak_bytes()
    process_memory.reset_peak()
    assert process_memory.resident_bytes() <= process_memory.peak_bytes() < with_it - (32 << 20)


def run_of(seconds: float, *losses: float) -> dict[str, Any]:
    return {"seconds": seconds, "tokens": 85, "losses": list(losses)}


def test_two_ranks_may_lose_a_little() -> None:
    samples = {"two ranks": [run_of(1.0)], "one process": [run_of(0.85)]}
    row = ranks.row("ranks", samples)
    assert (row.ratio, row.reached) == (pytest.approx(0.85), True)


def test_ranks_that_trained_on_something_else_are_refused() -> None:
    with pytest.raises(SideError, match="nats apart"):
        ranks._check({"two ranks": [run_of(1, 5.0, 4.9)], "one process": [run_of(1, 5.0, 4.7)]})


def test_waiting_for_batches_is_a_share_of_the_whole_time() -> None:
    steps = [{"seconds": 9.0, "loader_share": 0.0}, {"seconds": 1.0, "loader_share": 0.1}]
    row = loader.row(steps)
    assert (row.ours, row.reached) == (pytest.approx(1.0), False)
    assert loader.row(steps * 2 + [{"seconds": 1.0, "loader_share": 0.0}]).reached is True
