"""Scalar heads: a score for each response (reward model) or a value for each token (critic).

The heads have no bias because `...ForSequenceClassification` of transformers has none: the gain of a normalized reward
is folded into the weight, and its offset is stored separately. Heads compute in fp32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trine.model.products import is_row_invariant
from trine.model.transformer import Transformer
from trine.records import Closing, Form, Side
from trine.runtime.seeds import derive_seed


class ScalarHead(nn.Module):
    """Maps hidden states [..., D] to scalars [...], in fp32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, width))

    def forward(self, hidden: Tensor) -> Tensor:
        return head_product(hidden, self.weight).squeeze(-1)


def head_product(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden [..., D] weight [C, D]^T, [..., C] in fp32; within `products.row_invariant` each is a sum of its own."""
    if is_row_invariant():
        return (hidden.float().unsqueeze(-2) * weight).sum(-1, dtype=torch.float64).float()
    return F.linear(hidden.float(), weight)


class ScoreModel(nn.Module):
    """A Transformer with a scalar head: score = head(hidden) + offset.

    `closed`: how it is to be shown a cut answer; `form`: whether it reads conversations or plain text. `max_tokens`:
    longer texts lose their `truncation_side`; None: they are errors. `end_token`: the name of the token at whose place
    it is read, where that is known.

    Example::

        model = ScoreModel(Transformer(config))
        scores = model(ids, last=torch.tensor([9, 4]))  # of two rows that end at columns 9 and 4
    """

    def __init__(self, trunk: Transformer) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = ScalarHead(trunk.config.width)
        self.offset = 0.0
        self.closed: Closing = "end"
        self.form: Form = "chat"
        self.max_tokens: int | None = None
        self.truncation_side: Side = "right"
        self.end_token: str | None = None

    @torch.no_grad()
    def initialize_head(self, seed: int) -> None:
        """N(0, 1 / (D + 1)) (Stiennon et al. 2020), from `seed` alone."""
        generator = torch.Generator().manual_seed(derive_seed(seed, "score head"))
        width = self.head.weight.shape[1]
        self.head.weight.copy_(torch.randn(1, width, generator=generator) / (width + 1) ** 0.5)

    def reads_as(self, other: "ScoreModel") -> None:
        """Take from `other` all that is no weight: the offset, and what its scores are read from."""
        self.offset, self.closed, self.form = other.offset, other.closed, other.form
        self.max_tokens, self.truncation_side = other.max_tokens, other.truncation_side
        self.end_token = other.end_token

    def forward(
        self, ids: Tensor, last: Tensor, *, positions: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """Scores at columns `last` of right-padded `ids` [B, T]; `last` is [B], or [B, n] for n answers in each row.

        `positions` and `segments` as `Transformer.forward` takes them.
        """
        hidden = self.trunk(ids, positions=positions, segments=segments)  # [B, T, D]
        rows = torch.arange(len(ids), device=ids.device).view(-1, *[1] * (last.dim() - 1))  # [B] or [B, 1]
        return self.head(hidden[rows, last]) + self.offset

    @torch.no_grad()
    def normalize(self, gain: float, offset: float) -> None:
        """Replace the score s by gain * s + offset."""
        self.head.weight.mul_(gain)
        self.offset = gain * self.offset + offset


class PolicyWithValue(nn.Module):
    """A policy and a value head on one trunk, or on two when `critic` is given (Ouyang et al. 2022).

    `value_offset` is added to every value: a critic that begins as a reward model keeps the offset of that. Without
    `valued` there is no value head, for algorithms that have no critic (GRPO, RLOO).
    """

    def __init__(self, policy: Transformer, critic: Transformer | None = None, *, valued: bool = True) -> None:
        super().__init__()
        self.policy = policy
        self.critic = critic
        if valued:
            self.value_head = ScalarHead(policy.config.width if critic is None else critic.config.width)
        self.value_offset = 0.0

    def forward(self, ids: Tensor, rows: Tensor, columns: Tensor, **seen: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [N, D] of the policy and values [N] (fp32) at positions (rows, columns) of `ids` [B, T].

        `seen` is what else `Transformer.forward` takes.
        """
        hidden = self.policy(ids, **seen)[rows, columns]
        value_hidden = hidden if self.critic is None else self.value_hidden(ids, rows, columns, **seen)
        return hidden, self.values(value_hidden)

    def value_hidden(self, ids: Tensor, rows: Tensor, columns: Tensor, **seen: Tensor) -> Tensor:
        """What the value head reads, [N, D]: hidden states of the critic, or of the policy where they share a trunk."""
        hidden: Tensor = (self.critic or self.policy)(ids, **seen)
        return hidden[rows, columns]

    def values(self, value_hidden: Tensor) -> Tensor:
        """Values [N], in fp32, of hidden states [N, D]."""
        values: Tensor = self.value_head(value_hidden)
        return values + self.value_offset if self.value_offset else values
