"""The learning rate rises, falls and ends where it should."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trine.config.base import OptimizerConfig
from trine.training.schedules import decay_start, learning_rate_share, schedule_warning, warmup_steps


def shares(decay: str, *, steps: int = 100, warmup: float = 0.1, final: float = 0.0, **more: Any) -> list[float]:
    config = OptimizerConfig(decay=decay, warmup_share=warmup, final_share=final, **more)  # type: ignore[arg-type]
    return [learning_rate_share(step, steps, config) for step in range(steps)]


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant", "wsd"])
def test_it_rises_evenly_from_above_zero_to_the_peak(decay: str) -> None:
    assert shares(decay)[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert max(shares(decay)) == 1.0


@pytest.mark.parametrize("decay", ["cosine", "linear"])
@pytest.mark.parametrize("final", [0.0, 0.2])
def test_it_falls_without_a_break_to_its_final_share(decay: str, final: float) -> None:
    falling = shares(decay, final=final)[10:]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == 1.0
    assert falling[-1] == final if final else 0 < falling[-1] < 0.02


def test_linear_and_cosine_are_what_they_are_called() -> None:
    assert shares("linear", warmup=0.0)[50] == pytest.approx(0.5)
    assert shares("cosine", warmup=0.0)[25] == pytest.approx(0.5 + 0.5 * 0.5**0.5)


def test_warm_up_stable_decay_is_those_three() -> None:
    found = shares("wsd", warmup=0.1, decay_share=0.25, final=0.2)
    assert found[10:76] == [1.0] * 66
    assert found[76:] == pytest.approx([0.2 + 0.8 * (1 - step / 24) for step in range(1, 25)])


def test_a_decay_longer_than_what_the_warm_up_leaves_begins_after_it() -> None:
    found = shares("wsd", warmup=0.5, decay_share=0.9)
    assert found[:50] == pytest.approx([(step + 1) / 50 for step in range(50)])
    assert found[50:] == pytest.approx([1 - step / 50 for step in range(50)])


@pytest.mark.parametrize("decay", ["cosine", "linear", "wsd"])
def test_a_warm_up_of_so_many_steps_is_that_share_of_them(decay: str) -> None:
    assert shares(decay, warmup=0.9, warmup_steps=10) == shares(decay, warmup=0.1)


def test_constant_stays() -> None:
    assert set(shares("constant", warmup=0.0)) == {1.0}


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_very_short_runs_still_learn(steps: int) -> None:
    assert all(0 < share <= 1 for share in shares("linear", steps=steps, warmup=0.05))


CONFIGS = st.builds(
    OptimizerConfig,
    decay=st.sampled_from(["cosine", "linear", "wsd", "constant"]),
    warmup_share=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    warmup_steps=st.sampled_from([None, 0, 1, 5, 40]),
    decay_share=st.sampled_from([0.0, 0.01, 0.2, 1.0]),
    final_share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)


@given(config=CONFIGS, steps=st.integers(1, 40))
def test_peak_and_final_share_are_really_reached(config: OptimizerConfig, steps: int) -> None:
    """5.7: whatever the length of the run: it rises to exactly 1, stays or falls, and its last step has final_share.

    Where the warm-up leaves no step for a decay it ends at the peak, and where it is longer than the run, below it.
    """
    found = [learning_rate_share(step, steps, config) for step in range(steps)]
    warmup, start = warmup_steps(steps, config), decay_start(steps, config)
    assert found[: min(warmup, start)] == sorted(found[: min(warmup, start)]) and all(found[:-1]) and max(found) <= 1
    assert found[warmup:] == sorted(found[warmup:], reverse=True)
    assert (max(found) == 1.0) == (warmup <= steps)
    decays = start < steps and steps > 1
    if decays and config.final_share:
        assert found[-1] == config.final_share
    if decays and not config.final_share:  # one step before nothing
        done = 1 - 1 / (steps - start)
        assert found[-1] == pytest.approx(
            0.5 * (1 + math.cos(math.pi * done)) if config.decay == "cosine" else 1 - done
        )


@pytest.mark.parametrize("decay", ["cosine", "linear", "wsd"])
def test_ten_steps_end_at_a_tenth(decay: str) -> None:
    """5.7: it was 0.21 of the peak for a final_share of 0.1."""
    assert shares(decay, steps=10, warmup=0.05, final=0.1)[-1] == 0.1


def test_a_warm_up_longer_than_the_run_is_told() -> None:
    """5.7: the peak is never reached."""
    told = schedule_warning(10, OptimizerConfig(warmup_steps=40))
    assert told is not None and "warm-up of 40 steps" in told and "run of 10" in told and "25% of its peak" in told
    assert schedule_warning(10, OptimizerConfig(warmup_steps=10)) is None
    assert schedule_warning(1, OptimizerConfig()) is None
