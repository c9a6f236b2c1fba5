"""Scaling rules: from `depth`, a number of blocks, to a complete pretraining config. Values given explicitly are kept.

    layers   = depth
    width    = 64 x depth                      heads of 64 (nanochat; depth 12 is GPT-2 124M: width 768, 12 heads)
    context  = largest power of two up to 128 x depth, from 256 to 2048; row_tokens = context
    tokens   = tokens_per_parameter x 12 x layers x width^2
               20 tokens a parameter (Hoffmann et al. 2022) of the blocks alone, as Kaplan et al. 2020 count: the
               vocabulary is not known before the tokenizer is
    batch    = 2^18 tokens x (tokens / tokens of depth 12)^0.383, rounded to a power of two
               (exponent: Bergsma et al. 2025, "Power Lines"; the 2^18 is half of nanochat's)
    learning rate of Muon's matrices  0.02 at every size
    learning rate of the rest         0.003 x sqrt(256 / width)
    learning rate of AdamW for all    6e-4 x sqrt(768 / width) x sqrt(batch / 2^18 tokens)
               (6e-4 is Brown et al. 2020 at 125M; the root of the width: nanochat; of the batch: Malladi et al. 2022)

Weight decay does not depend on depth: Brown et al. kept 0.1 from 125M to 175B. Muon's rate follows neither width nor
batch because the step it makes is orthogonal, and because 0.02 was best here at width 256 with 2,048 tokens a step and
is nanochat's at width 768 with 2^19: no root of the batch lies between these two. Honestly: the two rates of Muon were
tuned at the sizes of docs/LOG.md only, and all else is taken from the sources named.
"""

import math
from typing import Any

from pydantic import BaseModel

HEAD_WIDTH = 64
CONTEXT_PER_LAYER = 128
MIN_CONTEXT, MAX_CONTEXT = 256, 2048
TOKENS_PER_PARAMETER = 20.0
REFERENCE_DEPTH = 12
REFERENCE_BATCH_TOKENS = 2**18
BATCH_EXPONENT = 0.383
MUON_RATE, MUON_REST_RATE, MUON_REST_WIDTH = 0.02, 0.003, 256
ADAMW_RATE, ADAMW_WIDTH = 6e-4, 768
# Tokens that go through the model at once: memory, not results.
MICRO_BATCH_TOKENS = 8192

# What `moved` takes along: a recipe's own figures, right at the recipe's own depth.
SCALED = ("tokens", "batch_size", "optimizer.learning_rate", "optimizer.learning_rate_rest")
# Counted in steps, and so scaled as the number of steps is.
COUNTED_IN_STEPS = ("optimizer.warmup_steps", "loop.evaluate_every", "loop.save_every")


def block_parameters(layers: int, width: int) -> int:
    """Weights of the blocks: 12 x layers x width^2 in GPT-2's and in Qwen3's shape (4 of attention, 8 of the MLP)."""
    return 12 * layers * width**2


def with_depth(values: dict[str, Any]) -> dict[str, Any]:
    """`values` of a pretraining config with all that follows from their `depth`; what they name stays as it is.

    Values that are no numbers are left for the config class to refuse.
    """
    depth = _given(values, "depth")
    if depth is None:
        return values
    filled = _copied(values)
    for name, value in _plan(filled, int(depth)).items():
        _set_missing(filled, name, value)
    return filled


