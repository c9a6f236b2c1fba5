"""The recipe `sentiment` from beginning to end on made-up reviews, at a scale of seconds a stage."""

from pathlib import Path

import pytest

from tests.conftest import PLAIN_CPU
from tests.reviews import write_class_folders, write_reviews
from trine.config.split import SplitConfig
from trine.config.use import RunConfig
from trine.pipeline.runner import run
from trine.runtime.files import read_json, read_jsonl
from trine.stages.tasks.split import run as run_split

SMALL = {
    "tokenizer.vocab_size": 400, "pretrain.tokens": 200_000, "pretrain.model.layers": 2, "pretrain.model.width": 48,
    "pretrain.model.heads": 2, "pretrain.model.context": 96, "pretrain.row_tokens": 96, "reward.max_tokens": 96,
    "reward.epochs": 4.0, "ppo.iterations": 24, "ppo.batch_size": 64, "ppo.minibatch_size": 32,
    "ppo.micro_batch_size": 32, "ppo.max_new_tokens": 16, "evaluate.max_new_tokens": 16, "evaluate.max_prompts": 60,
}  # fmt: skip


def test_folders_named_by_labels_are_divided_too(tmp_path: Path) -> None:
    folder = run_split(
        SplitConfig(
            out=tmp_path / "split", records=write_class_folders(tmp_path / "aclImdb"), parts={"a": 0.5, "b": 0.5},
            by="movie", hardware=PLAIN_CPU,
        )
    )  # fmt: skip
    rows = [row for name in ("a", "b") for row in read_jsonl(folder / "parts" / f"{name}.jsonl")]
    assert len(rows) == 60
    assert {row["label"] for row in rows} == {"neg", "pos"}


@pytest.mark.slow
def test_reviews_turn_positive_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reviews = write_reviews(tmp_path / "reviews.jsonl")
    out = tmp_path / "run"
    run(RunConfig(recipe="sentiment", out=out, set={"reviews": str(reviews), **SMALL}, hardware=PLAIN_CPU))
    films = [
        {row["movie"] for row in read_jsonl(out / "split" / "parts" / f"{name}.jsonl")}
        for name in ("policy", "held_out_reward", "held_out")
    ]
    assert not (films[0] & films[1] or films[0] & films[2] or films[1] & films[2])
    results = read_json(out / "evaluate" / "done.json")
    before, after = results["before"], results["after"]
    assert after["reward"]["positive_share"] > before["reward"]["positive_share"] + 0.2
    assert after["held_out_reward"]["positive_share"] > before["held_out_reward"]["positive_share"]
    assert 0 < results["kl"] < 14
    assert before["perplexity"] > results["person"]["perplexity"] > 1
    text = capsys.readouterr().out
    for words in ("share above 0", "half the score, median", "distinct-2", "perplexity under the policy before"):
        assert words in text
    sample = read_jsonl(out / "evaluate" / "samples.jsonl")[0]
    assert all(sample[side]["text"] for side in ("before", "after", "person"))
