"""Iterations as `trine ppo` and `trine grpo` make them: objective and training loop, with its log; no checkpoints."""

import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import trine
from bench.gpu.ppo import IdsOnly
from bench.process_memory import peak_bytes, ready_bytes, reset_peak
from bench.protocol import Reply, options, random_prompts, serve
from trine.config.base import LoopConfig, OptimizerConfig
from trine.config.groups import GrpoConfig
from trine.config.rl import PpoConfig
from trine.model.folder import load_model
from trine.model.heads import PolicyWithValue
from trine.records import Answer
from trine.runtime.allocator import keep_freed_memory
from trine.runtime.device import choose_hardware
from trine.stages.rl.phases import PREFIX
from trine.stages.rl.ppo import PpoObjective
from trine.stages.rl.prompts import Prompt
from trine.training.loop import Loop
from trine.training.optimizers import make_optimizers
from trine.training.run_folder import RunFolder

keep_freed_memory()
OPTIONS = options()
HARDWARE = choose_hardware(threads=OPTIONS["threads"])
IMPORT_BYTES = ready_bytes()
OPTIMIZER = OptimizerConfig(kind="adamw", learning_rate=1.41e-5, decay="constant", warmup_share=0.0)
WORK = ("sampling", "log_probs", "gradients")


class Nothing:
    """A reward that costs nothing, and differs from response to response."""

    def score(self, answers: Sequence[Answer]) -> Tensor:
        return torch.tensor([float(answer.response_ids[0] % 7) for answer in answers])


@cache
def networks(*, valued: bool) -> tuple[PolicyWithValue, torch.nn.Module, list[torch.optim.Optimizer]]:
    """Policy, with a value head where it is `valued`, reference and optimizer, kept from iteration to iteration."""
    policy, reference = (load_model(Path(OPTIONS["folder"]), HARDWARE.compute_dtype, HARDWARE.device) for _ in range(2))
    model = PolicyWithValue(policy, valued=valued)
    optimizers = make_optimizers(model.named_parameters(), OPTIMIZER, policy.config, HARDWARE.compute_dtype)
    return model, reference.requires_grad_(False), optimizers


def iterate(prompts: int, prompt_tokens: int, new_tokens: int, epochs: int, seed: int) -> Reply:
    """One iteration of PPO; `rest_share`: what is neither generation nor a forward or backward pass."""
    with tempfile.TemporaryDirectory(prefix="trine-bench-") as folder:
        config = PpoConfig(**settings(folder, prompts, new_tokens, epochs, seed))
        return iteration(config, prompts, prompt_tokens)


def iterate_groups(prompts: int, samples: int, prompt_tokens: int, new_tokens: int, epochs: int, seed: int) -> Reply:
    """One iteration of GRPO, `samples` responses to each prompt."""
    with tempfile.TemporaryDirectory(prefix="trine-bench-") as folder:
        shared = settings(folder, prompts * samples, new_tokens, epochs, seed)
        return iteration(GrpoConfig(**shared, samples_per_prompt=samples), prompts, prompt_tokens)


def settings(folder: str, responses: int, new_tokens: int, epochs: int, seed: int) -> dict[str, Any]:
    """What both algorithms are asked for: all responses in one step, each epoch."""
    return {
        "out": Path(folder), "model": "model", "prompts": Path("prompts"), "reward": "bench:reward",
        "batch_size": responses, "minibatch_size": responses, "micro_batch_size": responses,
        "max_new_tokens": new_tokens, "epochs": epochs, "seed": seed, "optimizer": OPTIMIZER,
    }  # fmt: skip


def iteration(config: PpoConfig, prompts: int, prompt_tokens: int) -> Reply:
    """Sample, score and update once, as the loop does it."""
    model, reference, optimizers = networks(valued=config.advantage == "gae")
    ids = random_prompts(prompts, prompt_tokens, model.policy.config.vocab_size, config.seed)
    given = [Prompt(tuple(each)) for each in ids]
    objective = PpoObjective(model, reference, Nothing(), given, IdsOnly(), config)  # type: ignore[arg-type]
    run = RunFolder(config.out)
    reset_peak()
    Loop(objective, model, optimizers, config.epochs, (LoopConfig(save_every=0), OPTIMIZER), run).train()
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    seconds = sum(row["seconds"] for row in rows)
    work = sum(row.get(f"{PREFIX}{phase}", 0.0) for row in rows for phase in WORK)
    return {
        "seconds": seconds, "tokens": config.batch_size * (prompt_tokens + config.max_new_tokens),
        "rest_share": 1 - work / seconds, "peak_bytes": peak_bytes(), "engine_difference": rows[0]["engine_difference"],
    }  # fmt: skip


if __name__ == "__main__":
    serve(
        {"trine": trine.__version__, "threads": torch.get_num_threads(), "import_bytes": IMPORT_BYTES},
        iterate,
        iterate_groups,
    )
