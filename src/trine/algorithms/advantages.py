"""Generalized advantage estimation (Schulman et al. 2016).

Shapes: B responses (in control tasks: segments of episodes), T steps; `mask` [B, T] marks the steps where the policy
acted.
"""

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    final_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, [B, T] each, 0 outside the mask (eqs. 11-16 of the paper).

    delta_t = r_t + gamma V_next - V_t;  A_t = delta_t + gamma gae_lambda A_next;  return = A + V, before any whitening.
    `next` is the next step *under the mask*, so that padding has no effect and tool output inside a response is
    skipped. `final_values` [B] is the value after the last step: 0 (default) for a response, V(s_T) to bootstrap.
    """
    final = torch.zeros_like(values[:, 0]) if final_values is None else final_values
    deltas = torch.where(mask, rewards + gamma * _following(values, mask, final) - values, 0.0)
    # A masked step passes the advantage of the next step through unchanged.
    decays = torch.where(mask, values.new_tensor(gamma * gae_lambda), 1.0)
    advantage = torch.zeros_like(final)
    steps = []
    for delta, decay in zip(reversed(deltas.T.contiguous()), reversed(decays.T.contiguous()), strict=True):
        advantage = torch.addcmul(delta, decay, advantage)  # [B], from the last step to the first
        steps.append(advantage)
    advantages = torch.where(mask, torch.stack(steps[::-1], 1), 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


def _following(values: Tensor, mask: Tensor, final: Tensor) -> Tensor:
    """The value of the next step under the mask, [B, T]; `final` [B] after the last one."""
    count = values.shape[1]
    indices = torch.arange(count, device=values.device)
    # [B, T]: the first step under the mask at t or later, `count` where there is none.
    nearest = torch.where(mask, indices, count).flip(1).cummin(1).values.flip(1)
    after = torch.cat((nearest[:, 1:], nearest.new_full((len(nearest), 1), count)), 1)
    return torch.cat((values, final.unsqueeze(1)), 1).gather(1, after)
