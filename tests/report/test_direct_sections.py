"""What the report says of `trine dpo` and `trine best_of_n`."""

from pathlib import Path

from tests.report.test_report import described, finished
from trine.report.report import write_report


def test_likelihoods_stand_beside_the_margin(tmp_path: Path) -> None:
    rows = [
        {
            "step": step, "loss": 0.7 / step, "preference": 0.7 / step, "accuracy": 0.5, "margin": step / 4,
            "chosen_log_prob": -2.0, "rejected_log_prob": -3.0, "chosen_log_ratio": -step / 8,
            "rejected_log_ratio": -step / 2,
        }
        for step in range(1, 21)
    ]  # fmt: skip
    account = {"records": 9, "kept": 7, "cut": {"beginning of the prompt left out": 1}, "dropped": {"weight 0": 1}}
    done = {
        "items": 8, "account": {"train": account}, "chosen_change": -1.9, "held_out_accuracy": 0.75,
        "held_out_chosen_log_ratio": -2.25, "class_weights": [1.0, 2.25],
    }  # fmt: skip
    finished(tmp_path, "dpo", {"loss": "kto"}, done, rows)
    best = {
        "examples": 5, "prompts": 7, "samples": 8, "none_ended": 2, "score": {"mean": 0.5}, "nats": 1.204,
        "best_score": {"mean": 1.75},
    }  # fmt: skip
    finished(tmp_path, "best", {}, best)
    (tmp_path / "best" / "train.jsonl").write_text('{"prompt": "why?", "response": "since", "score": 2.5}\n')
    described(tmp_path, ("dpo", "dpo"), ("best", "best_of_n"))
    path, text = write_report(tmp_path)
    page = path.read_text("utf-8")
    assert "8 preferences; 75.0% of held-out ones on the right side" in " ".join(text.split())
    assert "5 examples, each the best of 8 samples; mean score 1.750 against 0.500" in " ".join(text.split())
    for part in ("log-ratio to the reference, nats per token", "train: cut, beginning of the prompt left out", "-2.250",
                 "Chosen answers at the end: -1.900 nats per token", "since", "score 2.500", "1.204"):  # fmt: skip
        assert part in page, part


def test_runs_that_logged_nothing_are_shown_too(tmp_path: Path) -> None:
    for name in ("dpo", "best_of_n"):
        finished(tmp_path, name, {}, {})
    described(tmp_path, ("dpo", "dpo"), ("best_of_n", "best_of_n"))
    assert "Preferences without sampling" in write_report(tmp_path)[0].read_text("utf-8")
