"""The over-optimisation preview: its numbers in worlds where they are known, the stage, and what the report says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import PLAIN_CPU, Command
from tests.report.test_report import described, finished
from trine.catalog.exchanges import read_exchanges
from trine.config.preview import PreviewConfig
from trine.report.report import write_report
from trine.runtime.files import read_json, read_jsonl, write_jsonl
from trine.stages.preferences.preview import run
from trine.stages.preferences.preview_figures import Scores, predicted_share, preview_figures, spend

PROMPTS, SAMPLES = 40, 32


def longer(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]


def shorter_than_twenty(prompts: list[str], responses: list[str]) -> list[float]:
    return [-abs(len(response) - 20.0) for response in responses]


def world(correlation: float, seed: int = 0, hacked: float = 0.0) -> Scores:
    """Two rewards of unit deviation, correlated; with `hacked` the other falls where the first is very high."""
    generator = np.random.default_rng(seed)
    own, noise = generator.standard_normal((2, PROMPTS, SAMPLES))
    other = correlation * own + np.sqrt(1 - correlation**2) * noise - hacked * np.maximum(own - 1.0, 0.0)
    texts = [[f"{place} {number}" for number in range(SAMPLES)] for place in range(PROMPTS)]
    return Scores(own + 7.0, 100 * other, texts)


def test_the_share_that_survives_is_the_correlation_whatever_the_rewards_units() -> None:
    figures = preview_figures(world(0.6))
    low, high = figures["share_kept"]["interval"]
    assert low < 0.6 < high and high - low < 0.3
    assert [row["n"] for row in figures["rows"]] == [1, 2, 4, 8, 16, 32]
    assert figures["rows"][0]["share_kept"] is None and figures["rows"][0]["nats"] == 0.0
    assert figures["rows"][-1]["reward"]["mean"] == pytest.approx(2.07, abs=0.1)  # of 32 normal samples
    assert figures["spend"]["rises_to_the_end"] and figures["spend"]["falls_from"] is None
    assert figures["agreement"]["mean"] == pytest.approx(0.5 + np.arcsin(0.6) / np.pi, abs=0.03)


def test_the_same_reward_keeps_all_and_an_unrelated_one_nothing() -> None:
    same = world(1.0)
    assert preview_figures(same)["share_kept"]["mean"] == pytest.approx(1.0)
    nothing = preview_figures(world(0.0))["share_kept"]
    assert nothing["interval"][0] < 0 < nothing["interval"][1]


def test_where_the_other_reward_falls_again_no_more_kl_is_to_be_spent() -> None:
    found = preview_figures(world(0.8, hacked=2.5))["spend"]
    assert not found["rises_to_the_end"]
    assert 1 < found["n"] < found["falls_from"] <= SAMPLES
    assert found["nats"] == pytest.approx(np.log(found["n"]) - (found["n"] - 1) / found["n"])


def test_of_few_prompts_no_interval_is_claimed() -> None:
    whole = world(0.6)
    few = preview_figures(Scores(whole.reward[:4], whole.other[:4], whole.texts[:4]))
    assert few["share_kept"]["interval"] is None and not few["spend"]["known"]
    assert not spend({1: np.zeros(1), 2: np.ones(1)})["known"]


def test_repeated_answers_are_counted_and_lower_the_kl() -> None:
    reward = np.tile([0.0, 1.0], (6, 8))
    figures = preview_figures(Scores(reward, reward, [["a", "b"] * 8] * 6))
    assert figures["repeats"] == {"answers": 6 * 14, "share": 14 / 16, "prompts": 6}
    two = figures["rows"][1]
    assert (two["nats"], two["estimated_nats"]) == (
        pytest.approx(0.193147, abs=1e-6),
        pytest.approx(0.130812, abs=1e-6),
    )
    assert figures["above_zero"] == {"share": 0.5, "nats": pytest.approx(np.log(2))}


def test_a_reward_that_knows_no_difference_has_no_share() -> None:
    figures = preview_figures(Scores(np.ones((6, 4)), np.random.default_rng(0).random((6, 4)), [list("abcd")] * 6))
    assert figures["share_kept"] is None and figures["agreement"] is None
    assert all(row["other"]["mean"] == pytest.approx(0.0) for row in figures["rows"])


def test_the_prediction_is_read_off_the_curve_and_says_where_it_ends() -> None:
    rows = [{"reward": {"mean": own}, "other": {"mean": other}} for own, other in ((0, 0), (1.0, 0.8), (2.0, 1.2))]
    assert predicted_share(rows, 1.0) == (pytest.approx(0.8), True)
    assert predicted_share(rows, 1.5) == (pytest.approx(1.0 / 1.5), True)
    assert predicted_share(rows, 4.0) == (pytest.approx(0.6), False)
    with pytest.raises(ValueError, match="no share"):
        predicted_share(rows, -1.0)


def config(out: Path, model: Path, prompts: Path, **changes: Any) -> PreviewConfig:
    values = {
        "out": out, "model": model, "prompts": prompts, "reward": f"{__name__}:longer",
        "other": f"{__name__}:shorter_than_twenty", "samples": 8, "max_prompts": 6, "max_new_tokens": 16,
        "hardware": PLAIN_CPU,
    }  # fmt: skip
    return PreviewConfig(**values | changes)


def test_it_runs_on_two_rewards_and_prints_what_it_found(
    tmp_path: Path, finetune_run: Path, functions_run: Path, reward_run: Path, command: Command
) -> None:
    out = tmp_path / "preview"
    arguments = (
        "preview", "--out", out, "--model", finetune_run, "--reward", reward_run, "--other", f"{__name__}:longer",
        "--prompts", functions_run / "all.jsonl", "--samples", 8, "--max_prompts", 6, "--max_new_tokens", 16,
        "--hardware.device", "cpu", "--hardware.precision", "fp32", "--hardware.threads", 1,
    )  # fmt: skip
    code, printed, _ = command(*arguments)
    assert code == 0
    rows, done = read_jsonl(out / "answers.jsonl"), read_json(out / "done.json")
    assert [row["prompt"] for row in rows] == [place for place in range(6) for _ in range(8)]
    assert all(row["other"] == len(row["response"]) for row in rows)
    scores = np.array([row["reward"] for row in rows]).reshape(6, 8)
    best = (scores.max(1) - scores.mean(1)).mean() / scores.std()
    assert done["rows"][-1]["n"] == 8
    assert done["rows"][-1]["reward"]["mean"] == pytest.approx(best)
    assert "best of 8" in printed and "survives a reward model that did not choose" in printed
    before = (out / "done.json").read_bytes()
    assert command(*arguments)[0] == 0 and (out / "done.json").read_bytes() == before


def test_plain_text_is_continued_and_its_rewards_see_the_text(
    tmp_path: Path, pretrain_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "texts.jsonl", [{"text": f"def f{number}(", "stars": number} for number in range(5)])
    seen: list[Any] = []

    class Seen:
        def score(self, answers: Any) -> Any:
            import torch

            seen.extend(answers)
            return torch.arange(len(answers), dtype=torch.float32)

    monkeypatch.setattr("trine.stages.preferences.preview.open_reward", lambda *_: Seen())
    run(config(tmp_path / "run", pretrain_run, tmp_path / "texts.jsonl", form="text", samples=4))
    assert [answer.query for answer in seen[:5]] == ["def f0("] * 4 + ["def f1("]
    assert all(answer.prompt == () and answer.columns == {"stars": answer.prompt_index} for answer in seen[:20])
    assert len(seen) == 2 * 5 * 4 and len({answer.response for answer in seen}) > 5


def test_the_first_tokens_of_texts_are_continued(tmp_path: Path, pretrain_run: Path) -> None:
    write_jsonl(tmp_path / "texts.jsonl", [{"text": f"def function_{number}(first, second):"} for number in range(5)])
    asked = {"form": "text", "samples": 2, "query_tokens": (3, 3)}
    run(config(tmp_path / "run", pretrain_run, tmp_path / "texts.jsonl", **asked))
    assert read_json(tmp_path / "run" / "done.json")["prompts"] < 5  # their beginnings are alike
    with pytest.raises(ValueError, match="form=text"):
        config(tmp_path / "run", pretrain_run, tmp_path / "texts.jsonl", query_tokens=(2, 8))


def test_a_prompt_that_stands_twice_is_asked_once(tmp_path: Path, finetune_run: Path, functions_run: Path) -> None:
    example = read_exchanges(functions_run / "all.jsonl", answered=False)[0]
    row = {"prompt": example.prompt[-1].content}
    write_jsonl(tmp_path / "prompts.jsonl", [row, row])
    run(config(tmp_path / "run", finetune_run, tmp_path / "prompts.jsonl", samples=2))
    assert read_json(tmp_path / "run" / "done.json")["prompts"] == 1


# In the report.


def evaluated(kept: float, prompts: int = 30) -> dict[str, Any]:
    """PPO gained 1.5 deviations in the reward, and `kept` of it in the other."""
    noise = np.random.default_rng(3).standard_normal((2, prompts))
    before = [noise[0].tolist(), noise[1].tolist()]
    scores = {
        name: {"before": values, "after": [value + gain + 0.1 * (-1) ** place for place, value in enumerate(values)]}
        for name, values, gain in zip(("reward", "held_out_reward"), before, (1.5, 1.5 * kept), strict=True)
    }
    side = {
        which: {name: {"mean": float(np.mean(scores[name][which])), "median": 0.0, "deviation": 1.0} for name in scores}
        for which in ("before", "after")
    }
    return {"prompts": prompts, "scores": scores, "kl": 2.5, **side}


def reported(out: Path, correlation: float, kept: float | None) -> str:
    rewards = {"reward": "/x/reward", "other": "/x/held_out_reward/model"}
    figures = preview_figures(world(correlation))
    finished(out, "preview", {"model": "/x/finetune", **rewards}, json.loads(json.dumps(figures)))
    names = [("preview", "preview")]
    if kept is not None:
        pair = {"before": "/x/finetune", "reward": "/x/reward", "held_out_reward": "/x/held_out_reward"}
        finished(out, "evaluate", pair, evaluated(kept))
        names.append(("evaluate", "evaluate"))
    described(out, *names)
    return write_report(out)[1]


def test_the_report_has_the_plot_and_the_line(tmp_path: Path) -> None:
    text = reported(tmp_path, 0.7, None)
    assert "Of each unit of reward, 0.7" in text and "still rises at best of 32" in text
    page = (tmp_path / "report.html").read_text()
    assert "KL from the policy, nats" in page and "Over-optimisation preview" in page
    assert "What PPO then kept" not in page and 'class="warning"' not in page


def test_a_share_that_is_shown_to_be_less_than_half_is_a_warning(tmp_path: Path) -> None:
    text = reported(tmp_path, 0.2, None)
    assert "Warning: Of each unit of reward, 0.2" in " ".join(text.split())
    assert '<li class="warning"><strong>Warning: Of each' in (tmp_path / "report.html").read_text()


def test_what_ppo_kept_stands_beside_what_was_predicted(tmp_path: Path) -> None:
    text = " ".join(reported(tmp_path, 0.7, kept=0.4).split())
    assert "PPO kept 0.40 (95% interval 0." in text and "the preview predicted 0.7" in text
    assert "What PPO then kept" in (tmp_path / "report.html").read_text()
    assert "KL, nats per answer" in text and "2.50" in text


def test_another_evaluation_is_not_taken_for_the_previews(tmp_path: Path) -> None:
    finished(tmp_path, "preview", {"model": "m", "reward": "a", "other": "b"}, preview_figures(world(0.7)))
    finished(tmp_path, "evaluate", {"before": "m", "reward": "b", "held_out_reward": "a"}, evaluated(0.4))
    described(tmp_path, ("preview", "preview"), ("evaluate", "evaluate"))
    assert "PPO kept" not in write_report(tmp_path)[1]


def test_a_preview_that_was_made_after_the_recipe_is_reported_too(tmp_path: Path) -> None:
    finished(tmp_path, "preview", {"model": "m", "reward": "a", "other": "b"}, preview_figures(world(0.7)))
    (tmp_path / "preview" / "run.json").write_text(json.dumps({"stage": "preview"}))
    finished(tmp_path, "finetune", {}, {"examples": 3})
    described(tmp_path, ("finetune", "finetune"))
    assert "Of each unit of reward" in write_report(tmp_path)[1]