def moved(values: dict[str, Any], depth: int) -> dict[str, Any]:
    """A recipe's pretraining values, written for their own `depth`, taken to another.

    Figures of `SCALED` that the recipe names are multiplied by what the rules give at one depth over the other, and
    so are its `epochs`, by the ratio of the horizons, and what it counts in steps. A shape that the recipe names stays.
    """
    own, fixed = _copied(values), _copied(values)
    for name in SCALED:
        _remove(fixed, name)
    before, after = (_plan(fixed, each) for each in (int(own["depth"]), depth))
    for name in SCALED:
        given, ratio = _given(own, name), after[name] / before[name]
        if given is not None:
            whole = isinstance(after[name], int)
            _set(own, name, max(1, round(given * ratio)) if whole else _rounded(given * ratio))
    epochs = _given(own, "epochs")
    if epochs is not None:
        own["epochs"] = epochs * after["tokens"] / before["tokens"]
    fewer = _steps(after) / _steps(before)
    for name in COUNTED_IN_STEPS:
        steps = _given(own, name)
        if steps is not None:
            _set(own, name, max(1, round(steps * fewer)))
    micro, rows = _given(own, "micro_batch_size"), _given(own, "batch_size")
    if micro is not None and rows is not None:
        own["micro_batch_size"] = int(min(micro, rows))
    return own | {"depth": depth}


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with what is nested as mappings of their own; of a config, what was named when it was made."""
    named = {
        key: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        for key, value in values.items()
    }
    return {key: dict(value) if isinstance(value, dict) else value for key, value in named.items()}


def _plan(values: dict[str, Any], depth: int) -> dict[str, int | float]:
    """{dotted name: value} of all that depth determines, each derived from `values` and the ones before it."""

    def value(name: str, otherwise: int) -> int:
        given = _given(values, name)
        plan[name] = int(given) if given is not None else otherwise
        return int(plan[name])

    plan: dict[str, int | float] = {}
    depth = max(depth, 1)
    layers = value("model.layers", depth)
    width = value("model.width", HEAD_WIDTH * depth)
    value("model.heads", _heads(width))
    context = value("model.context", _context(depth))
    row_tokens = value("row_tokens", context)
    ratio = _given(values, "tokens_per_parameter") or TOKENS_PER_PARAMETER
    tokens = value("tokens", round(ratio * block_parameters(layers, width)))
    batch_size = value("batch_size", max(1, round(_batch_tokens(tokens) / row_tokens)))
    value("micro_batch_size", min(batch_size, max(1, MICRO_BATCH_TOKENS // row_tokens)))
    return plan | _learning_rates(values, width, batch_size * row_tokens)


def _steps(plan: dict[str, int | float]) -> float:
    return plan["tokens"] / (plan["batch_size"] * plan["row_tokens"])


def _learning_rates(values: dict[str, Any], width: int, batch_tokens: int) -> dict[str, float]:
    optimizer = values.get("optimizer")
    kind = optimizer.get("kind", "muon") if isinstance(optimizer, dict) else "muon"
    rate = MUON_RATE
    if kind == "adamw":
        rate = ADAMW_RATE * math.sqrt(ADAMW_WIDTH / width) * math.sqrt(batch_tokens / REFERENCE_BATCH_TOKENS)
    rest = MUON_REST_RATE * math.sqrt(MUON_REST_WIDTH / width)
    return {"optimizer.learning_rate": _rounded(rate), "optimizer.learning_rate_rest": _rounded(rest)}


def _batch_tokens(tokens: int) -> int:
    reference = TOKENS_PER_PARAMETER * block_parameters(REFERENCE_DEPTH, HEAD_WIDTH * REFERENCE_DEPTH)
    return int(2 ** round(math.log2(REFERENCE_BATCH_TOKENS * (tokens / reference) ** BATCH_EXPONENT)))


def _context(depth: int) -> int:
    power = 2 ** int(math.log2(CONTEXT_PER_LAYER * depth))
    return min(max(power, MIN_CONTEXT), MAX_CONTEXT)


def _heads(width: int) -> int:
    """Heads of about 64 that divide the width."""
    return next(heads for heads in range(max(1, width // HEAD_WIDTH), 0, -1) if width % heads == 0)


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")


def _given(values: dict[str, Any], name: str) -> float | None:
    """The positive number that `values` name under a dotted name, if they do."""
    found: Any = values
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    try:
        number = float(found)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < math.inf else None


def _set_missing(values: dict[str, Any], name: str, value: float) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            return
    values.setdefault(last, value)


def _set(values: dict[str, Any], name: str, value: float) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        values = values[parent]
    values[last] = value


def _remove(values: dict[str, Any], name: str) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        values = values.get(parent, {})
    if isinstance(values, dict):
        values.pop(last, None)
