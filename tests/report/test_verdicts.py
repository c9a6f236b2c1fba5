"""The sentence on top of the report: true of the scores, with an interval that holds as often as it says."""

import random
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_report import evaluation, finished
from trine.algorithms.statistics import student_quantile
from trine.report.report import write_report
from trine.report.run_reader import FinishedStage, RecipeRun
from trine.report.verdicts import paired_gain, verdicts

# Two-sided 95% quantiles of Student's t (any table of it).
TABLE = {4: 2.776, 5: 2.571, 10: 2.228, 30: 2.042, 120: 1.980, 100_000: 1.960}


def results(before: list[float], after: list[float], held_out: tuple[list[float], list[float]]) -> dict[str, Any]:
    scores = {
        "reward": {"before": before, "after": after},
        "held_out_reward": {"before": held_out[0], "after": held_out[1]},
    }
    sides: dict[str, Any] = {
        side: {reward: {"mean": statistics.fmean(scores[reward][side])} for reward in scores}
        for side in ("before", "after")
    }
    return {"scores": scores, **sides}


def said(found: dict[str, Any], **config: Any) -> list[str]:
    run = FinishedStage("evaluate", "evaluate", None, config, {}, found, [], [])
    return [verdict.sentence for verdict in verdicts(run, RecipeRun("", 0, None, [run]))]


def around(mean: float, count: int = 50, seed: int = 0) -> list[float]:
    source = random.Random(seed)
    return [source.gauss(mean, 1.0) for _ in range(count)]


@pytest.mark.parametrize("freedom", TABLE)
def test_the_quantiles_are_those_of_students_t(freedom: int) -> None:
    assert student_quantile(freedom) == pytest.approx(TABLE[freedom], abs=2e-3)


def test_the_interval_holds_the_true_gain_as_often_as_it_says() -> None:
    """5.5: 95 of 100 times, with one answer for each prompt or with several, which are alike."""
    source = random.Random(0)
    for samples in (1, 4):
        held = 0
        for _ in range(1000):
            offsets = [source.gauss(0.3, 0.5) for _ in range(12)]  # what a prompt's answers share
            before = [source.gauss(0.0, 1.0) for _ in range(12 * samples)]
            after = [b + offsets[n % 12] + source.gauss(0.0, 0.3) for n, b in enumerate(before)]
            gain = paired_gain(results(before, after, (before, after)), "reward", samples)
            assert gain.margin is not None and gain.prompts == 12
            held += abs(gain.gain - 0.3) <= gain.margin
        assert 930 <= held <= 970


def test_a_difference_is_claimed_only_where_the_interval_leaves_out_none() -> None:
    """5.5: raised, lowered, or no difference shown; noise is no result."""
    before = around(0.0)
    up, down, noise = ([b + n for b, n in zip(before, around(mean, seed=1), strict=True)] for mean in (1.0, -1.0, 0.05))
    raised = said(results(before, up, (before, up)))
    assert raised[0].startswith("PPO raised the mean reward from ") and "(95% interval of the gain +" in raised[0]
    assert raised[1].startswith("PPO raised the mean score of the held-out reward model")
    assert raised[2] == "The held-out reward model confirms the gain."
    assert said(results(before, down, (before, down)))[0].startswith("PPO lowered the mean reward")
    hacked = said(results(before, up, (before, noise)))
    assert hacked[1].startswith("No difference shown in the mean score of the held-out") and " -0." in hacked[1]
    assert "reward hacking" in hacked[2]
    nothing = said(results(before, noise, (before, up)))
    assert nothing[0].startswith("No difference shown in the mean reward") and len(nothing) == 2
    same = said(results(before, before, (before, before)))
    assert same[0].startswith("No difference shown") and "+0.00 to +0.00" in same[0]


def test_where_there_are_too_few_scores_no_interval_is_claimed() -> None:
    for count in (1, 2, 4):
        sentences = said(results([0.0] * count, [1.0] * count, ([0.0], [1.0])))
        assert sentences[0] == "The mean reward went from 0.00 to 1.00; there are too few scores for an interval."
        assert len(sentences) == 2


def test_the_verdict_stands_above_everything_else_and_nothing_is_larger_than_words(tmp_path: Path) -> None:
    """5.5: the page begins with the sentences, and the terminal's text ends with them and their table."""
    before = around(0.2, 40)
    scores = {"before": before, "after": [b + 1.0 + n / 100 for n, b in enumerate(before)]}
    done = evaluation() | {"scores": {"reward": scores, "held_out_reward": scores}}
    finished(tmp_path, "evaluate", {}, done)
    (tmp_path / "evaluate" / "run.json").write_text('{"stage": "evaluate"}')
    path, text = write_report(tmp_path)
    page = path.read_text("utf-8")
    place = page.index('<ul class="verdicts"')
    assert place < page.index("<section") and "PPO raised the mean reward" in page[place : page.index("</ul>", place)]
    assert "PPO raised the mean reward" in text.partition("What PPO changed")[2]
    assert 'class="gain' not in page and "font-size: 2.5rem" not in page
