"""Preference pairs and labels by hand, and the objective on a small model, for tests of `trine dpo`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.conftest import PLAIN_CPU, QUIET_LOOP
from tests.tiny import random_ids
from trine.config.dpo import DpoConfig
from trine.model.transformer import Transformer
from trine.runtime.distributed import ALONE, World
from trine.stages.direct.dpo import class_weights
from trine.stages.direct.items import Item
from trine.stages.direct.log_probs import AnswerLogProbs, shares_prompt
from trine.stages.direct.objective import DirectObjective, LabelObjective, PairObjective, Part
from trine.stages.direct.plan import Plan
from trine.stages.direct.reference import ReferenceModel
from trine.training.loop import add_up
from trine.training.parallel import Kind, parallelise

LENGTHS = ((5, 3, 9), (2, 7, 7), (11, 1, 4), (6, 6, 1), (3, 8, 2), (1, 5, 5), (9, 2, 3), (4, 4, 8))


def ids(length: int, seed: int) -> tuple[int, ...]:
    return tuple(random_ids(length, seed=seed).tolist())


def pair_items(count: int = 8) -> list[Item]:
    return [
        Item(ids(lengths[0], 10 * n), (ids(lengths[1], 10 * n + 1), ids(lengths[2], 10 * n + 2)))
        for n, lengths in enumerate(LENGTHS[:count])
    ]


def label_items(count: int = 8) -> list[Item]:
    return [Item(item.prompt, item.answers[:1], desirable=n % 3 != 0) for n, item in enumerate(pair_items(count))]


def items_of(loss: str) -> list[Item]:
    return label_items() if loss == "kto" else pair_items()


def dpo_config(
    out: Path = Path("x"), model: Path = Path("x"), preferences: Path = Path("x"), **changes: Any
) -> DpoConfig:
    values: dict[str, Any] = {
        "out": out, "model": str(model), "preferences": preferences, "batch_size": 4, "micro_batch_size": 2,
        "loop": QUIET_LOOP, "hardware": PLAIN_CPU,
    }  # fmt: skip
    if changes.get("loss") == "robust":
        values["label_smoothing"] = 0.2
    return DpoConfig(**values | changes)


def objective_of(
    model: Transformer,
    items: Sequence[Item],
    config: DpoConfig,
    folder: Path,
    *,
    world: World = ALONE,
    reference: Transformer | None = None,
    kind: Kind = "auto",
    held_out: bool = False,
) -> DirectObjective:
    """The objective of `config` on `model`; the reference is `reference`, or the model as it is now."""
    plan = Plan(items, config.batch_size, config.micro_batch_size, config.seed, mismatched=config.loss == "kto")
    found = None
    if config.has_reference:
        source = ReferenceModel(reference or model, world, share_prompt=shares_prompt(config, model))
        found = source.log_probs(plan, "items.jsonl", [folder, folder / "run"])
    part = Part(plan, found)
    parallel = parallelise(AnswerLogProbs(model), list(model.blocks), world, kind)
    given = parallel, part, part if held_out else None, config
    if config.loss == "kto":
        return LabelObjective(*given, class_weights=class_weights(config, plan))
    return PairObjective(*given, share_prompt=shares_prompt(config, model))


def gradients(objective: DirectObjective, model: Transformer, step: int = 0) -> dict[str, Tensor]:
    """Of one step, as the loop takes them; and the loss, as `loss`."""
    model.zero_grad()
    batches = objective.batches(step)
    totals = add_up([objective.counts(batch) for batch in batches])
    loss = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        terms = objective.terms(batch)
        part = sum(term.weight / totals[name] * term.value for name, term in terms.items())
        part.backward()
        loss += part.detach()
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    return found | {"loss": loss}
