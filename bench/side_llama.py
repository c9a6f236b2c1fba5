"""llama.cpp through llama-cpp-python's low-level calls: all prompts in one batch, then one token per sequence a step.

The first request of a batch size tries every setting and keeps the fastest; Python's part of a step is a few array
assignments. Needs llama_cpp and numpy only.
"""

import ctypes
import time
from functools import cache
from itertools import product
from typing import Any

import llama_cpp as llama  # type: ignore[import-not-found]
import numpy as np

from bench.protocol import Reply, available_cores, options, random_prompts, serve

OPTIONS = options()
THREADS = OPTIONS["threads"] or available_cores()
SLOTS_PER_SEQUENCE = 256  # llama.cpp rounds the cache of a sequence up to this
FLASH_ATTENTION = (0, 1)
# How a token is sampled at temperature 1: llama.cpp's sampler after the step, the same as part of the step's graph,
# or an inverse CDF in numpy over the step's logits. Greedy is an argmax in numpy.
SAMPLERS = {"sample": ("library", "graph", "numpy"), "greedy": ("argmax",)}

QUIET = llama.llama_log_callback(lambda level, text, data: None)
llama.llama_log_set(QUIET, ctypes.c_void_p(0))
llama.llama_backend_init()
PATH = f"{OPTIONS['folder']}/{OPTIONS['gguf']}.gguf"
MODEL = llama.llama_model_load_from_file(PATH.encode(), llama.llama_model_default_params())
VOCABULARY = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(MODEL)) if MODEL else 0


class Decoder:
    """One context for `sequences` sequences under one setting."""

    def __init__(self, sequences: int, prompt_tokens: int, flash_attention: int, sampler: str) -> None:
        self.sequences, self.sampler = sequences, sampler
        self.chains = [_chain(seed) for seed in range(sequences)] if sampler in ("library", "graph") else []
        self.context = llama.llama_init_from_model(MODEL, self._parameters(prompt_tokens, flash_attention))
        self.batch = llama.llama_batch_init(sequences * prompt_tokens, 0, 1)
        self.generator = np.random.default_rng(0)
        self.ids, self.positions, self.wanted = (
            np.ctypeslib.as_array(getattr(self.batch, name), (sequences * prompt_tokens,))
            for name in ("token", "pos", "logits")
        )

    def _parameters(self, prompt_tokens: int, flash_attention: int) -> Any:
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = self.sequences * SLOTS_PER_SEQUENCE
        parameters.n_batch = parameters.n_ubatch = max(512, self.sequences * prompt_tokens)
        parameters.n_seq_max = parameters.n_outputs_max = self.sequences
        parameters.n_outputs_max_per_seq = 1
        parameters.n_threads = parameters.n_threads_batch = THREADS
        parameters.flash_attn_type = flash_attention
        parameters.kv_unified = False
        if self.sampler == "graph":
            pointers = [ctypes.cast(chain, ctypes.c_void_p) for chain in self.chains]
            configs = [llama.llama_sampler_seq_config(row, pointer) for row, pointer in enumerate(pointers)]
            self.configs = (llama.llama_sampler_seq_config * self.sequences)(*configs)
            parameters.samplers, parameters.n_samplers = self.configs, self.sequences
        return parameters

    def close(self) -> None:
        llama.llama_batch_free(self.batch)
        llama.llama_free(self.context)
        for chain in self.chains:
            llama.llama_sampler_free(chain)

    def run(self, prompts: list[list[int]], new_tokens: int) -> Reply:
        llama.llama_memory_clear(llama.llama_get_memory(self.context), False)
        rows, width = len(prompts), len(prompts[0])
        started = time.perf_counter()
        self.ids[:] = np.concatenate(prompts)
        self.positions[:] = np.tile(np.arange(width), rows)
        self.wanted[:] = np.arange(rows * width) % width == width - 1
        new_ids = self._step(np.repeat(np.arange(rows), width).tolist(), width)
        self.wanted[:] = 1
        for position in range(width, width + new_tokens - 1):
            self.ids[:rows] = new_ids
            self.positions[:rows] = position
            new_ids = self._step(range(rows) if position == width else None, 1)
        return {"seconds": time.perf_counter() - started, "tokens": rows * new_tokens}

    def _step(self, sequences: Any, width: int) -> Any:
        """Run the batch and sample one token per sequence; `sequences`: those of the tokens, if they change."""
        if sequences is not None:
            self.batch.n_tokens = len(sequences)
            for place, sequence in enumerate(sequences):
                self.batch.n_seq_id[place] = 1
                self.batch.seq_id[place][0] = sequence
        if llama.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")
        if self.chains:
            sample, context = llama.llama_sampler_sample, self.context
            return [sample(chain, context, row * width + width - 1) for row, chain in enumerate(self.chains)]
        logits = np.ctypeslib.as_array(llama.llama_get_logits(self.context), (self.sequences, VOCABULARY))
        return logits.argmax(1) if self.sampler == "argmax" else self._inverse_cdf(logits)

    def _inverse_cdf(self, logits: Any) -> list[int]:
        cumulative = np.exp(np.subtract(logits, logits.max(1, keepdims=True), out=logits), out=logits).cumsum(1)
        points = self.generator.random(self.sequences, dtype=np.float32) * cumulative[:, -1]
        pairs = zip(cumulative, points, strict=True)
        return [min(int(row.searchsorted(point, "right")), VOCABULARY - 1) for row, point in pairs]


def _chain(seed: int) -> Any:
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_dist(seed))
    return chain


@cache
def fastest(sequences: int, prompt_tokens: int, new_tokens: int, how: str) -> tuple[Decoder, str]:
    """The decoder of the fastest setting, by the better of two runs of each, and its description."""
    prompts = random_prompts(sequences, prompt_tokens, VOCABULARY, 0)
    tried: dict[tuple[int, str], float] = {}
    for setting in product(FLASH_ATTENTION, SAMPLERS[how]):
        decoder = Decoder(sequences, prompt_tokens, *setting)
        tried[setting] = min(decoder.run(prompts, new_tokens)["seconds"] for _ in range(2))
        decoder.close()
    flash_attention, sampler = min(tried, key=lambda setting: tried[setting])
    words = f"{sampler} sampling, flash attention {'on' if flash_attention else 'off'}"
    return Decoder(sequences, prompt_tokens, flash_attention, sampler), words


def generate(prompts: int, prompt_tokens: int, new_tokens: int, how: str, seed: int) -> Reply:
    decoder, setting = fastest(prompts, prompt_tokens, new_tokens, how)
    return decoder.run(random_prompts(prompts, prompt_tokens, VOCABULARY, seed), new_tokens) | {"setting": setting}


if __name__ == "__main__":
    if not MODEL:
        raise SystemExit("llama.cpp cannot read the model")
    serve({"llama_cpp": llama.__version__, "threads": THREADS}, generate)
