"""A world small enough to sum over: two tokens, responses of up to three, everything in float64.

What our losses' gradients are in expectation, summed over every response that can be sampled, is the gradient of the
objective itself, by finite differences: PPO against a critic, with KL in the reward and in the loss by each estimator.
No sampling, no model: a table of logits for every state, which is all that a policy is. Token 1 ends a response, so
that a state is how many 0 there are so far.
"""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from trine.algorithms.advantages import generalized_advantages
from trine.algorithms.ppo import clipped_policy_loss, clipped_value_loss
from trine.algorithms.text_kl import kl_loss
from trine.algorithms.text_rewards import token_rewards

LENGTH, END, BETA = 3, 1, 0.3


def table(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(LENGTH, 2, generator=generator, dtype=torch.float64)


THETA, REFERENCE = table(0), table(1).log_softmax(1)
RESPONSES = [(END,), (0, END), (0, 0, END), (0, 0, 0)]
SCORES = torch.tensor([0.7, -1.1, 2.0, -0.4], dtype=torch.float64)
MASK = torch.tensor([[place < len(one) for place in range(LENGTH)] for one in RESPONSES])
TOKENS = torch.tensor([[*one, *[0] * (LENGTH - len(one))] for one in RESPONSES])


def log_probs_of(theta: Tensor) -> Tensor:
    """[4, 3]: of each response's tokens, in the state they are sampled in; the padding's are of no meaning."""
    return theta.log_softmax(1).expand(4, LENGTH, 2).gather(2, TOKENS.unsqueeze(2)).squeeze(2)


def reference_log_probs() -> Tensor:
    """[4, 3], as `log_probs_of` has them."""
    return REFERENCE.expand(4, LENGTH, 2).gather(2, TOKENS.unsqueeze(2)).squeeze(2)


def probabilities(theta: Tensor) -> Tensor:
    """[4]: of each response; they add up to 1."""
    return torch.where(MASK, log_probs_of(theta), 0.0).sum(1).exp()


def expected_reward(theta: Tensor, beta: float) -> Tensor:
    """E[score] - beta KL(pi || ref), of whole responses."""
    ratios = torch.where(
        MASK, log_probs_of(theta) - REFERENCE.expand(4, LENGTH, 2).gather(2, TOKENS[..., None])[..., 0], 0
    )
    return (probabilities(theta) * (SCORES - beta * ratios.sum(1))).sum()


def token_kl(theta: Tensor) -> Tensor:
    """KL(pi || ref) of the next token, summed over the states that the *sampling* policy visits."""
    log_probs = theta.log_softmax(1)
    visits = torch.where(MASK, probabilities(THETA).unsqueeze(1), 0.0).sum(0)  # [3]
    return (visits * (log_probs.exp() * (log_probs - REFERENCE)).sum(1)).sum()


def numerical(objective: Callable[[Tensor], Tensor], step: float = 1e-6) -> Tensor:
    """Central differences at THETA."""
    found = torch.zeros_like(THETA)
    for index in torch.cartesian_prod(torch.arange(LENGTH), torch.arange(2)):
        for sign in (1, -1):
            moved = THETA.clone()
            moved[tuple(index)] += sign * step
            found[tuple(index)] += sign * objective(moved) / (2 * step)
    return found


def expected_gradient(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Of `loss(log_probs, old, weights)`, a sum over all responses; weights are the responses' probabilities."""
    theta = THETA.clone().requires_grad_()
    old = log_probs_of(THETA)
    weights = probabilities(THETA).unsqueeze(1).expand(4, LENGTH)
    (found,) = torch.autograd.grad(loss(log_probs_of(theta)[MASK], old[MASK], weights[MASK]), theta)
    return found


def advantages_of(beta: float, values: Tensor, gae_lambda: float = 1.0) -> Tensor:
    """[4, 3], as `PpoObjective` makes them: the score at the end, less beta k1 on every token, against a critic."""
    ratios = log_probs_of(THETA) - reference_log_probs()
    rewards = token_rewards(SCORES, torch.where(MASK, ratios, 0.0), MASK, beta)
    return generalized_advantages(rewards, values.expand(4, LENGTH), MASK, gamma=1.0, gae_lambda=gae_lambda)[0]


def test_the_world_is_whole() -> None:
    assert float(probabilities(THETA).sum()) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("clip_range", [None, 0.2])
@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("critic", [0, 3])
def test_ppos_expected_gradient_is_that_of_the_reward_less_kl(
    clip_range: float | None, beta: float, critic: int
) -> None:
    """Whatever the critic says: with lambda 1 it changes the variance alone. KL is that of whole responses (k1)."""
    values = table(critic)[:, 0] if critic else torch.zeros(LENGTH, dtype=torch.float64)
    advantages = advantages_of(beta, values)[MASK]

    def loss(log_probs: Tensor, old: Tensor, weights: Tensor) -> Tensor:
        return clipped_policy_loss(log_probs, old, weights * advantages, clip_range=clip_range).loss

    expected = numerical(lambda theta: expected_reward(theta, beta))
    assert float(expected.norm()) > 0.1
    assert torch.allclose(-expected_gradient(loss), expected, atol=1e-8)


def test_with_a_critic_that_knows_the_truth_every_lambda_has_that_gradient() -> None:
    """V of a state is what the policy will earn from it; then GAE is unbiased for any lambda."""
    values = torch.zeros(LENGTH, dtype=torch.float64)
    probs = THETA.softmax(1)
    ratio = THETA.log_softmax(1) - REFERENCE
    for state in reversed(range(LENGTH)):
        ends, goes_on = SCORES[state] - BETA * ratio[state, 1], -BETA * ratio[state, 0]
        following = values[state + 1] if state + 1 < LENGTH else SCORES[3]
        values[state] = probs[state, 1] * ends + probs[state, 0] * (goes_on + following)
    assert float(values[0]) == pytest.approx(float(expected_reward(THETA, BETA)))
    expected = numerical(lambda theta: expected_reward(theta, BETA))
    for gae_lambda in (0.0, 0.5, 0.95):
        advantages = advantages_of(BETA, values, gae_lambda)[MASK]

        def loss(log_probs: Tensor, old: Tensor, weights: Tensor, advantages: Tensor = advantages) -> Tensor:
            return clipped_policy_loss(log_probs, old, weights * advantages, clip_range=0.2).loss

        assert torch.allclose(-expected_gradient(loss), expected, atol=1e-8)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_expected_gradient_of_kl_in_the_loss_is_that_of_kl(estimator: Literal["k1", "k2", "k3"]) -> None:
    """Of the next token's KL, in the states that the sampling policy visits."""
    reference = reference_log_probs()[MASK]

    def loss(log_probs: Tensor, old: Tensor, weights: Tensor) -> Tensor:
        return (weights * kl_loss(log_probs, old, reference, estimator)).sum()

    expected = numerical(token_kl)
    assert float(expected.norm()) > 0.1
    assert torch.allclose(expected_gradient(loss), expected, atol=1e-8)


def test_the_value_losss_minimum_is_what_a_state_earns() -> None:
    """Its expected gradient is 0 where every value is the expected return of its state."""
    returns = advantages_of(0.0, torch.zeros(LENGTH, dtype=torch.float64))
    weights = torch.where(MASK, probabilities(THETA).unsqueeze(1), 0.0)
    truth = (weights * returns).sum(0) / weights.sum(0)
    values = truth.clone().requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    for row, place in MASK.nonzero().tolist():
        here = slice(place, place + 1)
        error = clipped_value_loss(values[here], truth[here], returns[row, here], clip_range=0.2)
        loss = loss + weights[row, place] * error
    (gradient,) = torch.autograd.grad(loss, values)
    assert torch.allclose(gradient, torch.zeros(LENGTH, dtype=torch.float64), atol=1e-12)
