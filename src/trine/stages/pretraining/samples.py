"""Samples during training: a few fixed prompts, completed greedily at every evaluation.

Rows {step, prompt, text} of samples.jsonl. The engine is made anew each time, on PyTorch's own operations: it knows the
weights it was made with, and its memory goes back to training.
"""

from collections.abc import Sequence

from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.transformer import Transformer
from trine.tokenizer.tokenizer import Tokenizer


def complete(model: Transformer, tokenizer: Tokenizer, prompts: Sequence[str], budget: int) -> list[dict[str, str]]:
    """Rows {prompt, text}: each prompt with up to `budget` greedy tokens after it, fewer where the context ends."""
    if not prompts or budget < 1:
        return []
    ids = [tokenizer.prompt_ids(prompt) for prompt in prompts]
    room = model.config.context - max(len(each) for each in ids)
    if room < 1:
        return []
    sampling = Sampling(min(budget, room), temperature=0.0, eos_ids=tokenizer.stop_ids)
    rollouts = Engine(model, rows=len(ids), native=False).generate(ids, sampling)
    return [
        {"prompt": prompt, "text": tokenizer.decode(rollout.response_ids, skip="")}
        for prompt, rollout in zip(prompts, rollouts, strict=True)
    ]
