"""Baselines for a reward model: logistic regression on the length of an answer, or on its bag of tokens."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Sides = Sequence[tuple[Sequence[int], Sequence[int]]]
PENALTY = 1e-3
MAX_PAIRS = 4096  # counts are dense: more pairs would need gigabytes and change little


def length_accuracy(train: Sides, held_out: Sides) -> float:
    """Accuracy of logistic regression on length, its log and its square, fitted to the training pairs."""
    return _accuracy(_length_features(train), _length_features(held_out))


def bag_of_tokens_accuracy(train: Sides, held_out: Sides, vocab_size: int) -> float:
    """Accuracy of logistic regression on which tokens occur how often (log(1 + count))."""
    return _accuracy(_bags(train, vocab_size), _bags(held_out, vocab_size))


def _length_features(pairs: Sides) -> Tensor:
    lengths = torch.tensor([[len(chosen), len(rejected)] for chosen, rejected in pairs], dtype=torch.float32)
    features = torch.stack((lengths / 32, lengths.log(), (lengths / 32).square()), -1)  # P, side, feature
    return features[:, 0] - features[:, 1]


def _bags(pairs: Sides, vocab_size: int) -> Tensor:
    pairs = pairs[:MAX_PAIRS]
    rows = [[np.bincount(side, minlength=vocab_size) for side in pair] for pair in pairs]
    counts = torch.from_numpy(np.array(rows, dtype=np.float32)).log1p()  # P, side, V
    return counts[:, 0] - counts[:, 1]


def _accuracy(train: Tensor, held_out: Tensor) -> float:
    """Fit -log sigmoid(w . (chosen - rejected)) + penalty |w|^2 by L-BFGS on `train`; score on `held_out`."""
    weight = torch.zeros(train.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -F.logsigmoid(train @ weight).mean() + PENALTY * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    margins = (held_out @ weight).detach()
    return float((margins > 0).double().mean() + 0.5 * (margins == 0).double().mean())
