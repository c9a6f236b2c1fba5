"""From a reward's scores to what responses are paid: scaled, clipped, and less the penalties of no end and of length.

Scaling divides by the deviation of all scores so far, as TRL's `score_scaling` did; they are running state, which
learns from an iteration only if one of its updates was taken.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from trine.config.rl import PpoConfig
from trine.records import Rollout
from trine.stages.rl.experience import final_scores
from trine.stages.rl.groups import overlong


@dataclass(frozen=True)
class ScoreMoments:
    """Count, mean and sum of squared deviations of all scores so far (Chan, Golub & LeVeque 1983).

    `unit`: the deviation of the first iteration's, fresh samples of the initial policy; None before it.
    """

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    unit: float | None = None

    def taking_in(self, scores: Tensor) -> "ScoreMoments":
        """The moments with these scores [B] too, NaNs left out."""
        wide = scores[~scores.isnan()].double()
        if not len(wide):
            return self
        count, mean = float(len(wide)), float(wide.mean())
        squares = float((wide - mean).square().sum())
        total, apart = self.count + count, mean - self.mean
        unit = (squares / count) ** 0.5 if self.unit is None else self.unit
        return ScoreMoments(
            total,
            self.mean + apart * count / total,
            self.squares + squares + apart**2 * self.count * count / total,
            unit,
        )

    @property
    def deviation(self) -> float:
        """Of all scores so far; 1 where they do not differ."""
        found = (self.squares / self.count) ** 0.5 if self.count else 0.0
        return found if found > 0 else 1.0

    def state(self) -> dict[str, Any]:
        return asdict(self)


def paid_scores(scores: Tensor, rollouts: Sequence[Rollout], moments: ScoreMoments, config: PpoConfig) -> Tensor:
    """What each response is paid, [B]; `moments` have taken in these scores."""
    if config.score_scaling != "none":
        shift = moments.mean if config.score_scaling == "normalize" else 0.0
        scores = ((scores.double() - shift) / moments.deviation).to(scores.dtype)
    if config.score_clip is not None:
        scores = scores.clamp(-config.score_clip, config.score_clip)
    final = final_scores(scores, rollouts, penalty(moments, config), config.missing_eos_score)
    return overlong(final, rollouts, config)


def penalty(moments: ScoreMoments, config: PpoConfig) -> float:
    """`missing_eos_penalty` in the unit of what is paid."""
    if config.penalty_unit == "score":
        return config.missing_eos_penalty
    # Scaled scores are in deviations already.
    return config.missing_eos_penalty * (1.0 if config.score_scaling != "none" else (moments.unit or 1.0))
