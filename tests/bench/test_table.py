from pathlib import Path
from typing import Any

import pytest
from bench.cases import GROUPS, SIDES
from bench.records import Case, Comparison, Contender
from bench.table import compare, rows_of
from bench.workers import SideError, Workers, run_case

OURS, SLOW, FAST = (Contender(side, "generate", {}) for side in ("ours", "transformers fp32", "transformers bf16"))
CASE = Case("generation", "B=1", OURS, (Comparison("transformers, best", (SLOW, FAST), target=2.0),))


def result(absent: dict[str, str] | None = None, **seconds: list[float]) -> dict[str, Any]:
    sides = {"ours": "ours", "slow": SLOW.name, "fast": FAST.name}
    samples = {sides[side]: [{"seconds": second, "tokens": 64} for second in runs] for side, runs in seconds.items()}
    return {"samples": samples, "warm_ups": {}, "absent": absent or {}}


class FakeWorkers(Workers):
    """Answers at once, and remembers who was asked."""

    def __init__(self, tokens: dict[str, int], missing: tuple[str, ...] = ()) -> None:
        super().__init__(Path(), threads=1)
        self.tokens, self.missing, self.turns = tokens, missing, []

    def run(self, contender: Contender) -> dict[str, Any]:
        if contender.side in self.missing:
            raise SideError("not installed")
        self.turns.append(contender.side)
        return {"seconds": 1.0, "tokens": self.tokens.get(contender.side, 64)}


def test_the_ratio_is_of_medians_and_the_spread_of_single_rounds() -> None:
    ratio, spread = compare([10.0, 20.0, 90.0], [10.0, 5.0, 6.0])
    assert ratio == pytest.approx(20 / 6)
    assert spread == (1.0, 15.0)


def test_ours_is_held_against_the_best_of_a_peers_configurations() -> None:
    (row,) = rows_of(CASE, result(ours=[1.0, 1.0], slow=[4.0, 4.0], fast=[1.5, 1.5]))
    assert row.ratio == pytest.approx(1.5)
    assert row.note == FAST.name
    assert row.reached is False


def test_a_target_that_is_met_is_reached() -> None:
    (row,) = rows_of(CASE, result(ours=[1.0], slow=[4.0], fast=[2.0]))
    assert row.reached is True


def test_an_absent_peer_keeps_its_row_and_says_why() -> None:
    (row,) = rows_of(CASE, result({SLOW.name: "not installed", FAST.name: "not installed"}, ours=[1.0]))
    assert (row.ratio, row.reached, row.note) == (None, None, "absent: not installed")


def test_ours_alone_is_one_row_without_a_peer() -> None:
    (row,) = rows_of(CASE, result(ours=[0.5]))
    assert (row.ours, row.peer, row.theirs) == (128.0, "", None)


def test_sides_take_turns_after_their_warm_ups() -> None:
    workers = FakeWorkers({})
    run_case(CASE, workers, 2, set(SIDES))
    assert workers.turns == [OURS.side, SLOW.side, FAST.side] * 3


def test_a_missing_side_does_not_stop_the_others() -> None:
    outcome = run_case(CASE, FakeWorkers({}, missing=(SLOW.side,)), 1, set(SIDES))
    assert outcome["absent"] == {SLOW.name: "not installed"}
    assert set(outcome["samples"]) == {OURS.name, FAST.name}


def test_unequal_work_is_refused() -> None:
    with pytest.raises(SideError, match="unequal work"):
        run_case(CASE, FakeWorkers({FAST.side: 63}), 1, set(SIDES))


@pytest.mark.parametrize("shape", ["small", "mini"])
def test_every_contender_of_a_case_has_a_side_and_a_name_of_its_own(shape: str) -> None:
    for case in (case for group in GROUPS.values() for case in group(shape)):
        asked = [contender for comparison in case.comparisons for contender in comparison.contenders]
        assert all(contender.side in SIDES for contender in case.contenders)
        assert len(case.contenders) == 1 + len(asked)


@pytest.mark.parametrize(("field", "values"), [("digest", ("a", "b")), ("first_loss", (10.8, 10.9))])
def test_other_ids_and_another_first_loss_are_unequal_work(field: str, values: tuple[object, object]) -> None:
    class Different(FakeWorkers):
        def run(self, contender: Contender) -> dict[str, Any]:
            return super().run(contender) | {field: values[contender is FAST]}

    with pytest.raises(SideError, match="unequal work"):
        run_case(CASE, Different({}), 1, set(SIDES))


def test_a_case_may_count_something_else_than_tokens() -> None:
    megabytes = Case("encoding", "Python", OURS, (Comparison("slow", (SLOW,)),), counts="megabytes")
    sample = {"seconds": 2.0, "tokens": 7}
    runs = {OURS.name: [sample | {"megabytes": 30.0}], SLOW.name: [sample | {"megabytes": 10.0}]}
    (row,) = rows_of(megabytes, {"samples": runs, "warm_ups": {}, "absent": {}})
    assert (row.ours, row.theirs, row.ratio) == (15.0, 5.0, 3.0)


def test_workers_a_case_does_not_need_are_closed() -> None:
    class Closed:
        def __init__(self) -> None:
            self.closed = False

        def close(self) -> None:
            self.closed = True

    workers = FakeWorkers({})
    needed, idle = Closed(), Closed()
    workers._running |= {OURS.side: needed, "llama.cpp bf16": idle}  # type: ignore[dict-item]
    run_case(CASE, workers, 1, set(SIDES))
    assert (needed.closed, idle.closed) == (False, True)
