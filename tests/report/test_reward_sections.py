"""What the report says of a reward model's worth: every figure with its interval, and faults in red."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_report import described, finished, reward_results
from tests.stages.test_worth import (
    Marks,
    by_length,
    flipped,
    honest,
    labelled,
    late_words,
    paired,
    ranked,
    scored_by,
)
from trine.report.report import write_report
from trine.stages.preferences.judged import Judged
from trine.stages.preferences.worth import Beside, worth


def reported(out: Path, found: dict[str, Any]) -> tuple[str, str]:
    """The report as text and as a page."""
    finished(out, "reward", {}, reward_results(0.75) | {"worth": json.loads(json.dumps(found))})
    described(out, ("reward", "reward"))
    text = " ".join(write_report(out)[1].split())
    return text, (out / "report.html").read_text()


def test_an_honest_model_has_its_figures_and_no_warning(tmp_path: Path) -> None:
    items = [
        *scored_by(honest, labelled(200)),
        *scored_by(honest, paired(120)),
        *scored_by(honest, ranked(40, tied=True)),
    ]
    text, page = reported(tmp_path, worth(items, []))
    assert "Warning" not in text and 'class="warning"' not in page
    for row in (
        "labels: accuracy", "labels: AUC", "labels: best of four", "labels: Brier", "labels: calibration error (chance",
        "labels: calibration error at temperature", "rankings: best of 4", "rankings: ties score", "pairs: accuracy",
        "pairs: correlation of score and length", "labels: where length cannot help",
    ):  # fmt: skip
        assert row in text, row
    assert "Reliability on held-out labels" in page and "Reliability on held-out pairs" in page
    assert "the better one is about as long (within 20%)" in page


@pytest.mark.parametrize(("made", "name"), [(labelled, "labels"), (paired, "pairs")])
def test_a_model_of_length_has_the_length_line_in_red(tmp_path: Path, made: Any, name: str) -> None:
    text, page = reported(tmp_path, worth(scored_by(by_length, made(300, lean=0.3)), []))
    assert "Warning: reward: length explains 9" in text and f"of what the score says of held-out {name}." in text
    assert '<li class="warning"><strong>Warning: reward: length explains' in page
    assert "PPO would make answers longer rather than better" in page and "chance is 50%" in page


def test_contradictory_judgements_are_counted_in_red_and_few_are_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    noisy = worth(scored_by(honest, labelled(100)), flipped(labelled(300), 0.2))
    text, page = reported(tmp_path / "a", noisy)
    counts = noisy["contradictions"]["labels"]
    line = f"Warning: reward: {counts['contradictory']} of {counts['repeated']} labelled texts"
    assert line in text and "no reward model agrees with more than" in page
    text, page = reported(tmp_path / "b", worth(scored_by(honest, labelled(100)), flipped(labelled(300), 0.01)))
    assert "Warning" not in text and "Contradictory duplicates" in page


def test_a_model_that_counting_words_beats_is_warned_of(tmp_path: Path) -> None:
    items = scored_by(lambda q, w, source: source.gauss(0.0, 1.0), [(each, [0.0]) for each in late_words()])
    text, _ = reported(tmp_path, worth(items, [], Beside(words=Marks())))
    assert "Warning: reward: a model that only counts words is right more often on held-out labels" in text
    assert "labels: accuracy, counting words" in text and "labels: difference to counting words" in text


def test_accuracy_against_words_seen_is_a_table_and_a_plot(tmp_path: Path) -> None:
    items = [Judged(item, "label", (Marks().score(item.answers)[0].item(),)) for item in late_words()]
    text, page = reported(tmp_path, worth(items, [], Beside(Marks())))
    assert "labels: first 8 words 50.0%" in text and "labels: all words 100.0%" in text
    assert "accuracy by how many words of an answer are seen" in page


def test_runs_of_before_have_no_such_section(tmp_path: Path) -> None:
    finished(tmp_path, "reward", {}, reward_results(0.75))
    described(tmp_path, ("reward", "reward"))
    assert "What the reward model is worth" not in write_report(tmp_path)[1]
