"""The encoder's part of the speed table: DistilBERT's shape on texts as long as reviews, beside transformers."""

from typing import Any

from bench.chip import by_chip
from bench.records import AS_OUR_COMMANDS, TUNED_ALLOCATOR, Case, Comparison, Contender, Side

_PEER = "bench.side_transformers_encoder"


def _peer(*, autocast: bool, grouped: bool) -> dict[str, Any]:
    return {"autocast": autocast, "grouped": grouped}


SIDES = {
    "our encoder": Side("bench.side_our_encoder", {}, AS_OUR_COMMANDS),
    "Trainer, as run": Side(_PEER, _peer(autocast=False, grouped=False)),
    "Trainer, best": Side(_PEER, _peer(autocast=True, grouped=True), TUNED_ALLOCATOR),
    "pipeline fp32, grouped": Side(_PEER, _peer(autocast=False, grouped=True)),
    "pipeline bf16, grouped": Side(_PEER, _peer(autocast=True, grouped=True), TUNED_ALLOCATOR),
}
TRAINED, SCORED, AT_ONCE = 40, 128, 16
"""Texts a turn, and the pipeline's batch."""


def encoder() -> list[Case]:
    """Of one shape. Targets are of the chip with bf16 products."""
    train, score = {"texts": TRAINED}, {"texts": SCORED}
    as_run = Comparison("Trainer, as run", (Contender("Trainer, as run", "train", train),), by_chip(4.0, None))
    best = Comparison("Trainer, best", (Contender("Trainer, best", "train", train),), by_chip(1.2, None))
    grouped, grouped_bf16 = (
        Contender(side, "score", score | {"batch": AT_ONCE})
        for side in ("pipeline fp32, grouped", "pipeline bf16, grouped")
    )
    return [
        Case("encoder", "training", Contender("our encoder", "train", train), (as_run, best)),
        Case(
            "encoder", "scoring", Contender("our encoder", "score", score),
            (
                Comparison("pipeline, grouped by length", (grouped,), by_chip(2.0, None)),
                Comparison("pipeline bf16, grouped by length", (grouped_bf16,)),
            ),
        ),
    ]  # fmt: skip
