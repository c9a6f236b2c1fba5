"""Losses of a discriminative task: cross-entropy of a label (Radford et al. 2018, eq. 4), squared error of a score."""

import torch.nn.functional as F
from torch import Tensor


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over examples of -log softmax(logits)[label], in nats.

    `logits` [N, C], -inf for what is no choice of an example; `labels` [N].
    """
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def score_loss(logits: Tensor, scores: Tensor) -> Tensor:
    """Sum over examples of (logit - score)^2; `logits` [N, 1], `scores` [N]."""
    return F.mse_loss(logits.float().squeeze(-1), scores, reduction="sum")
