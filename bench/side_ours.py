"""Trine as its own command runs it: the allocator's setting, the hardware's choice, one engine of 64 rows."""

import random
import time
from functools import cache
from pathlib import Path

import torch

import trine
from bench.protocol import Reply, options, random_prompts, serve
from trine.algorithms.text_log_probs import target_log_probs
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.folder import load_model
from trine.runtime.allocator import keep_freed_memory
from trine.runtime.device import choose_hardware

ROWS = 64
LENGTHS = (8, 64)
"""Shortest and longest prompt, and answer, of the stream of unequal requests."""

keep_freed_memory()
OPTIONS = options()
HARDWARE = choose_hardware(threads=OPTIONS["threads"])
MODEL = load_model(Path(OPTIONS["folder"]), HARDWARE.compute_dtype, HARDWARE.device)
VOCABULARY = MODEL.config.vocab_size


@cache
def engine() -> Engine:
    """Made on first use: log-probabilities need none."""
    return Engine(MODEL, rows=ROWS, **OPTIONS["engine"])


def generate(prompts: int, prompt_tokens: int, new_tokens: int, seed: int) -> Reply:
    """`prompts` different prompts, `new_tokens` sampled for each."""
    batch = random_prompts(prompts, prompt_tokens, VOCABULARY, seed)
    sampling = Sampling(max_new_tokens=new_tokens, temperature=1.0, seed=seed)
    started = time.perf_counter()
    rollouts = engine().generate(batch, sampling)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens": sum(len(rollout.response_ids) for rollout in rollouts)}


def read_prompts(prompts: int, prompt_tokens: int, different: bool, seed: int) -> Reply:
    """One token after each of `prompts` prompts; the tokens counted are the prompts'."""
    batch = random_prompts(prompts if different else 1, prompt_tokens, VOCABULARY, seed)
    batch = batch if different else batch * prompts
    sampling = Sampling(max_new_tokens=1, temperature=1.0, seed=seed)
    started = time.perf_counter()
    engine().generate(batch, sampling)
    return {"seconds": time.perf_counter() - started, "tokens": prompts * prompt_tokens}


def stream(requests: int, how: str, seed: int) -> Reply:
    """Requests of the same unequal lengths every time, in arrival order.

    `how`: "continuous", all at once; "batches", `ROWS` at a time, each batch waiting for its last; "padded", the same
    with every prompt as long as its batch's longest and every row decoding as long as the longest, as a rectangle of
    ids does. Only tokens that were asked for count.
    """
    draw = random.Random(0)
    ids = random_prompts(requests, LENGTHS[1], VOCABULARY, seed)
    given = [draw.randint(*LENGTHS) for _ in range(requests)]
    wanted = [draw.randint(*LENGTHS) for _ in range(requests)]
    size = requests if how == "continuous" else ROWS
    tokens = 0
    started = time.perf_counter()
    for start in range(0, requests, size):
        lengths = wanted[start : start + size]
        decoded = [max(lengths)] * len(lengths) if how == "padded" else lengths
        samplings = [Sampling(length, 1.0, seed=seed) for length in decoded]
        read = given[start : start + size]
        read = [max(read)] * len(read) if how == "padded" else read
        prompts = [prompt[:length] for prompt, length in zip(ids[start : start + size], read, strict=True)]
        rollouts = engine().generate(prompts, samplings)
        tokens += sum(len(done.response_ids[:length]) for done, length in zip(rollouts, lengths, strict=True))
    return {"seconds": time.perf_counter() - started, "tokens": tokens}


def log_probs(rows: int, tokens: int, prompt_tokens: int, seed: int) -> Reply:
    """Log-probabilities of all but the first `prompt_tokens` of every row."""
    ids = random_prompts(rows, tokens, VOCABULARY, seed)
    started = time.perf_counter()
    engine().log_probs([row[:prompt_tokens] for row in ids], [row[prompt_tokens:] for row in ids])
    return {"seconds": time.perf_counter() - started, "tokens": rows * tokens}


def trainer_log_probs(rows: int, tokens: int, prompt_tokens: int, seed: int) -> Reply:
    """The same by the trainer's own forward pass, as PPO takes them."""
    ids = torch.tensor(random_prompts(rows, tokens, VOCABULARY, seed), device=HARDWARE.device)
    started = time.perf_counter()
    with torch.no_grad():
        hidden = MODEL(ids)[:, prompt_tokens - 1 : -1].flatten(0, 1)
        target_log_probs(hidden, MODEL.output_weight, ids[:, prompt_tokens:].flatten()).sum().item()
    return {"seconds": time.perf_counter() - started, "tokens": rows * tokens}


if __name__ == "__main__":
    hello = {"trine": trine.__version__, "torch": torch.__version__, "hardware": HARDWARE.description}
    serve(hello, generate, read_prompts, stream, log_probs, trainer_log_probs)
