"""The training half of the speed table: steps beside transformers, nanoGPT and the machine's own matrix products;
packed rows beside padded ones; encoding beside tokenizers."""

from typing import Any

from bench.chip import by_chip
from bench.records import AS_OUR_COMMANDS, TUNED_ALLOCATOR, Case, Comparison, Contender, Side

_PEER, _NANOGPT = "bench.side_transformers_training", "bench.side_nanogpt"
_TRL = "bench.side_trl_dpo"


def _peer(*, autocast: bool = False, compiled: bool = False, fused: bool = False, **more: bool) -> dict[str, Any]:
    return {"autocast": autocast, "compiled": compiled, "fused": fused, **more}


def _nanogpt(dtype: str, *, compiled: bool = False, fused: bool = False) -> dict[str, Any]:
    return {"dtype": dtype, "compiled": compiled, "fused": fused}


def _trl(*, autocast: bool = False, checkpointing: bool = False, grouped: bool = False) -> dict[str, Any]:
    return {"autocast": autocast, "fused": True, "checkpointing": checkpointing, "grouped": grouped}


SIDES = {
    "our training": Side("bench.side_our_training", {}, AS_OUR_COMMANDS),
    "transformers fp32 training": Side(_PEER, _peer()),
    "transformers autocast": Side(_PEER, _peer(autocast=True)),
    "transformers autocast compiled": Side(_PEER, _peer(autocast=True, compiled=True)),
    "transformers autocast tuned": Side(_PEER, _peer(autocast=True, fused=True), TUNED_ALLOCATOR),
    "transformers autocast tuned compiled": Side(
        _PEER, _peer(autocast=True, compiled=True, fused=True), TUNED_ALLOCATOR
    ),
    "transformers autocast checkpointing": Side(_PEER, _peer(autocast=True, checkpointing=True)),
    "nanoGPT fp32": Side(_NANOGPT, _nanogpt("float32")),
    "nanoGPT all-bf16": Side(_NANOGPT, _nanogpt("bfloat16", fused=True), TUNED_ALLOCATOR),
    "nanoGPT all-bf16 compiled": Side(_NANOGPT, _nanogpt("bfloat16", compiled=True, fused=True), TUNED_ALLOCATOR),
    "our dpo": Side("bench.side_our_dpo", {}, AS_OUR_COMMANDS),
    "trl fp32": Side(_TRL, _trl(checkpointing=True)),
    "trl autocast tuned": Side(_TRL, _trl(autocast=True), TUNED_ALLOCATOR),
    "trl autocast tuned grouped": Side(_TRL, _trl(autocast=True, grouped=True), TUNED_ALLOCATOR),
    "matrix products": Side("bench.side_products", {"dtype": "bfloat16"}, TUNED_ALLOCATOR),
    "matrix products, fp32": Side("bench.side_products", {"dtype": "float32"}, TUNED_ALLOCATOR),
    "packing": Side("bench.side_packing", {}, AS_OUR_COMMANDS),
    "our encoding": Side("bench.side_our_encoding", {}),
    "our shards": Side("bench.side_shards", {}),
    "tokenizers": Side("bench.side_tokenizers", {}, {"RAYON_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "true"}),
}

BATCHES = {"small": (4, 256, 1), "mini": (16, 256, 2), "tiny": (2, 32, 1)}
"""Rows, tokens a row, and steps a turn of the `training` group."""
STEP_TARGETS = {"small": (4.0, 1.6), "mini": (3.7, 1.35)}
"""Against transformers as run, and at its best as shipped."""
RATE_TARGETS = {"small": 0.7}
FP32_STEP_TARGET, FP32_RATE_TARGET = 1.4, 0.85
"""Where there are no bf16 products: against transformers as run, and of the fastest library's products."""


def _train(side: str, shape: str) -> Contender:
    rows, tokens, steps = BATCHES[shape]
    return Contender(side, "train", {"rows": rows, "tokens": tokens, "steps": steps})


def _training(shape: str) -> list[Case]:
    rows, tokens, steps = BATCHES[shape]

    def against(label: str, target: float | None, *sides: str) -> Comparison:
        return Comparison(label, tuple(_train(side, shape) for side in sides), target)

    def products(variant: str, target: float | None) -> Comparison:
        asked = {"rows": rows, "tokens": tokens, "steps": steps, "causal": variant == "causal"}
        label = f"{by_chip('bf16', 'fp32')} matmul rate, {variant} attention counted"
        side = by_chip("matrix products", "matrix products, fp32")
        return Comparison(label, (Contender(side, "multiply", asked, variant),), target)

    as_run, best = by_chip(STEP_TARGETS.get(shape, (None, None)), (FP32_STEP_TARGET, None))
    autocast = "transformers autocast"
    transformers = (
        against("transformers fp32, as run", as_run, "transformers fp32 training"),
        against("transformers, best as shipped", best, autocast, f"{autocast} compiled"),
        against("transformers, tuned", None, f"{autocast} tuned", f"{autocast} tuned compiled"),
    )
    nanogpt = (
        against("nanoGPT all-bf16, tuned", by_chip(1.0, None), "nanoGPT all-bf16", "nanoGPT all-bf16 compiled"),
        against("nanoGPT fp32, as run", None, "nanoGPT fp32"),
    )
    rate = (products("whole", by_chip(RATE_TARGETS.get(shape), FP32_RATE_TARGET)), products("causal", None))
    size = f"{rows} x {tokens}"
    # Three cases rather than one: the processes of one case all hold weights and moments at a time.
    return [
        Case("training", f"{size} beside transformers", _train("our training", shape), transformers),
        Case("training", f"{size} beside nanoGPT", _train("our training", shape), nanogpt),
        Case("training", f"{size} beside the matrix products", _train("our training", shape), rate),
    ]


def _packing(shape: str) -> list[Case]:
    if shape != "mini":
        return []
    cases = []
    for texts in ("functions", "conversations"):
        packed, padded, grouped = (
            Contender("packing", "train", {"texts": texts, "how": how}, how) for how in ("packed", "padded", "grouped")
        )
        comparisons = (
            Comparison("padded to the longest in batch", (padded,), 1.5),
            Comparison("padded, grouped by length", (grouped,)),
        )
        cases.append(Case("packing", texts, packed, comparisons))
    return cases


def _dpo(shape: str) -> list[Case]:
    """An epoch of DPO; the reference's log-probabilities are cached on both sides."""
    if shape != "mini":
        return []
    asked = {"pairs": 64, "batch": 16, "micro_batch": 8}
    as_run, *best = (
        Contender(side, "dpo", asked) for side in ("trl fp32", "trl autocast tuned", "trl autocast tuned grouped")
    )
    comparisons = (
        Comparison("trl DPOTrainer fp32, as run", (as_run,)),
        Comparison("trl DPOTrainer, best", tuple(best), by_chip(2.0, 1.2)),
    )
    return [Case("dpo", "64 review-length pairs", Contender("our dpo", "dpo", asked), comparisons)]


def encoding() -> list[Case]:
    """Of no shape: a corpus and a tokenizer. Each side takes the texts in pieces and all at once."""

    def encode(side: str, at_a_time: int, variant: str) -> Contender:
        return Contender(side, "encode", {"at_a_time": at_a_time}, variant)

    pieces, whole = (256, "256 texts at a time"), (1_000_000, "all texts at once")
    peer = Comparison(
        "tokenizers.encode_batch_fast, 2 threads", (encode("tokenizers", *pieces), encode("tokenizers", *whole)), 2.0
    )
    return [
        Case("encoding", "ids", encode("our encoding", *pieces), (peer,), counts="megabytes"),
        Case("encoding", "corpus to shards", Contender("our shards", "encode", {}), (peer,), counts="megabytes"),
    ]


GROUPS = {"training": _training, "packing": _packing, "dpo": _dpo}
