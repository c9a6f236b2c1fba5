"""Hugging Face transformers: `generate` with sampling, and a forward pass with full logits.

Options: `dtype`; `compiled` takes the static cache and torch.compile instead of the dynamic cache.
"""

import time
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, CompileConfig

from bench.protocol import Reply, options, random_prompts, serve

OPTIONS = options()
MODEL: Any = AutoModelForCausalLM.from_pretrained(OPTIONS["folder"], dtype=getattr(torch, OPTIONS["dtype"]))
VOCABULARY = MODEL.config.vocab_size
_compiled_for: list[int] = []


def _cache_options(batch: int) -> dict[str, Any]:
    if not OPTIONS["compiled"]:
        return {}
    if _compiled_for != [batch]:  # a graph of this batch's own: faster than one with symbolic sizes
        torch._dynamo.reset()
        _compiled_for[:] = [batch]
    compile_config: Any = CompileConfig(mode="default")
    compile_config._compile_all_devices = True  # by itself `generate` compiles on GPUs only
    return {"cache_implementation": "static", "compile_config": compile_config}


@torch.no_grad()
def generate(prompts: int, prompt_tokens: int, new_tokens: int, seed: int) -> Reply:
    ids = torch.tensor(random_prompts(prompts, prompt_tokens, VOCABULARY, seed))
    torch.manual_seed(seed)
    extra = _cache_options(prompts)
    started = time.perf_counter()
    result = MODEL.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        max_new_tokens=new_tokens, eos_token_id=None, pad_token_id=0, **extra,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens": result[:, prompt_tokens:].numel()}


@torch.no_grad()
def log_probs(rows: int, tokens: int, prompt_tokens: int, full: bool, seed: int) -> Reply:
    """`full`: logits of every position, as a plain call makes them; else of the needed ones (`logits_to_keep`)."""
    ids = torch.tensor(random_prompts(rows, tokens, VOCABULARY, seed))
    started = time.perf_counter()
    kept = 0 if full else tokens - prompt_tokens + 1
    logits = MODEL(ids, logits_to_keep=kept, use_cache=False).logits[:, -(tokens - prompt_tokens + 1) : -1]
    values = torch.log_softmax(logits.float(), -1).gather(2, ids[:, prompt_tokens:].unsqueeze(2))
    values.sum().item()
    return {"seconds": time.perf_counter() - started, "tokens": rows * tokens}


if __name__ == "__main__":
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    serve(versions | {"threads": torch.get_num_threads()}, generate, log_probs)
