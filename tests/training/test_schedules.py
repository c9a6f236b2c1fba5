"""The learning rate rises, falls and ends where it should."""

from typing import Any

import pytest

from trine.config.base import OptimizerConfig
from trine.training.schedules import learning_rate_share


def shares(decay: str, *, steps: int = 100, warmup: float = 0.1, final: float = 0.0, **more: Any) -> list[float]:
    config = OptimizerConfig(decay=decay, warmup_share=warmup, final_share=final, **more)  # type: ignore[arg-type]
    return [learning_rate_share(step, steps, config) for step in range(steps)]


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant", "wsd"])
def test_it_rises_evenly_from_above_zero_to_the_peak(decay: str) -> None:
    assert shares(decay)[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert max(shares(decay)) == 1.0


@pytest.mark.parametrize("decay", ["cosine", "linear"])
@pytest.mark.parametrize("final", [0.0, 0.2])
def test_it_falls_without_a_break_towards_its_final_share(decay: str, final: float) -> None:
    falling = shares(decay, final=final)[10:]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == 1.0
    assert final < falling[-1] < final + 0.02


def test_linear_and_cosine_are_what_they_are_called() -> None:
    assert shares("linear", warmup=0.0)[50] == pytest.approx(0.5)
    assert shares("cosine", warmup=0.0)[25] == pytest.approx(0.5 + 0.5 * 0.5**0.5)


def test_warm_up_stable_decay_is_those_three() -> None:
    found = shares("wsd", warmup=0.1, decay_share=0.25, final=0.2)
    assert found[10:76] == [1.0] * 66
    assert found[76:] == pytest.approx([0.2 + 0.8 * (1 - step / 25) for step in range(1, 25)])


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
