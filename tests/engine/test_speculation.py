"""Draft tokens: the same answer in fewer steps."""

import pytest

from tests.engine.helpers import watch_forward
from tests.tiny import make_likely, ragged_prompts, tiny_model
from trine.engine import steps as steps_module
from trine.engine.engine import Engine
from trine.engine.ngrams import NgramLookup
from trine.engine.sampling import Sampling
from trine.records import Rollout

pytestmark = pytest.mark.usefixtures("needs_native")


def lookup(*ids: int) -> NgramLookup:
    known = NgramLookup()
    known.extend(ids)
    return known


def test_a_draft_is_what_followed_the_rows_ending_when_it_was_seen_last() -> None:
    assert lookup(1, 2, 3, 4, 5, 1, 2, 3).draft(5) == [4, 5, 1, 2, 3]
    assert lookup(1, 2, 3, 4, 9, 1, 2, 3, 7, 9, 1, 2, 3).draft(2) == [7, 9]


def test_three_tokens_count_before_two() -> None:
    assert lookup(5, 2, 3, 8, 1, 2, 3, 6, 5, 2, 3).draft(1) == [8]
    assert lookup(5, 2, 3, 8, 9, 2, 3).draft(1) == [8]


def test_there_is_no_draft_from_nothing() -> None:
    assert lookup().draft(5) == lookup(1).draft(5) == lookup(1, 2).draft(5) == lookup(1, 2, 3).draft(5) == []


def test_what_it_learns_in_parts_is_what_it_learns_at_once() -> None:
    parts = NgramLookup()
    for part in ((1, 2), (3,), (4, 1, 2), (3,)):
        parts.extend(part)
    assert parts.draft(5) == lookup(1, 2, 3, 4, 1, 2, 3).draft(5) == [4, 1, 2, 3]
    assert parts.length == 7


def answers(monkeypatch: pytest.MonkeyPatch, sampling: Sampling, shortest_step: float) -> tuple[list[Rollout], int]:
    """Answers one prompt at a time, and how often the model was asked for more than one token's logits."""
    monkeypatch.setattr(steps_module, "MIN_DRAFTED_STEP_SECONDS", shortest_step)
    model = tiny_model("gpt2", vocab_size=11)
    make_likely(model, 3, 0.5)
    engine = Engine(model, rows=1)
    wanted: list[int] = []
    watch_forward(engine, monkeypatch, lambda runs: wanted.extend(run.wanted for run in runs))
    rollouts = [engine.generate([prompt], sampling)[0] for prompt in ragged_prompts((6, 1, 20), vocab_size=11)]
    return rollouts, sum(count > 1 for count in wanted)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("eos_ids", [(), (7,)])
def test_drafting_changes_neither_tokens_nor_log_probs_nor_where_the_answer_ends(
    temperature: float, eos_ids: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(40, temperature, seed=4, eos_ids=eos_ids)
    plain, none_checked = answers(monkeypatch, sampling, shortest_step=1e9)
    drafted, checked = answers(monkeypatch, sampling, shortest_step=0.0)
    assert drafted == plain
    assert checked > none_checked == 0


def test_filters_and_neighbours_are_never_drafted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _, checked = answers(monkeypatch, Sampling(40, 0.5, top_k=3), shortest_step=0.0)
    assert checked == 0
