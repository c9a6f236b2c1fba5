"""The speed table as data: the sides, the work of each case, and the target ratios."""

from bench import control_cases, encoder_cases, ppo_cases, training_cases
from bench.chip import by_chip, chip
from bench.records import AS_OUR_COMMANDS, TUNED_ALLOCATOR, Case, Comparison, Contender, Side

_TRANSFORMERS, _LLAMA = "bench.side_transformers", "bench.side_llama"
SIDES = {
    "ours": Side("bench.side_ours", {"engine": {}}, AS_OUR_COMMANDS),
    "ours int8": Side("bench.side_ours", {"engine": {"weights": "int8"}}, AS_OUR_COMMANDS),
    "ours, weights in bf16": Side("bench.side_ours", {"engine": {"weights": "bf16"}}, AS_OUR_COMMANDS),
    "transformers fp32": Side(_TRANSFORMERS, {"dtype": "float32", "compiled": False}),
    "transformers bf16": Side(_TRANSFORMERS, {"dtype": "bfloat16", "compiled": False}, TUNED_ALLOCATOR),
    "transformers bf16 compiled": Side(
        _TRANSFORMERS, {"dtype": "bfloat16", "compiled": True}, TUNED_ALLOCATOR, warm_ups=2
    ),
    "llama.cpp bf16": Side(_LLAMA, {"gguf": "bf16"}),
    "llama.cpp q8_0": Side(_LLAMA, {"gguf": "q8_0"}),
    **training_cases.SIDES,
    **control_cases.SIDES,
    **ppo_cases.SIDES,
    **encoder_cases.SIDES,
}

LLAMA_TARGETS = {"small": {1: 1.05, 16: 1.05, 64: 1.05}, "mini": {1: 0.7, 16: 0.9, 64: 1.0}}
FP32_TARGETS = {"mini": {1: 3.0, 16: 3.0, 64: 3.0}, "small": {1: 3.0, 16: 2.5, 64: 2.0}}
"""Of generation in fp32, where there are no bf16 products, against transformers as run."""


def _generate(side: str, batch: int, how: str = "") -> Contender:
    asked = {"prompts": batch, "prompt_tokens": 16, "new_tokens": 64}
    return Contender(side, "generate", asked | ({"how": how} if how else {}), how)


def _generation(shape: str) -> list[Case]:
    cases = []
    for batch in (1, 16, 64):
        best = tuple(_generate(side, batch) for side in ("transformers bf16", "transformers bf16 compiled"))
        sampling, greedy = (_generate("llama.cpp bf16", batch, how) for how in ("sample", "greedy"))
        comparisons = (
            Comparison(
                "transformers, as run",
                (_generate("transformers fp32", batch),),
                by_chip(3.5, FP32_TARGETS.get(shape, {}).get(batch)),
            ),
            Comparison("transformers, best", best, by_chip(2.2, None)),
            Comparison("llama.cpp", (sampling,), by_chip(LLAMA_TARGETS.get(shape, {}).get(batch), None)),
            Comparison("llama.cpp, greedy", (greedy,)),
        )
        cases.append(Case("generation", f"B={batch}", _generate("ours", batch), comparisons))
    return cases


def _bf16_weights(shape: str) -> list[Case]:
    """By choice where products are in fp32: half of what a step reads."""
    if chip() == "avx512-bf16":
        return []
    cases = []
    for batch in (1, 16, 64):
        as_run = (_generate("transformers fp32", batch),)
        comparisons = (
            Comparison("transformers, as run", as_run, 6.0 if batch == 1 else None),
            Comparison("llama.cpp", (_generate("llama.cpp bf16", batch, "sample"),), 1.0),
            Comparison("our own fp32", (_generate("ours", batch),)),
        )
        cases.append(Case("bf16-weights", f"B={batch}", _generate("ours, weights in bf16", batch), comparisons))
    return cases


def _int8(shape: str) -> list[Case]:
    comparisons = (
        Comparison("llama.cpp q8_0", (_generate("llama.cpp q8_0", 1, "sample"),), 1.0),
        Comparison("llama.cpp q8_0, greedy", (_generate("llama.cpp q8_0", 1, "greedy"),)),
        Comparison(by_chip("our own bf16", "our own fp32"), (_generate("ours", 1),)),
    )
    return [Case("int8", "B=1", _generate("ours int8", 1), comparisons)]


def _continuous(shape: str) -> list[Case]:
    ours, batches, padded = (
        Contender("ours", "stream", {"requests": 256, "how": how}, how) for how in ("continuous", "batches", "padded")
    )
    comparisons = (
        Comparison("padded batches of 64", (padded,), 1.6),
        Comparison("batches of 64 whose finished rows leave", (batches,)),
    )
    return [Case("continuous", "256 requests", ours, comparisons)]


def _shared_prompt(shape: str) -> list[Case]:
    if shape == "mini":
        return []  # its context is 256
    ours, different = (
        Contender("ours", "read_prompts", {"prompts": 16, "prompt_tokens": 512, "different": different}, variant)
        for different, variant in ((False, "one prompt"), (True, "16 prompts"))
    )
    comparison = Comparison("16 different prompts", (different,), 5.0)
    return [Case("shared-prompt", "16 samples of 512 tokens", ours, (comparison,))]


def _log_probs(shape: str) -> list[Case]:
    asked = {"rows": 64, "tokens": 44, "prompt_tokens": 8}

    def peer(side: str, full: bool) -> tuple[Contender, ...]:
        return (Contender(side, "log_probs", asked | {"full": full}, "full logits" if full else "logits_to_keep"),)

    comparisons = (
        Comparison("transformers fp32, as run", peer("transformers fp32", True), by_chip(None, 1.5)),
        Comparison("transformers bf16, full logits", peer("transformers bf16", True), by_chip(2.0, None)),
        Comparison("transformers bf16, logits_to_keep", peer("transformers bf16", False)),
        Comparison("our own trainer's forward", (Contender("ours", "trainer_log_probs", asked, "trainer"),)),
    )
    return [Case("log-probs", "64 x 44 tokens", Contender("ours", "log_probs", asked), comparisons)]


GROUPS = {
    "generation": _generation, "bf16-weights": _bf16_weights, "int8": _int8, "continuous": _continuous,
    "shared-prompt": _shared_prompt, "log-probs": _log_probs, "ppo": ppo_cases.ppo,
    "grpo": ppo_cases.grpo, **training_cases.GROUPS,
}  # fmt: skip
