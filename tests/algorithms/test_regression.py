"""Ridge regression against the normal equations solved another way, and what its penalty is for."""

import torch
from torch.testing import assert_close

from tests.tiny import random_tensor
from trine.algorithms.masked import explained_variance
from trine.algorithms.regression import ridge_regression


def test_without_a_penalty_it_is_least_squares() -> None:
    features, targets = random_tensor(40, 6, seed=0), random_tensor(40, seed=1)
    expected = torch.linalg.lstsq(features.double(), targets.double().unsqueeze(1)).solution.squeeze(1)
    assert_close(ridge_regression(features, targets, penalty=0.0).double(), expected, rtol=1e-5, atol=1e-6)


def test_the_penalty_is_that_of_rows_added_below() -> None:
    features, targets = random_tensor(40, 6, seed=0), random_tensor(40, seed=1)
    strength = (0.3 * (features.T @ features).diagonal().mean()).sqrt()
    longer = torch.cat((features, strength * torch.eye(6))), torch.cat((targets, torch.zeros(6)))
    assert_close(ridge_regression(features, targets, penalty=0.3), ridge_regression(*longer, 0.0), rtol=1e-4, atol=1e-6)


def test_the_unit_of_the_features_does_not_matter() -> None:
    features, targets = random_tensor(40, 6, seed=0), random_tensor(40, seed=1)
    one, other = ridge_regression(features, targets), ridge_regression(1000 * features, targets)
    assert_close(one, 1000 * other, rtol=1e-4, atol=1e-7)


def test_more_features_than_rows_are_not_learned_by_heart() -> None:
    """Rows that resemble each other, as the tokens of a response do: new ones are predicted with the penalty only."""
    truth = random_tensor(30, seed=2)
    known, new = (random_tensor(25, 30, seed=seed) for seed in (3, 4))
    noise = 2 * random_tensor(25, seed=5)
    mask = torch.ones(25, dtype=torch.bool)
    explained = [
        explained_variance(new @ ridge_regression(known, known @ truth + noise, penalty), new @ truth, mask)
        for penalty in (0.1, 1e-6)
    ]
    assert explained[0] > 0.0 > explained[1]
