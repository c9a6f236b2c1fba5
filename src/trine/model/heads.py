"""One number from a hidden state: a score for a whole response (reward), or a value for every token (critic).

Neither head has a bias, because the stock `...ForSequenceClassification` classes have none: a reward's gain is
folded into the weight and its offset is kept beside it. Heads compute in fp32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trine.model.transformer import Transformer
from trine.runtime.seeds import derive_seed


class ScalarHead(nn.Module):
    """hidden [..., D] to a scalar [...], fp32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, width))

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden.float(), self.weight).squeeze(-1)


class ScoreModel(nn.Module):
    """A Transformer with a scalar head; `offset` completes the normalisation of its scores."""

    def __init__(self, trunk: Transformer) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = ScalarHead(trunk.config.width)
        self.offset = 0.0

    @torch.no_grad()
    def initialize_head(self, seed: int) -> None:
        """N(0, 1 / (D + 1)) (Stiennon et al. 2020), from `seed` alone."""
        generator = torch.Generator().manual_seed(derive_seed(seed, "score head"))
        width = self.head.weight.shape[1]
        self.head.weight.copy_(torch.randn(1, width, generator=generator) / (width + 1) ** 0.5)

    def forward(
        self, ids: Tensor, last: Tensor, *, positions: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Scores read at columns `last` ([B], or [B, n] for n answers a row) of right-padded `ids` [B, T]."""
        hidden = self.trunk(ids, positions=positions, bias=bias)
        rows = torch.arange(len(ids), device=ids.device).view(-1, *[1] * (last.dim() - 1))
        return self.head(hidden[rows, last]) + self.offset

    @torch.no_grad()
    def normalize(self, gain: float, offset: float) -> None:
        """From now on return gain * score + offset."""
        self.head.weight.mul_(gain)
        self.offset = gain * self.offset + offset


class PolicyWithValue(nn.Module):
    """A policy and a value head on one trunk, or on two when `critic` is given (Ouyang et al. 2022)."""

    def __init__(self, policy: Transformer, critic: Transformer | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.critic = critic
        self.value_head = ScalarHead(policy.config.width if critic is None else critic.config.width)

    def forward(self, ids: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [N, D] of the policy and values [N] (fp32) at positions (rows, columns) of `ids` [B, T]."""
        hidden = self.policy(ids)[rows, columns]
        value_hidden = hidden if self.critic is None else self.critic(ids)[rows, columns]
        return hidden, self.value_head(value_hidden)
