"""The loss of a discriminative task: cross-entropy of the label (Radford et al. 2018, eq. 4)."""

import torch.nn.functional as F
from torch import Tensor


def label_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(sum over examples of -log softmax(logits)[label], how many examples are right).

    `logits` [N, C], -inf for what is no choice of an example; `labels` [N]. Right is the label with the highest logit;
    a tie goes to the first.
    """
    return F.cross_entropy(logits.float(), labels, reduction="sum"), (logits.argmax(-1) == labels).sum()
