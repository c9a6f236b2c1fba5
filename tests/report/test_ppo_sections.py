"""The report of a PPO run: its faults on top, means and medians with intervals, reward over KL, one sample followed."""

import random
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PLAIN_CPU, QUIET_LOOP
from tests.report.test_report import described, evaluation, finished
from tests.tiny import make_likely, tiny_config, tiny_model, tiny_tokenizer
from trine.config.rl import KlConfig, PpoConfig
from trine.data.files import write_examples
from trine.model.folder import save_model
from trine.records import Example, Message
from trine.report.before_after import before_after
from trine.report.report import write_report
from trine.runtime.files import read_jsonl
from trine.stages.rl.alarms import ALARMS
from trine.stages.rl.ppo import run


def length(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]


def brevity(prompts: list[str], responses: list[str]) -> list[float]:
    return [-float(len(response)) for response in responses]


def constant(prompts: list[str], responses: list[str]) -> list[float]:
    return [0.25] * len(responses)


FAULTS: dict[str, dict[str, Any]] = {
    "over_optimised": {"reward": "length", "held_out_reward": f"{__name__}:brevity", "iterations": 7},
    "critic_blind": {"reward": "length", "value_weight": 1e-6, "iterations": 5, "optimizer": {
        "learning_rate": 1e-4, "learning_rate_head": 1e-9, "warmup_steps": 0,
    }},
    "reward_constant": {"reward": "constant", "iterations": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PPO run with each fault, in a folder of its own."""
    folder = tmp_path_factory.mktemp("faults")
    model = tiny_model(tiny_config("gpt2", vocab_size=320, context=64))
    make_likely(model, 3, 4.5)
    save_model(model, folder / "start")
    tiny_tokenizer().save(folder / "start")
    questions = ("Add.", "Why?", "a b c", "next", "it's", "and?", "def f(x):", "The cat sat.")
    examples = [Example((Message("user", each),), "4") for each in questions]
    write_examples(folder / "prompts.jsonl", examples)
    for name, changes in FAULTS.items():
        settings: dict[str, Any] = {
            "out": folder / name / "ppo", "model": str(folder / "start"), "prompts": folder / "prompts.jsonl",
            "batch_size": 48, "minibatch_size": 24, "micro_batch_size": 24, "max_new_tokens": 8,
            "kl": KlConfig(coefficient=0.0), "samples_every": 2, "loop": QUIET_LOOP, "hardware": PLAIN_CPU,
            "optimizer": {"learning_rate": 3e-3, "warmup_steps": 0, "decay": "constant"},
        }  # fmt: skip
        run(PpoConfig(**settings | changes | {"reward": f"{__name__}:{changes['reward']}"}))
    return folder


@pytest.fixture(scope="module")
def reports(runs: Path) -> dict[str, tuple[str, str]]:
    """Page and text of each."""
    made = {name: write_report(runs / name) for name in FAULTS}
    return {name: (path.read_text("utf-8"), text) for name, (path, text) in made.items()}


def ppo_run(out: Path, config: dict[str, Any], metrics: list[dict[str, Any]]) -> None:
    finished(out, "ppo", config, {"iterations": len(metrics)}, metrics)
    described(out, ("ppo", "ppo"))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_with_a_fault_is_alarmed_in_the_log_and_on_top_of_the_report(
    runs: Path, reports: dict[str, tuple[str, str]], fault: str
) -> None:
    rows = [row for row in read_jsonl(runs / fault / "ppo" / "metrics.jsonl") if "score" in row]
    assert rows[-1].get(f"alarm_{fault}") == 1.0
    assert (f"alarm_{fault}" in rows[0]) == (fault == "reward_constant")
    page, text = reports[fault]
    verdict = re.search(r'<ul class="verdicts".*?</ul>', page, re.DOTALL)
    assert verdict is not None
    assert ALARMS[fault].meaning in verdict[0]
    assert 'class="warning"' in verdict[0]
    assert ALARMS[fault].meaning in " ".join(text.split())


def test_a_run_without_alarms_has_no_verdict(tmp_path: Path) -> None:
    metrics = [{"step": n + 1, "iteration": n, "score": 0.1 * n, "kl": 0.1 * n, "seconds": 1.0} for n in range(4)]
    ppo_run(tmp_path, {"reward": "r"}, metrics)
    path, _ = write_report(tmp_path)
    assert 'class="verdicts"' not in path.read_text("utf-8")


def test_the_page_shows_one_sample_followed_through_and_a_table_of_samples(
    runs: Path, reports: dict[str, tuple[str, str]]
) -> None:
    page = reports["over_optimised"][0]
    (sample,) = read_jsonl(runs / "over_optimised" / "ppo" / "followed.jsonl")
    section = page[page.index("One sample, followed through</h2>") :]
    for heading in ("log π old", "advantage", "policy loss", "value loss"):
        assert heading in section
    for side in ("before", "after"):
        for token in sample[side]:
            assert f">{token['token_id']}</td>" in section
    kl = sum(token["kl"] for token in sample["before"])
    assert f"KL {kl:,.4f} nats" in section
    samples = page[page.index("Samples of PPO</h2>") :]
    assert {f"Iteration {number}" in samples for number in (1, 3, 5, 7)} == {True}


def test_first_and_last_iteration_stand_beside_each_other_with_intervals(
    runs: Path, reports: dict[str, tuple[str, str]]
) -> None:
    page, text = reports["over_optimised"]
    rows = [row for row in read_jsonl(runs / "over_optimised" / "ppo" / "metrics.jsonl") if "score" in row]
    for name in ("score", "score_median"):
        assert f"{rows[0][name]:.2f} (" in text
        assert f"{rows[-1][name]:.2f} (" in text
    assert "Scores of single responses by the reward" in page


def test_reward_over_kl_has_best_of_n_drawn_in_where_a_preview_ran(tmp_path: Path) -> None:
    metrics = [
        {"step": n + 1, "iteration": n, "score": 0.5 * n, "score_deviation": 2.0, "kl": 1.0 * n, "seconds": 1.0}
        for n in range(5)
    ]
    ppo_run(tmp_path, {"reward": "runs/reward", "model": "m"}, metrics)
    alone = write_report(tmp_path)[0].read_text("utf-8")
    assert "What KL bought" in alone
    assert "best of n" not in alone
    figure = {"mean": 0.4, "interval": [0.2, 0.6], "items": 9}
    rows = [
        {"n": n, "nats": nats, "estimated_nats": nats, "reward": figure, "other": figure, "share_kept": figure}
        for n, nats in ((1, 0.0), (2, 0.19), (4, 0.64))
    ]
    results = {
        "rows": rows, "share_kept": figure, "prompts": 9, "samples": 4, "agreement": None,
        "spend": {"known": False}, "repeats": {"answers": 0}, "above_zero": {"nats": None},
    }  # fmt: skip
    finished(tmp_path, "preview", {"reward": "elsewhere/reward", "other": "o", "model": "m"}, results)
    described(tmp_path, ("preview", "preview"), ("ppo", "ppo"))
    both = write_report(tmp_path)[0].read_text("utf-8")
    drawn = both[both.index("gain in reward over KL") : both.index("What KL bought")]
    assert "best of n, the reward" in drawn
    assert "best of n, the other reward" in drawn


def test_seconds_by_phase_and_parts_of_the_reward_are_shown_where_they_were_logged(tmp_path: Path) -> None:
    metrics = [
        {"step": n + 1, "iteration": n, "score": 1.0, "kl": 0.5, "part_help": 0.7, "seconds": 2.0,
         "seconds_sampling": 0.5, "seconds_reward": 0.3}
        for n in range(4)
    ]  # fmt: skip
    ppo_run(tmp_path, {"reward": "r"}, metrics)
    page, text = write_report(tmp_path)
    words = page.read_text("utf-8")
    for cells in (("sampling", "0.500", "25.0%"), ("reward", "0.300", "15.0%"), ("the rest", "1.200", "60.0%")):
        row = next(part for part in words.split('<tr role="row">') if f'scope="row">{cells[0]}</th>' in part)
        assert re.findall(r"<td[^>]*>([^<]*)</td>", row) == list(cells[1:])
    assert "  help" in text


def test_an_evaluation_shows_means_and_medians_of_both_rewards_with_intervals(tmp_path: Path) -> None:
    results = evaluation()
    source = random.Random(0)
    before = [source.gauss(0.0, 1.0) for _ in range(12)]
    for reward in ("reward", "held_out_reward"):
        results["scores"][reward] = {"before": before, "after": [score + 0.5 for score in before]}
    finished(tmp_path, "evaluate", {"samples": 2}, results)
    described(tmp_path, ("evaluate", "evaluate"))
    page = write_report(tmp_path)[0].read_text("utf-8")
    table = page[page.index('aria-label="Means and medians with intervals"') :]
    table = table[: table.index("</table>")]
    for statistic in ("mean", "median"):
        assert table.count(f", {statistic}</th>") == 2
        number = f"{getattr(statistics, statistic)(before):,.2f}"
        assert re.search(rf">{number} \(-?\d", table)
    assert table.count("+0.50 (0.50 to 0.50)") == 4  # every answer gained 0.5, so that sampling prompts changes nothing


def test_intervals_of_means_and_medians_hold_the_truth_as_often_as_they_say() -> None:
    """Paired over prompts: 0.3 is gained by every answer but for noise, in mean and median alike."""
    source, held = random.Random(0), {"mean": 0, "median": 0}
    for _ in range(60):
        before = [source.gauss(0.0, 1.0) for _ in range(60)]
        after = [score + 0.3 + source.gauss(0.0, 0.2) for score in before]
        groups = list(range(60))
        for each in before_after(before, after, groups, groups):
            assert each.before == pytest.approx(getattr(statistics, each.statistic)(before))
            assert each.gain_interval is not None and each.before_interval is not None
            held[each.statistic] += each.gain_interval.holds(0.3)
            assert each.gain_interval.high - each.gain_interval.low < 0.7
    assert all(count >= 51 for count in held.values()), held


def test_of_few_prompts_no_interval_is_claimed() -> None:
    (mean, median) = before_after([0.0, 1.0], [1.0, 2.0], [0, 1], [0, 1])
    assert mean.cells == ("mean", "0.50", "1.50", "+1.00")
    assert median.gain_interval is None
