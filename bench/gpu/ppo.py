"""One PPO iteration: 64 responses of 36 tokens to prompts of 8, scored by a reward model, four epochs of updates."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from bench.gpu.setting import Figures, Setting
from bench.protocol import random_prompts
from trine.config.base import LoopConfig
from trine.config.rl import PpoConfig
from trine.data.packing import pad
from trine.model.heads import PolicyWithValue, ScoreModel
from trine.records import Answer
from trine.stages.rl.ppo import PpoObjective
from trine.stages.rl.prompts import Prompt
from trine.training.loop import Loop
from trine.training.optimizers import make_optimizers
from trine.training.run_folder import RunFolder

PROMPT_TOKENS = 8
ITERATIONS = 3  # the first captures and warms up


class ScoresIds:
    """A reward model that reads token ids."""

    def __init__(self, model: ScoreModel) -> None:
        self.model = model.requires_grad_(False).eval()

    @torch.no_grad()
    def score(self, answers: Sequence[Answer]) -> Tensor:
        device = self.model.head.weight.device
        ids, lengths = pad([[*answer.prompt_ids, *answer.response_ids] for answer in answers], 0)
        return self.model(ids.to(device), (lengths - 1).to(device)).cpu()


@dataclass(frozen=True)
class _Ids:
    """As much of a tokenizer as ids need."""

    pad: int = 0
    fingerprint: str = ""


@dataclass(frozen=True)
class IdsOnly:
    """As much of a chat format as ids need: nothing here is text, and no id ends a response."""

    tokenizer: _Ids = field(default_factory=_Ids)
    end_ids: tuple[int, ...] = ()

    def text(self, ids: Sequence[int]) -> str:
        return ""


def measure(setting: Setting) -> Figures:
    """Seconds of a whole iteration, and of its sampling, scoring and first update."""
    responses, new_tokens, epochs = (4, 3, 1) if setting.tiny else (64, 36, 4)
    config = PpoConfig(
        out=Path("out"), model="model", prompts=Path("prompts"), reward="bench:reward", batch_size=responses,
        minibatch_size=responses // 2, micro_batch_size=responses // 2, max_new_tokens=new_tokens, epochs=epochs,
    )  # fmt: skip
    objective = _objective(setting, config)
    steps = objective.steps_per_iteration
    rows = _trained(objective, config, (2 if setting.tiny else ITERATIONS) * steps)
    iterations = [rows[start : start + steps] for start in range(steps, len(rows), steps)]
    seconds = [sum(row["seconds"] for row in each) for each in iterations]
    tokens = responses * (PROMPT_TOKENS + new_tokens)
    return {
        "responses": responses, "prompt_tokens": PROMPT_TOKENS, "new_tokens": new_tokens, "epochs": config.epochs,
        "seconds": min(seconds), "runs": seconds, "first_step_seconds": min(each[0]["seconds"] for each in iterations),
        "tokens_per_second": tokens / min(seconds),
        "engine_difference": max(each[0]["engine_difference"] for each in iterations),
        "precision": setting.hardware.precision,
    }  # fmt: skip


def _objective(setting: Setting, config: PpoConfig) -> PpoObjective:
    """Policy with a value head, reference and reward model of one shape, on the device."""
    hardware = setting.hardware
    policy, reference, trunk = (setting.model(hardware) for _ in range(3))
    reward = ScoreModel(trunk).to(hardware.device)
    reward.initialize_head(seed=0)
    ids = random_prompts(config.batch_size, PROMPT_TOKENS, policy.config.vocab_size, seed=0)
    prompts = [Prompt(tuple(prompt)) for prompt in ids]
    model = PolicyWithValue(policy).to(hardware.device)
    return PpoObjective(model, reference.requires_grad_(False), ScoresIds(reward), prompts, IdsOnly(), config)


def _trained(objective: PpoObjective, config: PpoConfig, steps: int) -> list[dict[str, float]]:
    """The rows of the loop's log."""
    model, shape = objective.model, objective.model.policy.config
    optimizers = make_optimizers(model.named_parameters(), config.optimizer, shape, model.policy.compute_dtype)
    settings = LoopConfig(save_every=0), config.optimizer
    with tempfile.TemporaryDirectory(prefix="trine-bench-") as folder:
        run = RunFolder(Path(folder))
        Loop(objective, model, optimizers, steps, settings, run).train()
        return [json.loads(line) for line in run.metrics.read_text().splitlines()]
