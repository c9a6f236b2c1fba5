"""A run that stops after any step, mid-epoch too, goes on to the last bit: what an iteration learns from is saved."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Command
from tests.several_processes import TrineProcess
from tests.stages import test_ppo_noticed
from tests.stages.test_ppo import collected, objective_of
from tests.stages.test_ppo_noticed import trained
from trine.config.lora import LoraConfig
from trine.config.rl import KlConfig
from trine.records import Rollout
from trine.runtime.signals import Interrupted, stop_request
from trine.stages.rl.exchange import rollouts_as_bytes, rollouts_from_bytes
from trine.stages.rl.experience import Experience
from trine.stages.rl.ppo import PpoObjective
from trine.training.checkpoints import list_checkpoints

start = test_ppo_noticed.start
STEPS = 8  # two iterations of two epochs of two minibatches

SETTINGS: dict[str, dict[str, Any]] = {
    "adaptive": {
        "kl": KlConfig(coefficient=0.05, target=1.0, horizon=20.0), "score_scaling": "normalize",
        "missing_eos_penalty": 1.0, "penalty_unit": "deviation", "early_stop_kl": 1e-7,
        "critic_warmup": 1, "critic_training": {"learning_rate": 1e-3, "explained_variance": 0.4},
    },
    "lora": {"lora": LoraConfig(rank=2), "critic": "shared", "old_log_probs": "corrected"},
}  # fmt: skip


def weights(run: Path) -> dict[str, Any]:
    return {
        f"{name}/{key}": tensor
        for name in ("policy", "critic")
        for key, tensor in load_file(run / name / "model.safetensors").items()
    }


def rows(run: Path) -> list[dict[str, Any]]:
    """The log without its clock."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if "seconds" not in name} for line in lines]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    batches = PpoObjective.batches

    def stopping(self: PpoObjective, at: int) -> Any:
        if at + 1 == step:
            stop_request.received = signal.SIGTERM
        return batches(self, at)

    monkeypatch.setattr(PpoObjective, "batches", stopping)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_that_stops_after_any_step_goes_on_bit_for_bit(
    name: str, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step of an iteration, in an epoch's middle too; each resumed run has the log of the straight one."""
    settings = {"iterations": 2, **SETTINGS[name]}
    straight = trained(start, tmp_path / "straight", **settings)
    for step in range(1, STEPS):
        run = tmp_path / str(step)
        with monkeypatch.context() as patch:
            stop_after(patch, step)
            with pytest.raises(Interrupted):
                trained(start, run, **settings)
        stop_request.received = None
        assert [path.name for path in list_checkpoints(run / "checkpoints")] == [f"step-{step:08d}"]
        trained(start, run, **settings)
        ours, theirs = weights(run), weights(straight)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), step
        assert rows(run) == rows(straight), step


def test_a_killed_run_goes_on_bit_for_bit(start: Path, tmp_path: Path, command: Command) -> None:
    """kill -9, wherever it strikes: between checkpoints, and while one is written."""

    def ppo(out: Path) -> list[str]:
        return [
            "ppo", "--out", str(out), "--model", str(start), "--prompts", str(start / "prompts.jsonl"), "--critic",
            "policy", "--reward", "tests.stages.test_ppo_noticed:spread", "--iterations", "6", "--batch_size", "8",
            "--minibatch_size", "4", "--micro_batch_size", "2", "--max_new_tokens", "8", "--loop.save_every", "3",
            "--hardware.device", "cpu", "--hardware.precision", "fp32", "--hardware.threads", "1",
        ]  # fmt: skip

    run, straight = tmp_path / "run", tmp_path / "straight"
    for step in (2, 11):
        process = TrineProcess(Path(__file__).parents[2], ppo(run))
        while process.returncode is None and len(rows(run) if (run / "metrics.jsonl").exists() else ()) < step:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.words()
        assert not (run / "done.json").exists()
    for out in (run, straight):
        code, _, words = command(*ppo(out))
        assert code == 0, words
    ours, theirs = weights(run), weights(straight)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert rows(run) == rows(straight)


def test_within_an_iteration_alone_a_checkpoint_holds_what_is_learned_from() -> None:
    objective = collected(objective_of())
    assert set(objective.tensors(1)) == {
        "rollouts", "scores", "mask", "old_log_probs", "old_values", "reference_log_probs", "advantages", "returns",
        "rewards", "importance", "learned",
    }  # fmt: skip
    assert objective.tensors(0) == objective.tensors(4) == {}


def test_an_experience_reads_back_as_it_was() -> None:
    """With several turns, a score that is no number, and numbers that only 17 digits tell apart."""
    experience = collected(objective_of()).experience
    found = Experience.of_tensors(experience.tensors())
    assert found.rollouts == experience.rollouts
    assert all(torch.equal(tensor, experience.tensors()[name]) for name, tensor in found.tensors().items())
    odd = [
        Rollout((1, 2), (3,), (-1 / 3,), "length", 0.7, 2**62, (-0.1,), 5, 2, "abc"),
        Rollout((), (1,), (-0.0,), "eos"),
    ]
    assert rollouts_from_bytes(rollouts_as_bytes(odd)) == odd


def test_a_checkpoint_of_an_earlier_version_is_taken_between_iterations() -> None:
    """Of 1.30: the state was the coefficient alone."""
    objective = objective_of(kl=KlConfig(coefficient=0.15, target=6.0))
    objective.restore({"kl_coefficient": 0.3})
    objective.restore_tensors({})
    objective.batches(objective.steps_per_iteration)
    assert objective.kl_coefficient == 0.3
