"""The networks: orthogonal beginnings, and the NumPy actor that gives PyTorch's numbers."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.tiny import random_tensor
from trine.agents.network import ActorInference, Agent, initialize


def agent(*, continuous: bool = False, critic: bool = True, seed: int = 0) -> Agent:
    made = Agent(4, 6, (16, 8), continuous=continuous, critic=critic)
    initialize(made, seed)
    return made


def test_weights_are_orthogonal_with_the_gains_of_their_layers_and_biases_0() -> None:
    named = agent().named()
    for network, last in (("actor", 0.01), ("critic", 1.0)):
        for layer, gain in enumerate((math.sqrt(2), math.sqrt(2), last)):
            weight = named[f"{network}.{layer}.weight"].detach()
            gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
            assert_close(gram, gain**2 * torch.eye(len(gram)), atol=1e-5, rtol=1e-5)
            assert not named[f"{network}.{layer}.bias"].any()


def test_the_beginning_is_a_function_of_the_seed() -> None:
    assert torch.equal(agent(seed=1).weights, agent(seed=1).weights)
    assert not torch.equal(agent(seed=1).weights, agent(seed=2).weights)


def test_the_first_policy_prefers_no_action() -> None:
    outputs, _ = agent()(random_tensor(50, 4, seed=0))
    assert (torch.softmax(outputs, 1) - 1 / 6).abs().max() < 0.01


@pytest.mark.parametrize("hidden", [(16, 8), (16,), ()])
@pytest.mark.parametrize("critic", [True, False])
def test_numpys_networks_are_pytorchs_in_values_and_gradients(critic: bool, hidden: tuple[int, ...]) -> None:
    made = Agent(4, 6, hidden, continuous=False, critic=critic)
    initialize(made, 0)
    with torch.no_grad():
        made.weights.add_(0.1 * random_tensor(len(made.weights), seed=5))
    observations = random_tensor(40, 4, seed=3)
    gradients = []
    for run in (made.__call__, made.plain):
        outputs, values = run(observations)
        made.zero_grad()
        (outputs.square().sum() + (3 * values.exp()).sum()).backward()
        assert made.weights.grad is not None
        gradients.append((outputs.detach(), values.detach(), made.weights.grad.clone()))
    for fast, plain in zip(*gradients, strict=True):
        assert_close(fast, plain, atol=2e-5, rtol=1e-5)
    assert gradients[0][2].count_nonzero() == len(made.weights)


def test_deviations_are_outputs_that_observations_do_not_move() -> None:
    made = agent(continuous=True)
    with torch.no_grad():
        made.named()["log_deviations"].copy_(torch.tensor([1.0, 2.0, 3.0]))
    outputs, _ = made(random_tensor(5, 4, seed=0))
    assert outputs.shape == (5, 6) and outputs[:, 3:].tolist() == [[1.0, 2.0, 3.0]] * 5
    outputs[:, 3:].sum().backward()
    assert made.weights.grad is not None and made.weights.grad[-3:].tolist() == [5.0] * 3


@pytest.mark.parametrize("continuous", [False, True])
def test_playing_gives_the_policys_numbers_and_follows_its_weights(continuous: bool) -> None:
    made = agent(continuous=continuous)
    playing = ActorInference(made)
    observations = random_tensor(8, 4, seed=3)
    for _ in range(2):
        assert_close(torch.from_numpy(playing.policy(observations.numpy())), made(observations)[0].detach())
        with torch.no_grad():
            made.weights.add_(0.1)
        playing.refresh()


def test_playing_does_not_change_what_it_is_given() -> None:
    observations = np.ones((3, 4), np.float32)
    ActorInference(agent()).policy(observations)
    assert (observations == 1).all()


def test_without_a_critic_values_are_0() -> None:
    made = agent(critic=False)
    assert made(torch.ones(3, 4))[1].tolist() == [0.0] * 3
    assert not any(name.startswith("critic") for name in made.named())


def test_a_gradient_that_is_kept_stays_as_it_was_when_another_is_made() -> None:
    made = agent()
    kept = []
    for seed in (0, 1):
        made.weights.grad = None
        made(random_tensor(5, 4, seed=seed))[0].square().sum().backward()
        assert made.weights.grad is not None
        kept.append((made.weights.grad, made.weights.grad.clone()))
    assert all(torch.equal(gradient, then) for gradient, then in kept)
    assert not torch.equal(kept[0][0], kept[1][0])
