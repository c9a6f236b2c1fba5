"""Losses of preferences by hand: the golden vectors D1 to D7 and K1 to K3, exact gradients, no two losses the same."""

import itertools
from collections.abc import Callable
from math import log

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from trine.algorithms.text_preferences import (
    PairLogProbs,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kto_loss,
    kto_reference_point,
    kto_weights,
    kto_weights_fit,
    log_odds_ratio,
    odds_ratio_loss,
    robust_loss,
    rotated_mismatches,
    simpo_loss,
)


def wide(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def golden() -> PairLogProbs:
    """Policy -10 and -14, reference -11 and -12, lengths 5 and 7."""
    return PairLogProbs(*(wide(value) for value in (-10, -14, 5, 7, -11, -12)))


def close(value: Tensor, expected: float | list[float]) -> None:
    assert_close(value, wide(*(expected if isinstance(expected, list) else [expected])), rtol=0, atol=6e-7)


def test_d1_dpo() -> None:
    pair = golden()
    chosen = pair.chosen.requires_grad_()
    close(pair.margins().detach(), 3.0)
    loss = dpo_loss(pair.margins(), 0.1)
    close(loss.detach(), 0.554355)
    (gradient,) = torch.autograd.grad(loss.sum(), chosen)
    close(gradient, -0.042556)
    close(torch.stack([0.1 * ratio for ratio in pair.log_ratios()]).flatten().detach(), [0.1, -0.2])


def test_d1_a_policy_that_is_its_reference_has_log_2() -> None:
    assert float(dpo_loss(wide(0.0), 0.1)) == pytest.approx(log(2), abs=1e-15)


def test_d2_smoothed_and_robust() -> None:
    close(dpo_loss(golden().margins(), 0.1, label_smoothing=0.1), 0.584355)
    close(robust_loss(golden().margins(), 0.1, 0.1), 0.516855)


def test_d2_smoothing_has_its_minimum_at_the_log_odds_of_a_right_label() -> None:
    best = wide(2.197225 / 0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(dpo_loss(best, 0.1, label_smoothing=0.1).sum(), best)
    assert abs(float(gradient)) < 1e-7


def test_d3_ipo_of_sums_and_of_means_are_two_losses() -> None:
    close(ipo_loss(golden().margins(), 0.1), 4.0)
    close(golden().mean_margins(), 0.485714)
    close(ipo_loss(golden().mean_margins(), 0.1), 20.378776)


def test_d4_hinge_and_length_normalised() -> None:
    close(hinge_loss(golden().margins(), 0.1), 0.7)
    close(dpo_loss(golden().mean_margins(), 0.1), 0.669156)


def test_d5_simpo() -> None:
    chosen, rejected = golden().means()
    close(simpo_loss(chosen - rejected, 2.0, 1.0), 1.313262)
    close(simpo_loss(chosen - rejected, 2.5, 0.25), 0.825939)


def test_d6_orpo() -> None:
    chosen, rejected = wide(-0.5), wide(-1.0)
    close(log_odds_ratio(chosen, rejected), 0.974077)
    close(odds_ratio_loss(chosen, rejected), 0.3203)
    close(-chosen + 0.1 * odds_ratio_loss(chosen, rejected), 0.53203)


def test_d6_odds_of_answers_known_by_heart_and_of_impossible_ones_are_finite() -> None:
    for dtype in (torch.float32, torch.float64):
        means = torch.tensor([0.0, -1e-12, -0.6931, -0.6932, -50.0, -1e4], dtype=dtype).requires_grad_()
        odds_ratio_loss(means, means.flip(0)).sum().backward()
        assert means.grad is not None and bool(means.grad.isfinite().all())


def test_d7_a_step_on_the_difference_can_lower_the_chosen_answer() -> None:
    output = wide(1.0, 1.0, 1.0, 0.9, 0.0, 3.0).view(3, 2)
    hidden = wide(1.0, 0.4).requires_grad_()
    before = torch.log_softmax(output @ hidden, 0)
    (gradient,) = torch.autograd.grad(before[0] - before[1], hidden)
    after = torch.log_softmax(output @ (hidden.detach() + 0.5 * gradient), 0)
    close(before.detach(), [-1.022278, -1.062278, -1.222278])
    close(after, [-1.051114, -1.096114, -1.151114])
    assert after[0] < before[0] and after[0] - after[1] > before[0] - before[1]


def test_k1_kto() -> None:
    z0 = kto_reference_point(sum((0.4, -0.1, 0.2, -0.3)), 4)
    assert z0 == pytest.approx(0.05)
    desirable = torch.tensor([True, True, False, False])
    losses = kto_loss(wide(0.5, -0.2, 0.3, -0.4), desirable, z0, 0.1)
    close(losses, [0.488752, 0.50625, 0.50625, 0.488752])
    close((torch.where(desirable, 1.0, 1.5) * losses).sum().unsqueeze(0) / 4, 0.621876)


def test_k2_the_reference_point_is_never_negative() -> None:
    assert kto_reference_point(-1.0, 4) == 0.0 and kto_reference_point(0.0, 0) == 0.0


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_k2_mismatches_are_a_rotation(count: int) -> None:
    others = rotated_mismatches([(place,) for place in range(count)])
    assert sorted(others) == list(range(count))
    assert all(other != place for place, other in enumerate(others))


def test_k2_an_answer_to_the_same_prompt_is_no_mismatch() -> None:
    assert rotated_mismatches([(1,), (1,), (2,), (2,)]) == [2, 3, 0, 1]
    assert rotated_mismatches([(1,), (1,), (2,)]) == [-1, 2, 0]
    assert rotated_mismatches([(1,), (1,)]) == [-1, -1]


def test_k2_one_answer_has_no_mismatch() -> None:
    with pytest.raises(ValueError, match="two answers or more"):
        rotated_mismatches([(1,)])


def test_k3_weights() -> None:
    assert kto_weights(30, 10) == (1.0, 2.25)
    assert kto_weights_fit(30, 10 * 2.25) and kto_weights_fit(30, 10 * 3.0)
    assert not kto_weights_fit(30, 10 * 2.2) and not kto_weights_fit(30, 10 * 3.1)
    assert kto_weights(10, 30) == (3.0, 1.0) and kto_weights(12, 10) == (1.0, 1.0)
    assert kto_weights(5, 0) == (1.0, 1.0)


LOSSES: dict[str, Callable[[PairLogProbs], Tensor]] = {
    "dpo": lambda pair: dpo_loss(pair.margins(), 0.1),
    "dpo smoothed": lambda pair: dpo_loss(pair.margins(), 0.1, 0.1),
    "dpo of means": lambda pair: dpo_loss(pair.mean_margins(), 0.1),
    "robust": lambda pair: robust_loss(pair.margins(), 0.1, 0.1),
    "hinge": lambda pair: hinge_loss(pair.margins(), 0.1),
    "ipo of means": lambda pair: ipo_loss(pair.mean_margins(), 0.1),
    "ipo of sums": lambda pair: ipo_loss(pair.margins(), 0.1),
    "simpo": lambda pair: simpo_loss(pair.means()[0] - pair.means()[1], 2.0, 1.0),
    "orpo": lambda pair: odds_ratio_loss(*pair.means()),
}


def pairs(chosen: Tensor, rejected: Tensor) -> PairLogProbs:
    return PairLogProbs(chosen, rejected, wide(5, 3), wide(7, 4), wide(-11, -5), wide(-12, -9))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_formula(name: str) -> None:
    given = wide(-10, -6).requires_grad_(), wide(-14, -7.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda *both: LOSSES[name](pairs(*both)), given)


def test_the_gradient_of_kto_is_that_of_the_formula() -> None:
    ratios = wide(0.5, -0.2, 3.0).requires_grad_()
    desirable = torch.tensor([True, False, False])
    assert torch.autograd.gradcheck(lambda r: kto_loss(r, desirable, 0.05, 0.1), ratios)


def test_no_two_losses_have_one_gradient() -> None:
    gradients = {}
    for name, loss in LOSSES.items():
        chosen, rejected = wide(-10, -6).requires_grad_(), wide(-14, -7.5).requires_grad_()
        gradients[name] = torch.cat(torch.autograd.grad(loss(pairs(chosen, rejected)).sum(), (chosen, rejected)))
    for first, second in itertools.combinations(gradients, 2):
        assert not torch.allclose(gradients[first], gradients[second], rtol=1e-3), (first, second)
