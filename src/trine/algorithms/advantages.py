"""Generalized advantage estimation (Schulman et al. 2016).

Shapes: B responses (or, in a control task, the parts of episodes that a rollout saw), T steps; `mask` says which steps
the policy acted at.
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
    `next` is the next step *under the mask*, so that padding leaks nothing and tool output inside a response is
    skipped over. After the last step comes `final_values` [B]: 0 for an ended or cut response, V(s_T) to bootstrap.
    """
    final = torch.zeros_like(values[:, 0]) if final_values is None else final_values
    deltas = torch.where(mask, rewards + gamma * _following(values, mask, final) - values, 0.0)
    # A masked step hands the advantage behind it on as it is.
    decays = torch.where(mask, values.new_tensor(gamma * gae_lambda), 1.0)
    advantage = torch.zeros_like(final)
    steps = []
    for delta, decay in zip(reversed(deltas.T.contiguous()), reversed(decays.T.contiguous()), strict=True):
        advantage = torch.addcmul(delta, decay, advantage)
        steps.append(advantage)
    advantages = torch.where(mask, torch.stack(steps[::-1], 1), 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


def _following(values: Tensor, mask: Tensor, final: Tensor) -> Tensor:
    """For every step, the value of the next step under the mask, [B, T]; `final` where there is none."""
    count = values.shape[1]
    places = torch.arange(count, device=values.device)
    nearest = torch.where(mask, places, count).flip(1).cummin(1).values.flip(1)  # under the mask, from here on
    behind = torch.cat((nearest[:, 1:], nearest.new_full((len(nearest), 1), count)), 1)
    return torch.cat((values, final.unsqueeze(1)), 1).gather(1, behind)
