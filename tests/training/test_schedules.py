"""The learning rate rises, falls and ends where it should."""

import pytest

from trine.training.schedules import learning_rate_share


def shares(decay: str, *, steps: int = 100, warmup: float = 0.1, final: float = 0.0) -> list[float]:
    return [learning_rate_share(step, steps, warmup, decay, final) for step in range(steps)]  # type: ignore[arg-type]


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
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
    assert learning_rate_share(50, 100, 0.0, "linear", 0.0) == pytest.approx(0.5)
    assert learning_rate_share(25, 100, 0.0, "cosine", 0.0) == pytest.approx(0.5 + 0.5 * 0.5**0.5)


def test_constant_stays() -> None:
    assert set(shares("constant", warmup=0.0)) == {1.0}


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_very_short_runs_still_learn(steps: int) -> None:
    assert all(0 < share <= 1 for share in shares("linear", steps=steps, warmup=0.05))
