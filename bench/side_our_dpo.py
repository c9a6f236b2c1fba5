"""Trine's DPO as `trine dpo` runs it: its plan, objective and optimizer; what the reference says is known before."""

import time
from pathlib import Path

import trine
from bench.our_step import finish_step, optimizers_of
from bench.pairs import random_pairs, tokens_of
from bench.protocol import Reply, options, serve
from trine.config.dpo import DpoConfig
from trine.model.folder import load_model
from trine.runtime.allocator import keep_freed_memory
from trine.runtime.device import choose_hardware
from trine.runtime.distributed import ALONE
from trine.stages.direct.items import Item
from trine.stages.direct.log_probs import AnswerLogProbs
from trine.stages.direct.objective import PairObjective, Part
from trine.stages.direct.plan import Plan
from trine.stages.direct.reference import ReferenceModel
from trine.training.loop import add_up
from trine.training.parallel import parallelise

OPTIONS = options()
keep_freed_memory()
HARDWARE = choose_hardware("cpu", threads=OPTIONS["threads"])
MODEL = load_model(Path(OPTIONS["folder"]), HARDWARE.compute_dtype, HARDWARE.device).train()
OPTIMIZERS = optimizers_of(MODEL)
FIRST: list[float] = []
OBJECTIVES: dict[tuple[int, int, int], PairObjective] = {}


def objective_of(pairs: int, batch: int, micro_batch: int) -> PairObjective:
    """Made once, the reference with it, while the weights are those of the folder."""
    key = pairs, batch, micro_batch
    if key not in OBJECTIVES:
        found = random_pairs(pairs, MODEL.config.vocab_size)
        items = [Item(tuple(each["prompt"]), (tuple(each["chosen"]), tuple(each["rejected"]))) for each in found]
        plan = Plan(items, batch, micro_batch, seed=0)
        folder = Path(OPTIONS["folder"]) / "dpo"
        share = MODEL.can_share_prompts
        reference = ReferenceModel(MODEL, ALONE, share_prompt=share).log_probs(plan, "pairs", [folder])
        config = DpoConfig(out=folder, model="unused", preferences=folder, batch_size=batch)
        parallel = parallelise(AnswerLogProbs(MODEL), list(MODEL.blocks), ALONE, "auto")
        OBJECTIVES[key] = PairObjective(parallel, Part(plan, reference), None, config, share_prompt=share)
    return OBJECTIVES[key]


def dpo(pairs: int, batch: int, micro_batch: int, seed: int) -> Reply:
    """One epoch over the pairs."""
    objective = objective_of(pairs, batch, micro_batch)
    losses = []
    started = time.perf_counter()
    for step in range(len(objective.train.plan.steps)):
        batches = objective.batches(step)
        totals = add_up([objective.counts(each) for each in batches])
        loss = 0.0
        for each in batches:
            value = objective.terms(each)["preference"].value / totals["preference"]
            value.backward()
            loss += float(value.detach())
        finish_step(MODEL, OPTIMIZERS)
        objective.observations()
        losses.append(loss)
    seconds = time.perf_counter() - started
    FIRST[:] = FIRST or losses[:1]
    return {
        "seconds": seconds,
        "tokens": tokens_of(random_pairs(pairs, MODEL.config.vocab_size)),
        "first_loss": FIRST[0],
    }


if __name__ == "__main__":
    serve({"trine": trine.__version__, "hardware": HARDWARE.description}, dpo)
