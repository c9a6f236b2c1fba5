"""What the networks say of response tokens, in one forward pass, which is what DDP and FSDP can wrap.

Nothing is computed twice: a policy and a value head that share a trunk run it once, and logits exist for the positions
of response tokens only. Shapes: B rows, T time, N response tokens, D width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from trine.algorithms.text_log_probs import target_log_probs, token_log_probs
from trine.model.heads import PolicyWithValue
from trine.model.lora import lora_off

Part = Literal["both", "policy", "critic", "reference", "value_hidden"]
"""Which networks run: policy and critic, one of them, the policy without its adapters; or what the value head reads."""


class TokenPass(nn.Module):
    """Log-probabilities, entropies and values of tokens at positions (rows, columns) of `ids` [B, T].

    `seen` is what else `Transformer.forward` takes, where responses stand behind one prompt.
    """

    def __init__(self, model: PolicyWithValue, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(
        self, ids: Tensor, rows: Tensor, columns: Tensor, targets: Tensor, part: Part, **seen: Tensor
    ) -> tuple[Tensor, ...]:
        """(log-probabilities, entropies, values), [N] each; of one network alone what it gives."""
        model = self.model
        if part == "value_hidden":
            return (model.value_hidden(ids, rows, columns, **seen),)
        if part == "critic":
            return (model.values(model.value_hidden(ids, rows, columns, **seen)),)
        if part == "reference":
            with lora_off(model.policy):
                hidden = model.policy(ids, **seen)[rows, columns]
            return (target_log_probs(hidden, model.policy.output_weight, targets, self.temperature),)
        if part == "policy":
            hidden, values = model.policy(ids, **seen)[rows, columns], None
        else:
            hidden, values = model(ids, rows, columns, **seen)
        found = token_log_probs(hidden, model.policy.output_weight, targets, self.temperature)
        return found if values is None else (*found, values)


def token_outputs(found: tuple[Tensor, ...], part: Part) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies and values of what `TokenPass` gave for `part`, with zeros for what did not run."""
    zeros = torch.zeros_like(found[0])
    log_probs, entropy = (zeros, zeros) if part == "critic" else found[:2]
    return log_probs, entropy, zeros if part == "policy" else found[-1]
