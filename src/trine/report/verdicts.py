"""What PPO did to the rewards, as sentences: the mean before and after, and whether a difference is shown.

Before and after answer the same prompts, so the interval is of the paired differences (Student's t): of their means
prompt by prompt, where a prompt has several answers. It is about the prompts: another seed of training is another run.
"""

import math
import statistics
from dataclasses import dataclass
from typing import Any

from trine.algorithms.statistics import student_quantile
from trine.report.outcome import REWARDS, compares_policies
from trine.report.run_reader import FinishedStage, RecipeRun, is_number
from trine.report.sections import Verdict
from trine.report.tables import number, signed, whole

NAMES = {"reward": "mean reward", "held_out_reward": "mean score of the held-out reward model"}
MIN_PROMPTS = 5


@dataclass(frozen=True)
class PairedGain:
    """Means before and after over `prompts` prompts, and the half width of the interval of their difference."""

    before: float
    after: float
    prompts: int
    margin: float | None

    @property
    def gain(self) -> float:
        return self.after - self.before

    @property
    def shown(self) -> bool:
        return self.margin is not None and abs(self.gain) > self.margin


def paired_gain(results: dict[str, Any], reward: str, samples: int) -> PairedGain:
    """The gain in the mean of `reward`; its interval, where the scores of at least `MIN_PROMPTS` prompts are known."""
    before, after = (float(results[side][reward]["mean"]) for side in ("before", "after"))
    scores = results.get("scores", {}).get(reward, {})
    pairs = list(zip(scores.get("before", []), scores.get("after", []), strict=False))
    differences = [b - a if is_number(a) and is_number(b) else None for a, b in pairs]
    prompts = len(differences) // max(samples, 1)
    # The answers to a prompt stand `prompts` places apart.
    groups = [[d for d in differences[index::prompts] if d is not None] for index in range(prompts)]
    means = [statistics.fmean(group) for group in groups if group]
    if len(means) < MIN_PROMPTS:
        return PairedGain(before, after, len(means), None)
    margin = student_quantile(len(means) - 1) * statistics.stdev(means) / math.sqrt(len(means))
    return PairedGain(before, after, len(means), margin)


def verdicts(run: FinishedStage, recipe: RecipeRun) -> list[Verdict]:
    """A sentence on each reward, and one on what both together say."""
    if not compares_policies(run):
        return []
    samples = run.config.get("samples", 1)
    gains = {reward: paired_gain(run.results, reward, samples if isinstance(samples, int) else 1) for reward in REWARDS}
    each = [Verdict(_sentence(NAMES[reward], gain), _detail(gain), gain.shown) for reward, gain in gains.items()]
    return [*each, *_together(gains["reward"], gains["held_out_reward"])]


def _sentence(label: str, gain: PairedGain) -> str:
    means = f"from {number(gain.before, 2)} to {number(gain.after, 2)}"
    if gain.margin is None:
        return f"The {label} went {means}; there are too few scores for an interval."
    interval = f"95% interval of the gain {signed(gain.gain - gain.margin)} to {signed(gain.gain + gain.margin)}"
    if gain.shown:
        return f"PPO {'raised' if gain.gain > 0 else 'lowered'} the {label} {means} ({interval})."
    return f"No difference shown in the {label}: {means} ({interval})."


def _detail(gain: PairedGain) -> str:
    return (
        f"{whole(gain.prompts)} held-out prompts, each answered before and after PPO."
        if gain.margin is not None
        else ""
    )


def _together(reward: PairedGain, held_out: PairedGain) -> list[Verdict]:
    """What the reward that PPO maximised and the one it did not use say together."""
    if not reward.shown or reward.gain < 0 or held_out.margin is None:
        return []
    if held_out.shown and held_out.gain > 0:
        return [Verdict("The held-out reward model confirms the gain.", "PPO did not use it. Read the answers too.")]
    return [
        Verdict(
            "The held-out reward model does not confirm the gain: look for reward hacking.",
            "A gain only in the reward that PPO maximised is often length, repetition or another short cut.",
            shown=False,
        )
    ]
