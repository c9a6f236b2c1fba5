"""Several processes train as one does: each samples its share, whole groups, and learns its share of a minibatch."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.conftest import PLAIN_CPU
from tests.several_processes import free_port, in_processes
from tests.stages.test_ppo_noticed import CONTEXT, started
from trine.config.base import LoopConfig, OptimizerConfig
from trine.config.lora import LoraConfig
from trine.config.rl import KlConfig, PpoConfig
from trine.model.config import gpt2_config
from trine.runtime.errors import TrineError
from trine.runtime.signals import Interrupted, stop_request
from trine.stages.rl import ppo


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a shape whose attention is in C++, so that responses share their prompt."""
    return started(tmp_path_factory.mktemp("start"), gpt2_config(320, CONTEXT, 2, width=32, heads=1))


SETTINGS: dict[str, dict[str, Any]] = {
    "shared": {"critic": "shared", "samples_per_prompt": 2, "kl": KlConfig(coefficient=0.1, in_loss="k3")},
    "own critic": {
        "critic": "policy", "critic_warmup": 1, "critic_training": {"epochs": 3, "learning_rate": 3e-4},
        "value_head": "fitted", "reward_overlap": 2, "lora": LoraConfig(rank=2), "held_out_size": 3,
    },
}  # fmt: skip


def config(start: Path, out: Path, **changes: Any) -> PpoConfig:
    """Adam's epsilon is large: with a small one a gradient of nothing but rounding moves its weight a whole step."""
    settings: dict[str, Any] = {
        "out": out, "model": str(start), "prompts": start / "prompts.jsonl",
        "reward": "tests.stages.test_ppo_noticed:spread", "iterations": 2, "batch_size": 8, "minibatch_size": 4,
        "micro_batch_size": 2, "max_new_tokens": 8, "held_out": start / "prompts.jsonl", "hardware": PLAIN_CPU,
        "loop": LoopConfig(save_every=0, evaluate_every=5),
        "optimizer": OptimizerConfig(kind="adamw", learning_rate=0.003, epsilon=0.01),
    }  # fmt: skip
    return PpoConfig(**settings | changes)


def train_all(configs: list[PpoConfig], ports: list[int]) -> None:
    """Each run opens its own world."""
    for each, port in zip(configs, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        ppo.run(each)


def figures(run: Path) -> list[dict[str, float]]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Figures of every step to 1e-4 and weights to 1e-5: rounding alone differs."""
    for row, expected in zip(figures(ours), figures(theirs), strict=True):
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-5), (ours.name, row["step"], name)
    for name in ("policy", "critic"):
        assert (ours / name).exists() == (theirs / name).exists()
        if not (theirs / name).exists():
            continue
        found, expected = (load_file(each / name / "model.safetensors") for each in (ours, theirs))
        apart = sum(float((found[key] - tensor).square().sum()) for key, tensor in expected.items())
        assert (apart / sum(float(tensor.square().sum()) for tensor in expected.values())) ** 0.5 < 1e-5


def test_two_processes_train_as_one_does(start: Path, tmp_path: Path) -> None:
    """What is sampled is the same token for token, so that the scores are; ratios of the first epoch are exactly 1."""
    for name, changes in SETTINGS.items():
        ppo.run(config(start, tmp_path / name, **changes))
    together = [
        config(start, tmp_path / f"{name} {parallel}", parallel=parallel, **changes)
        for name, changes in SETTINGS.items()
        for parallel in ("ddp", "fsdp")
    ]
    assert in_processes(2, train_all, together, [free_port() for _ in together]) == [None, None]
    for each in together:
        assert_same_run(each.out, tmp_path / each.out.name.rpartition(" ")[0])
        first = figures(each.out)[0]
        assert first.get("peak_log_ratio", 0.0) == 0.0
        assert first["engine_difference"] < 1e-5


def stop_within_an_iteration(config: PpoConfig) -> None:
    """One optimizer step after the second iteration's first."""
    batches = ppo.PpoObjective.batches

    def stopping(self: ppo.PpoObjective, step: int) -> Any:
        if step + 1 == 5:
            stop_request.received = 15
        return batches(self, step)

    ppo.PpoObjective.batches = stopping  # type: ignore[method-assign]
    ppo.run(config)


def test_what_two_processes_sampled_is_learned_from_by_one(start: Path, tmp_path: Path) -> None:
    """A checkpoint within an iteration holds the whole iteration, whoever sampled it."""
    run = config(start, tmp_path / "run", parallel="fsdp", **SETTINGS["shared"])
    (kind, _), _ = in_processes(2, stop_within_an_iteration, run)
    assert kind == Interrupted.__name__
    assert (run.out / "checkpoints" / "step-00000005").is_dir()
    ppo.run(run)
    ppo.run(config(start, tmp_path / "straight", **SETTINGS["shared"]))
    assert_same_run(run.out, tmp_path / "straight")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 8, "samples_per_prompt": 8, "minibatch_size": 8}, "batch_size / samples_per_prompt=1"),
        ({"minibatch_size": 1, "micro_batch_size": 1}, "minibatch_size=1"),
    ],
)
def test_a_group_or_a_minibatch_that_cannot_be_shared_is_refused(
    changes: dict[str, Any], words: str, start: Path, tmp_path: Path
) -> None:
    (kind, said), _ = in_processes(2, refused_with, start, tmp_path / "run", changes)
    assert kind == TrineError.__name__
    assert f"{words} does not divide among 2 processes" in said


def refused_with(start: Path, out: Path, changes: dict[str, Any]) -> None:
    ppo.run(config(start, out, **changes))
