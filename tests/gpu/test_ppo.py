"""An iteration of PPO on a GPU: ratios of 1 to begin with, the figures of a CPU, updates that are finite."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.gpu.device import DEVICE, GPU
from tests.tiny import make_likely, scramble, tiny_chat, tiny_config, tiny_model
from trine.config.base import LoopConfig
from trine.config.rl import KlConfig, PpoConfig
from trine.model.heads import PolicyWithValue
from trine.model.transformer import Transformer
from trine.records import Answer
from trine.stages.rl.ppo import PpoObjective
from trine.stages.rl.prompts import Prompt
from trine.training.loop import Loop
from trine.training.optimizers import make_optimizers
from trine.training.run_folder import RunFolder

pytestmark = GPU

END = 3
PROMPTS = [(9, 8, 7), (30, 31), (40, 41, 42, 43, 44), (5,), (60, 61), (11, 12, 13, 14), (100, 99), (7, 77)]


class LengthReward:
    def score(self, answers: Sequence[Answer]) -> Tensor:
        return torch.tensor([0.1 * len(one.response_ids) + 0.01 * (one.response_ids[0] % 7) for one in answers])


def policy_of(device: torch.device, dtype: torch.dtype, seed: int = 0) -> Transformer:
    """It ends about every second response within the budget."""
    model = tiny_model(tiny_config("gpt2", vocab_size=320), seed, dtype)
    make_likely(model, END, 2.0)
    return model.to(device)


def objective_on(device: torch.device, dtype: torch.dtype = torch.float32) -> PpoObjective:
    config = PpoConfig(
        out=Path("out"), model="model", prompts=Path("prompts"), reward="package:function", batch_size=8,
        minibatch_size=4, micro_batch_size=2, max_new_tokens=8, epochs=2, entropy_weight=0.01,
        kl=KlConfig(coefficient=0.1),
    )  # fmt: skip
    model = PolicyWithValue(policy_of(device, dtype))
    scramble(model.value_head, seed=5)
    reference = policy_of(device, dtype, seed=1).requires_grad_(False)
    prompts = [Prompt(ids) for ids in PROMPTS]
    return PpoObjective(model.to(device), reference, LengthReward(), prompts, tiny_chat(), config)


def iteration_log(objective: PpoObjective, folder: Path) -> list[dict[str, float]]:
    """One iteration through the loop; the rows of its log."""
    model, config = objective.model, objective.config
    shape, dtype = model.policy.config, model.policy.compute_dtype
    optimizers = make_optimizers(model.named_parameters(), config.optimizer, shape, dtype)
    folder.mkdir(exist_ok=True)
    run = RunFolder(folder)
    steps = objective.steps_per_iteration
    Loop(objective, model, optimizers, steps, (LoopConfig(save_every=0), config.optimizer), run).train()
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_ratios_are_one_throughout_the_first_epoch_before_any_update(dtype: torch.dtype) -> None:
    objective = objective_on(DEVICE, dtype)
    peaks = [
        float(objective.terms(batch)["peak_log_ratio"].value) for step in (0, 1) for batch in objective.batches(step)
    ]
    assert peaks == [0.0] * 4


def test_an_iteration_has_the_figures_of_a_cpu(tmp_path: Path) -> None:
    expected, found = (
        iteration_log(objective_on(device), tmp_path / name)
        for name, device in (("cpu", torch.device("cpu")), ("device", DEVICE))
    )
    assert len(found) == len(expected) == 4
    for name in ("score", "kl", "length", "ended_share"):
        assert found[0][name] == pytest.approx(expected[0][name], rel=1e-4)
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("policy", "value", "entropy", "gradient_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-2, abs=1e-3)
    assert found[0]["engine_difference"] < 1e-4


def test_a_second_rollout_is_of_the_updated_policy(tmp_path: Path) -> None:
    objective = objective_on(DEVICE)
    before = objective.engine.weights_name
    iteration_log(objective, tmp_path)
    rollouts, _ = objective.sample(1)
    assert {rollout.weights for rollout in rollouts} == {objective.engine.weights_name} != {before}
