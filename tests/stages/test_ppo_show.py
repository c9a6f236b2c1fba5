"""One sample followed through (`trine ppo --show`): what is printed is what was trained on, to the log's last digit."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PLAIN_CPU, QUIET_LOOP, Command
from tests.tiny import make_likely, tiny_config, tiny_model, tiny_tokenizer
from trine.config.rl import KlConfig, PpoConfig
from trine.data.files import write_examples
from trine.model.folder import save_model
from trine.records import Example, Message
from trine.runtime.files import read_jsonl
from trine.stages.rl.followed import FollowedSample, sums
from trine.stages.rl.ppo import run, train
from trine.stages.rl.rollout_objective import RolloutObjective
from trine.stages.rl.show import first_update

BUDGET, END = 8, 3


def spread(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward that tells nearly any two responses apart."""
    return [sum(ord(letter) * place for place, letter in enumerate(text, 1)) % 1009 / 1009 for text in responses]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, another one as its reference cannot be, and prompts of different lengths."""
    folder = tmp_path_factory.mktemp("start")
    model = tiny_model(tiny_config("gpt2", vocab_size=320, context=64))
    make_likely(model, END, 2.0)
    save_model(model, folder)
    tiny_tokenizer().save(folder)
    questions = ("Add.", "Why?", "What is the number?", "The cat sat on the mat, and?")
    write_examples(folder / "prompts.jsonl", [Example((Message("user", each),), "4") for each in questions])
    return folder


def config_of(start: Path, out: Path, **changes: Any) -> PpoConfig:
    settings: dict[str, Any] = {
        "out": out, "model": str(start), "prompts": start / "prompts.jsonl", "reward": f"{__name__}:spread",
        "batch_size": 4, "minibatch_size": 4, "micro_batch_size": 2, "max_new_tokens": BUDGET, "iterations": 2,
        "kl": KlConfig(coefficient=0.3), "optimizer": {"learning_rate": 0.02, "warmup_steps": 0}, "loop": QUIET_LOOP,
        "hardware": PLAIN_CPU, "value_weight": 1.0,
    }  # fmt: skip
    return PpoConfig(**settings | changes)


def over_tokens(samples: list[FollowedSample], side: str, name: str) -> float:
    """The mean over all tokens of these samples."""
    values = [getattr(token, name) for sample in samples for token in getattr(sample, side)]
    return sum(values) / len(values)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("critic", ["shared", "policy"])
def test_the_sums_at_the_foot_are_the_logs(start: Path, tmp_path: Path, batch: int, critic: str) -> None:
    """All responses of a run's first two updates are followed, and the same run is trained: its rows are their sums."""
    sizes = {"batch_size": batch, "minibatch_size": batch, "micro_batch_size": (batch + 1) // 2, "critic": critic}
    shown = first_update(config_of(start, tmp_path / "shown", show=batch, **sizes), train)
    rows = list(read_jsonl(run(config_of(start, tmp_path / "run", **sizes)) / "metrics.jsonl"))[:2]
    samples = list(shown.followed)
    assert len({sample.row for sample in samples}) == batch
    feet = [sums(sample.before) for sample in samples]
    assert sum(foot["kl"] for foot in feet) / batch == pytest.approx(rows[0]["kl"], abs=1e-6)
    assert sum(sample.score for sample in samples) / batch == pytest.approx(rows[0]["score"], rel=1e-6)
    assert sum(len(sample.before) for sample in samples) / batch == pytest.approx(rows[0]["length"])
    names = {"policy": "policy_loss", "value": "value_loss", "clip_fraction": "clipped", "ratio": "ratio"}
    for row, side in zip(rows, ("before", "after"), strict=True):
        for logged, of_token in names.items():
            assert over_tokens(samples, side, of_token) == pytest.approx(row[logged], rel=1e-4, abs=1e-6), logged
    assert rows[0]["ratio"] == 1.0
    assert rows[1]["ratio"] != 1.0
    assert rows[1]["clip_fraction"] > 0
    if batch == 1:  # one response's foot is the log's row itself
        foot = sums(samples[0].after)
        assert {name: foot[name] for name in names} == pytest.approx({name: rows[1][name] for name in names}, rel=1e-4)
    for own, row in zip(shown.logged, rows, strict=True):
        assert own.keys() == row.keys()
        assert all(own[name] == row[name] for name in row if not name.startswith("seconds"))


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_without_a_critic_a_sample_is_followed_with_what_its_tokens_weigh(
    start: Path, tmp_path: Path, ratio: str
) -> None:
    """GRPO and GSPO: the log's policy loss is the mean over responses of their sums."""
    group = {"advantage": "group", "samples_per_prompt": 4, "aggregation": "response", "ratio": ratio}
    shown = first_update(config_of(start, tmp_path / "shown", show=4, **group), train)
    rows = list(read_jsonl(run(config_of(start, tmp_path / "run", **group)) / "metrics.jsonl"))[:2]
    for row, side in zip(rows, ("before", "after"), strict=True):
        total = sum(token.policy_loss for sample in shown.followed for token in getattr(sample, side))
        assert total / 4 == pytest.approx(row["policy"], rel=1e-4, abs=1e-6), side
    assert rows[1]["policy"] != pytest.approx(0, abs=1e-4)


def test_rewards_are_the_score_and_the_price_of_kl(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a reference that differs: rewards sum to the score less beta times KL, and the last alone holds the score."""
    plain = RolloutObjective.reference_log_probs
    monkeypatch.setattr(
        RolloutObjective, "reference_log_probs", lambda self, padded: plain(self, padded) - 0.01 * padded.targets.sqrt()
    )
    shown = first_update(config_of(start, tmp_path, show=4, kl=KlConfig(coefficient=0.3)), train)
    for sample in shown.followed:
        foot = sums(sample.before)
        assert foot["kl"] > 0.1
        assert foot["reward"] == pytest.approx(sample.score - 0.3 * foot["kl"], abs=1e-5)
        assert sample.before[-1].reward == pytest.approx(sample.score - 0.3 * sample.before[-1].kl, abs=1e-5)
        assert [token.token_id for token in sample.before] == list(sample.response_ids)
        for token in sample.after:
            assert token.kl == pytest.approx(token.log_prob - token.reference_log_prob)
    assert sum(sums(sample.before)["kl"] for sample in shown.followed) / 4 == pytest.approx(shown.logged[0]["kl"])


def test_one_update_an_iteration_is_followed_too(start: Path, tmp_path: Path) -> None:
    for iterations in (1, 3):
        config = config_of(start, tmp_path, show=2, epochs=1, iterations=iterations)
        shown = first_update(config, train)
        assert len(shown.logged) == 1
        assert len(shown.followed) == 2
        assert all(token.ratio == 1.0 for sample in shown.followed for token in sample.before)
        assert any(token.ratio != 1.0 for sample in shown.followed for token in sample.after)


def test_show_prints_a_row_a_token_and_writes_nothing(start: Path, tmp_path: Path, command: Command) -> None:
    config = config_of(start, tmp_path / "out", show=1)
    arguments = [
        "--out", config.out, "--model", start, "--prompts", config.prompts, "--reward", config.reward, "--show", 1,
        "--batch_size", 4, "--minibatch_size", 4, "--micro_batch_size", 2, "--max_new_tokens", BUDGET,
        "--optimizer.learning_rate", 0.02, "--hardware.device", "cpu", "--hardware.precision", "fp32",
    ]  # fmt: skip
    code, printed, _ = command("ppo", *arguments)
    assert code == 0
    assert not (tmp_path / "out").exists()
    assert "\x1b" not in printed  # plain where there is no terminal
    lines = printed.splitlines()
    count = int(next(line for line in lines if line.startswith("response")) and lines[4].split()[0])
    starts = [lines.index(title) for title in ("before training", "after one update")]
    for heading in ("log π old", "log π ref", "KL", "reward", "value", "advantage", "return", "ratio", "clipped"):
        assert heading in lines[starts[0] + 4]
    feet = [next(n for n in range(at, len(lines)) if lines[n].startswith(("sum", "mean"))) for at in starts]
    assert [feet[0] - starts[0] - 5, feet[1] - starts[1] - 2] == [count, count]


def test_a_run_keeps_its_first_sample_for_the_report(start: Path, tmp_path: Path) -> None:
    folder = run(config_of(start, tmp_path / "run"))
    (sample,) = read_jsonl(folder / "followed.jsonl")
    (shown,) = first_update(config_of(start, tmp_path / "shown", show=1), train).followed
    assert sample == json.loads(json.dumps(shown, default=vars))
