"""Config keys and stages that once had another name: the old name is refused, and the error names the new one.

One table for all configs: an old name may have become different things in different places (`response_tokens`), so the
new name is the one that exists where the old one was found.
"""

from collections.abc import Iterable

RENAMED: dict[str, tuple[str, ...]] = {
    "batch_pairs": ("batch_size",),
    "batch_prompts": ("batch_size",),
    "batch_rows": ("batch_size",),
    "clip": ("clip_range",),
    "compare": ("preferences",),
    "comparisons": ("preferences",),
    "cutting": ("packing",),
    "dual_clip": ("dual_clip_range",),
    "judge": ("held_out_reward",),
    "judge_share": ("held_out_reward_share",),
    "lam": ("gae_lambda",),
    "largest_broken_share": ("max_broken_share",),
    "largest_bytes": ("max_bytes",),
    "largest_prompts": ("max_prompts",),
    "largest_skips": ("max_skips",),
    "least": ("min_coefficient",),
    "length_penalty": ("missing_eos_penalty",),
    "length_score": ("missing_eos_score",),
    "micro_batch_pairs": ("micro_batch_size",),
    "micro_batch_prompts": ("micro_batch_size",),
    "micro_batch_rows": ("micro_batch_size",),
    "minibatch_prompts": ("minibatch_size",),
    "prompt_tokens": ("max_prompt_tokens",),
    "response_tokens": ("max_new_tokens", "max_response_tokens"),
    "smallest_response_tokens": ("min_response_tokens",),
    "value_clip": ("value_clip_range",),
}

_FILTER = (
    "rollouts are sampled from the policy as it is, at `temperature`; under a filter they would come from another "
    "distribution than the one whose log-probabilities are trained, so that the ratio is not 1 and KL turns negative"
)
FILTERS = {
    "min_new_tokens": f"{_FILTER}. Ask for length by the reward",
    "min_length": f"{_FILTER}. Ask for length by the reward",
    "top_k": _FILTER,
    "top_p": _FILTER,
    "min_p": _FILTER,
    "repetition_penalty": f"{_FILTER}. Ask for variety by the reward",
}
"""Settings of generation that training on rollouts does not have, and why."""


def why_refused(key: str, known: Iterable[str]) -> str | None:
    """Why a config that trains on what it samples (`iterations` of `max_new_tokens`) has no setting `key`."""
    return FILTERS.get(key) if {"iterations", "max_new_tokens"} <= set(known) else None


def new_name(key: str, known: Iterable[str]) -> str | None:
    """The name among `known` that dotted `key` has today, if it once had a name that `key` is."""
    *parents, last = key.split(".")
    candidates = (".".join((*parents, name)) for name in RENAMED.get(last, ()))
    return next((name for name in candidates if name in set(known)), None)
