"""Losses that learn a policy from preferences without sampling: DPO and its kin, one value for each pair or answer.

Log-probabilities of answers are sums over their tokens, in nats; a mean is a sum divided by the answer's length, and a
loss that takes means says so. h is how much further than the reference the policy prefers the chosen answer:

    h = (log pi(chosen) - log ref(chosen)) - (log pi(rejected) - log ref(rejected))

| loss   | value                                     | source                     | reference |
| dpo    | -log sigmoid(beta h)                      | Rafailov et al. 2023       | yes       |
| robust | the same, unbiased under flipped labels   | Chowdhury et al. 2024      | yes       |
| hinge  | max(0, 1 - beta h)                        | Zhao et al. 2023 (SLiC)    | yes       |
| ipo    | (h - 1 / (2 beta))^2                      | Azar et al. 2023           | yes       |
| kto    | 1 - sigmoid(+-beta (r - z0))              | Ethayarajh et al. 2024     | yes       |
| simpo  | -log sigmoid(beta mean difference - gamma)| Meng et al. 2024           | no        |
| orpo   | -log sigmoid(log odds ratio), beside SFT  | Hong et al. 2024           | no        |

The training loop adds them up over a step and divides by the step's count. Where policy and reference are one model, h
is 0 and DPO's loss is log 2.
"""

from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_LOG_PROB = -1e-9  # a probability of 1 has no odds
SHIFTS_TRIED = 32


@dataclass(frozen=True)
class PairLogProbs:
    """Both answers of P pairs under the policy: log-probabilities (sums over tokens) and lengths in tokens, [P] each.

    `reference_*` are those of the reference, where the loss has one.

    >>> both = PairLogProbs(*(torch.tensor([x]) for x in (-10.0, -14.0, 5.0, 7.0, -11.0, -12.0)))
    >>> both.margins().item()
    3.0
    """

    chosen: Tensor
    rejected: Tensor
    chosen_lengths: Tensor
    rejected_lengths: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None

    def log_ratios(self) -> tuple[Tensor, Tensor]:
        """log pi / ref of the chosen and of the rejected answers, sums over tokens."""
        assert self.reference_chosen is not None and self.reference_rejected is not None
        return self.chosen - self.reference_chosen, self.rejected - self.reference_rejected

    def margins(self) -> Tensor:
        """h [P] of sums."""
        chosen, rejected = self.log_ratios()
        return chosen - rejected

    def mean_margins(self) -> Tensor:
        """h [P] of means over tokens."""
        chosen, rejected = self.log_ratios()
        return chosen / self.chosen_lengths - rejected / self.rejected_lengths

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean log-probability of a token of the chosen and of the rejected answers, without reference."""
        return self.chosen / self.chosen_lengths, self.rejected / self.rejected_lengths


def dpo_loss(margins: Tensor, beta: float, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """-log sigmoid(beta h) [P] (Rafailov et al. 2023, eq. 7).

    `label_smoothing` e: the preference is taken to be the other way round with probability e (cDPO, Mitchell 2023); the
    loss is then least at beta h = log((1 - e) / e) instead of at infinity. A number, or [P] for pairs that are not
    equally sure (a tie is 1/2).
    """
    right, wrong = F.logsigmoid(beta * margins), F.logsigmoid(-beta * margins)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def robust_loss(margins: Tensor, beta: float, flipped: float) -> Tensor:
    """DPO's loss [P], unbiased where a share `flipped` < 1/2 of the labels is wrong (Chowdhury et al. 2024, eq. 12)."""
    right, wrong = F.logsigmoid(beta * margins), F.logsigmoid(-beta * margins)
    return (flipped * wrong - (1 - flipped) * right) / (1 - 2 * flipped)


def hinge_loss(margins: Tensor, beta: float) -> Tensor:
    """max(0, 1 - beta h) [P] (Zhao et al. 2023, as Liu et al. 2024 compare it with DPO)."""
    return F.relu(1 - beta * margins)


def ipo_loss(margins: Tensor, beta: float) -> Tensor:
    """(h - 1 / (2 beta))^2 [P] (Azar et al. 2023, eq. 17); of sums or of means over tokens, which is another loss."""
    return (margins - 1 / (2 * beta)).square()


