"""What the over-optimisation preview predicted, beside what PPO then kept: the evaluation of the same two rewards."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from trine.algorithms.statistics import Estimate, ratio_estimate
from trine.algorithms.text_best_of_n import tilting_nats
from trine.report.run_reader import FinishedStage, RecipeRun, is_number
from trine.report.sections import Verdict
from trine.report.tables import Table, number, signed
from trine.stages.preferences.preview_figures import MIN_PROMPTS, predicted_share


@dataclass(frozen=True)
class Outcome:
    """Gains of PPO in deviations, by the reward and by the other one; what was kept, and what had been predicted.

    `reached`: whether best of n gained as much. `kl`: nats per answer, as predicted and as PPO spent it.
    """

    gain: float
    other_gain: float
    kept: Estimate
    predicted: float
    reached: bool
    kl: tuple[float, float | None]


def kept_by_ppo(run: FinishedStage, recipe: RecipeRun) -> list[Verdict]:
    """Predicted and kept in one sentence, where a policy trained against the same reward was evaluated by both."""
    outcome = outcome_of(run, recipe)
    if outcome is None:
        return []
    between = outcome.kept.interval
    interval = f" (95% interval {number(between.low, 2)} to {number(between.high, 2)})" if between else ""
    beyond = "" if outcome.reached else ", which is more than best of n reached"
    return [
        Verdict(
            f"PPO kept {number(outcome.kept.mean, 2)}{interval} of each unit of reward; the preview predicted "
            f"{number(outcome.predicted, 2)}.",
            f"At PPO's gain of {number(outcome.gain, 2)} deviations{beyond}.",
            shown=between is not None,
        )
    ]


def outcome_tables(run: FinishedStage, recipe: RecipeRun) -> list[Table]:
    """Best of n at PPO's gain, and PPO."""
    outcome = outcome_of(run, recipe)
    if outcome is None:
        return []
    mark = "" if outcome.reached else " *"
    rows: list[tuple[str, ...]] = [
        ("gain by the reward, deviations", signed(outcome.gain), signed(outcome.gain)),
        (
            "gain by the other reward, deviations",
            signed(outcome.predicted * outcome.gain) + mark,
            signed(outcome.other_gain),
        ),
        ("share kept", number(outcome.predicted, 2) + mark, number(outcome.kept.mean, 2)),
        ("KL, nats per answer", number(outcome.kl[0], 2) + mark, number(outcome.kl[1], 2)),
    ]
    caption = (
        "Predicted: from the curves, at PPO's gain. KL predicted: of best of n; beyond the last n (*) half the square "
        "of the gain, what an exponential tilt of normally distributed scores costs."
    )
    return [Table(("", "predicted", "PPO"), rows, caption, title="What PPO then kept", open=True)]


def outcome_of(run: FinishedStage, recipe: RecipeRun) -> Outcome | None:
    """What PPO kept, where it gained in the reward and at least `MIN_PROMPTS` prompts tell."""
    evaluation = _matching_evaluation(run, recipe)
    if evaluation is None:
        return None
    own, other = (_gains(evaluation, key) for key in ("reward", "held_out_reward"))
    if len(own) != len(other) or len(own) < MIN_PROMPTS or sum(own) <= 0:
        return None
    gain, rows, kl = _mean(own), run.results["rows"], evaluation.results.get("kl")
    share, reached = predicted_share(rows, gain)
    spent = float(str(kl)) if is_number(kl) else None
    return Outcome(gain, _mean(other), ratio_estimate(other, own), share, reached, (nats_at(rows, gain), spent))


def _matching_evaluation(run: FinishedStage, recipe: RecipeRun) -> FinishedStage | None:
    """The evaluation before and after PPO of the policy and the two rewards of this preview."""
    wanted = [_same(run.config.get(key)) for key in ("model", "reward", "other")]
    return next(
        (
            each
            for each in recipe.of_stage("evaluate")
            if "before" in each.results
            and [_same(each.config.get(key)) for key in ("before", "reward", "held_out_reward")] == wanted
        ),
        None,
    )


def _same(name: Any) -> str:
    """A model's name without what a path may say twice: the run folder that holds it."""
    path = Path(str(name))
    return (path.parent if path.name in ("model", "policy") else path).name


def _gains(evaluation: FinishedStage, reward: str) -> list[float]:
    """Gains by prompt, in deviations of the scores before; a prompt's samples are as far apart as there are prompts."""
    scores = evaluation.results.get("scores", {}).get(reward, {})
    deviation = float(evaluation.results["before"][reward]["deviation"]) or 1.0
    gains = [(b - a) / deviation for a, b in zip(scores.get("before", []), scores.get("after", []), strict=False)]
    samples = evaluation.config.get("samples", 1)
    prompts = len(gains) // max(samples if isinstance(samples, int) else 1, 1)
    return [_mean(gains[place::prompts]) for place in range(prompts)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def nats_at(rows: Sequence[dict[str, Any]], gain: float) -> float:
    """KL of best of n at which the reward gains as much; beyond the last n, that of an exponential tilt."""
    points = [(float(row["reward"]["mean"]), float(row["nats"])) for row in rows]
    for (low, start), (high, end) in pairwise(points):
        if low <= gain <= high and high > low:
            return start + (end - start) * (gain - low) / (high - low)
    return tilting_nats(gain)
