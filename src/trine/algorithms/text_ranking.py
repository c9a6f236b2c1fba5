"""What is reported of a reward model's scores of pairs, and their unit; losses are in `text_judgements.py`."""

import torch
from torch import Tensor

from trine.algorithms.masked import centred


def normalization(scores: Tensor) -> tuple[float, float]:
    """Gain and offset that give `scores` [N] mean 0 and variance 1: gain * score + offset; equal scores keep gain 1."""
    deviations, mean = centred(scores, torch.ones_like(scores, dtype=torch.bool))
    deviation = float(deviations.square().mean().sqrt())
    gain = 1.0 / deviation if deviation > 1e-8 else 1.0
    return gain, -gain * float(mean)


def pair_wins(chosen: Tensor, rejected: Tensor) -> Tensor:
    """For each pair 1 where the chosen answer scores higher, 1/2 for a tie, else 0."""
    return (chosen > rejected).double() + 0.5 * (chosen == rejected).double()


def pair_accuracy(chosen: Tensor, rejected: Tensor) -> float:
    """Share of pairs in which the chosen answer scores higher; ties count half."""
    return float(pair_wins(chosen, rejected).mean()) if len(chosen) else float("nan")


def reliability(margins: Tensor, bins: int = 10) -> list[tuple[float, float, int]]:
    """Calibration: (mean confidence, accuracy, n) for each bin of the confidence max(p, 1 - p), p = sigmoid(margin)."""
    confidence = torch.sigmoid(margins.abs().double())
    right = (margins > 0).double()
    rows = []
    for index in range(bins):
        low, high = 0.5 + 0.5 * index / bins, 0.5 + 0.5 * (index + 1) / bins
        inside = (confidence >= low) & ((confidence < high) if index + 1 < bins else (confidence <= high))
        if inside.any():
            rows.append((float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum())))
    return rows