def simpo_loss(mean_differences: Tensor, beta: float, gamma: float) -> Tensor:
    """-log sigmoid(beta (mean of chosen - mean of rejected) - gamma) [P] (Meng et al. 2024, eq. 6)."""
    return -F.logsigmoid(beta * mean_differences - gamma)


def log_odds_ratio(mean_chosen: Tensor, mean_rejected: Tensor) -> Tensor:
    """log of odds(chosen) / odds(rejected) [P]; odds = p / (1 - p), p = exp of a token's mean log-probability."""
    return _log_odds(mean_chosen) - _log_odds(mean_rejected)


def _log_odds(mean_log_probs: Tensor) -> Tensor:
    """log p - log(1 - p), the latter without loss of digits for p near 0 and near 1 (Machler 2012)."""
    bounded = mean_log_probs.clamp(max=MAX_LOG_PROB)
    near = torch.log(-torch.expm1(bounded.clamp(min=-log(2))))
    far = torch.log1p(-bounded.clamp(max=-log(2)).exp())
    return bounded - torch.where(bounded > -log(2), near, far)


def odds_ratio_loss(mean_chosen: Tensor, mean_rejected: Tensor) -> Tensor:
    """-log sigmoid of the log odds ratio [P] (Hong et al. 2024, eq. 7); ORPO adds it to the chosen's cross-entropy."""
    return -F.logsigmoid(log_odds_ratio(mean_chosen, mean_rejected))


def kto_loss(log_ratios: Tensor, desirable: Tensor, reference_point: float, beta: float) -> Tensor:
    """1 - sigmoid(beta (r - z0)) of desirable answers, 1 - sigmoid(beta (z0 - r)) of others, [B] (eq. 8).

    `log_ratios` r [B] = log pi / ref; `reference_point` z0 has no gradient.
    """
    signs = torch.where(desirable, 1.0, -1.0).to(log_ratios)
    return torch.sigmoid(-signs * beta * (log_ratios - reference_point))


def kto_reference_point(total: float, count: float) -> float:
    """z0 = max(0, mean log-ratio of answers behind other prompts than their own), an estimate of KL(pi || ref)."""
    return max(0.0, total / count) if count else 0.0


def kto_weights(desirable: int, undesirable: int) -> tuple[float, float]:
    """Weights (desirable, undesirable) that bring n_D w_D / (n_U w_U) into [1, 4/3], changing one as little as needed.

    Ethayarajh et al. 2024, eq. 9.

    >>> kto_weights(30, 10)
    (1.0, 2.25)
    """
    if not desirable or not undesirable:
        return 1.0, 1.0
    ratio = desirable / undesirable
    if ratio > 4 / 3:
        return 1.0, ratio * 3 / 4
    return (1 / ratio, 1.0) if ratio < 1 else (1.0, 1.0)


def kto_weights_fit(desirable: float, undesirable: float) -> bool:
    """Whether n_D w_D and n_U w_U stand in the ratio that the paper asks for."""
    return bool(undesirable) and 1 - 1e-9 <= desirable / undesirable <= 4 / 3 + 1e-9


def rotated_mismatches(prompts: list[tuple[int, ...]]) -> list[int]:
    """For each of B >= 2 answers the place of another, whose answer to another prompt is read behind its own prompt.

    By one rotation for all, so that each answer is used once (a reversal would leave the middle one of an odd number
    with itself): the smallest one under which the fewest meet their own prompt again. Those have -1.

    >>> rotated_mismatches([(1,), (2,), (3,)])
    [1, 2, 0]
    """
    count = len(prompts)
    if count < 2:
        raise ValueError("a mismatch needs two answers or more")

    def met(shift: int) -> int:
        return sum(prompt == prompts[(place + shift) % count] for place, prompt in enumerate(prompts))

    shift = min(range(1, min(count, SHIFTS_TRIED + 1)), key=met)
    others = [(place + shift) % count for place in range(count)]
    return [other if prompts[other] != prompts[place] else -1 for place, other in enumerate(others)]
