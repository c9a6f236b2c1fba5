"""One iteration of PPO, and of GRPO, on language beside trl: the same model, prompts, tokens and epochs; a reward
without cost."""

from statistics import median
from typing import Any

from bench.chip import by_chip
from bench.records import AS_OUR_COMMANDS, TUNED_ALLOCATOR, Case, Comparison, Contender, Side
from bench.table import Row, compare

_TRL, _TRL_GRPO = "bench.side_trl", "bench.side_trl_grpo"
_GRPO = {"autocast": True, "checkpointing": False, "fused": True}
SIDES = {
    "our ppo": Side("bench.side_our_ppo", {}, AS_OUR_COMMANDS),
    "trl 0.11.4, one prompt at a time": Side(_TRL, {"at_once": 1}),
    "trl 0.11.4": Side(_TRL, {"at_once": 4}),
    "trl 0.11.4, all at once": Side(_TRL, {"at_once": 64}),
    "trl 0.11.4, tuned": Side(_TRL, {"at_once": 64, "fast_products": True}, TUNED_ALLOCATOR),
    "trl 0.24": Side("bench.side_trl_new", {}),
    "trl grpo bf16": Side(_TRL_GRPO, {"autocast": True, "checkpointing": True, "fused": False}),
    "trl grpo bf16, no checkpointing": Side(_TRL_GRPO, _GRPO),
    "trl grpo bf16, tuned": Side(_TRL_GRPO, _GRPO, TUNED_ALLOCATOR),
}
ASKED: dict[str, Any] = {"prompts": 64, "prompt_tokens": 8, "new_tokens": 36, "epochs": 4}
GROUPS_ASKED: dict[str, Any] = ASKED | {"prompts": 8, "samples": 8}
GRPO_TARGET = 3.0
"""Of mini, with bf16 products; on AVX2 half."""
BEST = ("trl 0.11.4, all at once", "trl 0.11.4, tuned")
TARGETS = {"mini": (6.0, 2.0), "small": (None, 5.0)}
"""Against trl 0.24, and against trl 0.11.4 at its best, with bf16 products; on AVX2 half, and 1.2 where 2 is asked."""
REST_TARGET = 0.05
"""The share of an iteration that is neither generation nor a forward or backward pass, at most."""
MEMORY_TARGET = 1 / 0.7
"""Theirs over ours, in peak memory."""


def ppo(shape: str) -> list[Case]:
    """Tokens are those of prompts and responses, once: 64 x 44 an iteration."""
    newest, best = TARGETS.get(shape, (None, None))

    def of(*sides: str) -> tuple[Contender, ...]:
        return tuple(Contender(side, "iterate", ASKED) for side in sides)

    comparisons = (
        Comparison("trl 0.24", of("trl 0.24"), newest and by_chip(newest, newest / 2)),
        Comparison("trl 0.11.4, as run", of("trl 0.11.4, one prompt at a time", "trl 0.11.4")),
        Comparison("trl 0.11.4, its best", of(*BEST), best and by_chip(best, 1.2 if best == 2.0 else best / 2)),
    )
    return [Case("ppo", "64 x (8 + 36)", of("our ppo")[0], comparisons)]


def grpo(shape: str) -> list[Case]:
    """Eight responses to each of eight prompts, so that tokens are those of PPO's case."""

    def of(*sides: str) -> tuple[Contender, ...]:
        return tuple(Contender(side, "iterate_groups", GROUPS_ASKED) for side in sides)

    target = by_chip(GRPO_TARGET, GRPO_TARGET / 2) if shape == "mini" else None
    comparisons = (
        Comparison("trl, as run", of("trl grpo bf16"), target),
        Comparison("trl, its best", of("trl grpo bf16, no checkpointing", "trl grpo bf16, tuned")),
    )
    return [Case("grpo", "8 x 8 x (8 + 36)", of("our ppo")[0], comparisons)]


def further_rows(case: Case, result: dict[str, Any]) -> list[Row]:
    """Peak memory against each peer, in MB; the share of an iteration that is neither generation nor a pass, in %."""
    samples = result["samples"]
    if case.ours.name not in samples:
        return []
    peaks = {name: [run["peak_bytes"] / 1e6 for run in runs] for name, runs in samples.items()}
    ours, rows = peaks.pop(case.ours.name), []
    for name, theirs in peaks.items():
        ratio, spread = compare(theirs, ours)
        aim = (f"≥ {MEMORY_TARGET:.2f}", ratio >= MEMORY_TARGET) if name in BEST else ("", None)
        rows.append(Row("ppo peak memory, MB", median(ours), name, median(theirs), ratio, spread, *aim))
    share = median(run["rest_share"] for run in samples[case.ours.name])
    limit = f"≤ {100 * REST_TARGET:g}"
    return [*rows, Row("ppo neither generation nor a pass, %", 100 * share, target=limit, reached=share <= REST_TARGET)]
