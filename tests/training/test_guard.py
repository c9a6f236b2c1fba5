"""What is not finite or jumps is found before it goes into the weights; what a healthy run does is not."""

import math

import numpy as np
import pytest

from trine.config.base import LoopConfig
from trine.training.guard import StepGuard


def guard_after(losses: list[float], norms: list[float] | None = None, **config: object) -> StepGuard:
    guard = StepGuard(LoopConfig(**config), spikes=True)  # type: ignore[arg-type]
    for loss, norm in zip(losses, norms or [1.0] * len(losses), strict=True):
        assert guard.problem(0, loss, norm) is None
        guard.take(loss, norm)
    return guard


def noise(count: int, middle: float, spread: float, seed: int = 0) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).normal(middle, spread, count)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_found_from_the_first_step(value: float) -> None:
    guard = StepGuard(LoopConfig(), spikes=False)
    assert guard.problem(6, value, 1.0) == "the loss of step 7 is not finite"
    assert guard.problem(6, 1.0, value) == "the gradient of step 7 is not finite"


def test_a_jump_of_the_loss_or_of_the_norm_is_found_and_named() -> None:
    guard = guard_after(noise(100, 2.0, 0.1), noise(100, 0.5, 0.1, seed=1))
    assert guard.problem(100, 2.5, 0.9) is None
    assert "loss of step 101 jumped to 6" in str(guard.problem(100, 6.0, 0.5))
    assert "gradient norm of step 101 jumped to 30" in str(guard.problem(100, 2.0, 30.0))


def test_before_the_window_is_full_nothing_is_a_jump() -> None:
    assert guard_after(noise(99, 2.0, 0.1)).problem(99, 50.0, 50.0) is None


def test_both_have_to_hold_many_times_the_median_and_far_outside_the_spread() -> None:
    """A memorising run has a median near 0; a noisy one a wide spread."""
    memorising = guard_after([abs(loss) for loss in noise(100, 0.02, 0.02)])
    assert memorising.problem(100, 0.1, 1.0) is None
    steady = guard_after([2.0] * 100)
    assert steady.problem(100, 3.9, 1.0) is None and steady.problem(100, 4.1, 1.0) is not None


def test_a_falling_noisy_curve_with_heavy_tailed_norms_is_healthy() -> None:
    """Twenty thousand steps: losses with 10 % noise, norms log-normal with sigma 0.5."""
    generator = np.random.default_rng(3)
    guard = StepGuard(LoopConfig(), spikes=True)
    for step in range(20_000):
        loss = (2.0 + 8.0 / (1 + step / 50)) * (1 + 0.1 * generator.standard_normal())
        norm = 0.5 * math.exp(0.5 * generator.standard_normal())
        assert guard.problem(step, loss, norm) is None
        guard.take(loss, norm)


@pytest.mark.parametrize("factor", ["spike_loss_factor", "spike_norm_factor"])
def test_a_factor_of_zero_looks_for_no_jump(factor: str) -> None:
    guard = guard_after([2.0] * 100, **{factor: 0.0})
    loss, norm = (1e6, 1.0) if factor == "spike_loss_factor" else (2.0, 1e6)
    assert guard.problem(100, loss, norm) is None


def test_only_so_many_of_the_last_steps_may_be_skipped() -> None:
    guard = StepGuard(LoopConfig(on_bad_step="skip", max_skips=2, spike_window=10), spikes=True)
    assert [guard.may_skip(step) for step in (0, 5, 12, 13)] == [True, True, True, False]
    assert guard.skipped == 4


def test_to_stop_is_to_skip_nothing() -> None:
    assert not StepGuard(LoopConfig(), spikes=True).may_skip(0)


def test_a_restored_guard_decides_as_the_one_saved() -> None:
    guard = guard_after(noise(100, 2.0, 0.1), on_bad_step="skip")
    guard.may_skip(100)
    other = StepGuard(guard.config, spikes=True)
    other.restore(guard.state())
    assert other.state() == guard.state() and other.problem(101, 9.0, 1.0) == guard.problem(101, 9.0, 1.0) is not None
