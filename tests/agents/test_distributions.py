"""Both faces of a distribution, NumPy's that plays and PyTorch's that learns, against PyTorch's own."""

import numpy as np
import torch
from torch.testing import assert_close

from tests.tiny import random_tensor
from trine.agents.distributions import Categorical, Normal


def test_log_probabilities_and_entropy_are_pytorchs() -> None:
    outputs = random_tensor(20, 5, seed=0, dtype=torch.float64)
    actions = torch.arange(20) % 5
    theirs = torch.distributions.Categorical(logits=outputs)
    log_probs, entropy = Categorical(5).log_probs_and_entropy(outputs, actions)
    assert_close(log_probs, theirs.log_prob(actions))
    assert_close(entropy, theirs.entropy())

    outputs, places = (
        random_tensor(20, 6, seed=1, dtype=torch.float64),
        random_tensor(20, 3, seed=2, dtype=torch.float64),
    )
    normal = torch.distributions.Independent(torch.distributions.Normal(outputs[:, :3], outputs[:, 3:].exp()), 1)
    log_probs, entropy = Normal(3).log_probs_and_entropy(outputs, places)
    assert_close(log_probs, normal.log_prob(places))
    assert_close(entropy, normal.entropy())


def test_draws_have_the_frequencies_of_the_probabilities() -> None:
    outputs = np.tile(np.log([0.5, 0.3, 0.2]).astype(np.float32), (200, 1))
    distribution = Categorical(3)
    noise = distribution.noise(np.random.default_rng(0), 200, 200)
    counts = sum(np.bincount(distribution.sample(outputs, each), minlength=3) for each in noise)
    assert np.abs(counts / 40_000 - [0.5, 0.3, 0.2]).max() < 0.01
    assert distribution.mode(outputs).tolist() == [0] * 200


def test_draws_have_the_mean_and_deviation_of_the_outputs() -> None:
    outputs = np.tile(np.array([1.0, -2.0, np.log(0.5), np.log(3.0)], np.float32), (400, 1))
    distribution = Normal(2)
    draws = np.concatenate(
        [distribution.sample(outputs, each) for each in distribution.noise(np.random.default_rng(0), 100, 400)]
    )
    assert np.abs(draws.mean(0) - [1.0, -2.0]).max() < 0.05
    assert np.abs(draws.std(0) / [0.5, 3.0] - 1).max() < 0.02
    assert distribution.mode(outputs)[0].tolist() == [1.0, -2.0]


def test_the_noise_of_a_rollout_is_a_function_of_its_generator() -> None:
    for distribution in (Categorical(4), Normal(4)):
        first, again = (distribution.noise(np.random.default_rng(3), 5, 2) for _ in range(2))
        assert first.shape == (5, 2, 4) and first.dtype == np.float32 and np.array_equal(first, again)
