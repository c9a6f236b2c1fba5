"""The loss of a discriminative task: cross-entropy of the label (Radford et al. 2018, eq. 4)."""

import torch.nn.functional as F
from torch import Tensor


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over examples of -log softmax(logits)[label], in nats.

    `logits` [N, C], -inf for what is no choice of an example; `labels` [N].
    """
    return F.cross_entropy(logits.float(), labels, reduction="sum")
