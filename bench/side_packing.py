"""Unequal examples through our own training step: packed into rows, or padded, one per row.

The model is *mini* with a context of 1024. Every step holds at most `POSITIONS` positions, padding included; every way
trains on all examples of the sample once, and what counts is their targets (each token but an example's first).
"""

import random
import time
from functools import cache

import trine
from bench.batching import packed_rows, packed_steps, padded_rows, padded_steps
from bench.our_step import optimizers_of, training_step
from bench.protocol import Reply, options, serve
from bench.texts import standard_library
from trine.data.functions import mine_functions
from trine.model.config import gpt2_config
from trine.model.transformer import Transformer, initialize
from trine.records import TokenSpan
from trine.runtime.allocator import keep_freed_memory
from trine.runtime.device import choose_hardware
from trine.stages.language_modelling import LanguageModelLoss
from trine.tokenizer.bpe import train_tokenizer

ROW_TOKENS, POSITIONS, VOCABULARY = 1024, 4096, 8192
SAMPLE_TOKENS = 24_000
CONVERSATION_MEDIAN, CONVERSATION_DEVIATION = 135.0, 0.38
"""Of a log-normal: GPTeacher's code instructions with their answers, in tokens of a vocabulary like this one."""

keep_freed_memory()
OPTIONS = options()
HARDWARE = choose_hardware(threads=OPTIONS["threads"])
MODEL = Transformer(gpt2_config(VOCABULARY, ROW_TOKENS, layers=6, width=384, heads=6), HARDWARE.compute_dtype)
initialize(MODEL, seed=0)
LOSS, OPTIMIZERS = LanguageModelLoss(MODEL), optimizers_of(MODEL)


def functions() -> list[list[int]]:
    """Documented functions of the standard library, as prompt and body, cut at a row's length."""
    documents = list(standard_library())
    tokenizer = train_tokenizer((document.text for document in documents), VOCABULARY)
    texts = [f"{example.prompt[0].content}\n{example.response}" for example in mine_functions(documents)]
    return [[*ids, tokenizer.end_of_text][:ROW_TOKENS] for ids in tokenizer.encode_batch(texts)]


def conversations() -> list[list[int]]:
    """Random ids of the lengths of conversations."""
    draw = random.Random(0)
    lengths = [round(CONVERSATION_MEDIAN * draw.lognormvariate(0, CONVERSATION_DEVIATION)) for _ in range(1000)]
    return [[draw.randrange(VOCABULARY) for _ in range(min(max(length, 2), ROW_TOKENS))] for length in lengths]


@cache
def sample(texts: str) -> list[TokenSpan]:
    """About `SAMPLE_TOKENS` tokens of examples, the same ones every time."""
    examples = {"functions": functions, "conversations": conversations}[texts]()
    random.Random(0).shuffle(examples)
    spans: list[TokenSpan] = []
    size = 0
    while size < SAMPLE_TOKENS:
        ids = examples[len(spans)]
        spans.append(TokenSpan(tuple(ids), (True,) * len(ids)))
        size += len(ids)
    return spans


def train(texts: str, how: str, seed: int) -> Reply:
    """All of the sample once, `how`: packed, padded or grouped. Laying the rows out is part of the time."""
    spans = sample(texts)
    lengths = [len(span.ids) for span in spans]
    started = time.perf_counter()
    if how == "packed":
        steps = [packed_rows(spans, rows, ROW_TOKENS) for rows in packed_steps(lengths, ROW_TOKENS, POSITIONS)]
    else:
        steps = [padded_rows(spans, rows) for rows in padded_steps(lengths, POSITIONS, grouped=how == "grouped")]
    for batch in steps:
        training_step(LOSS, OPTIMIZERS, [batch])
    seconds = time.perf_counter() - started
    positions = sum(batch.ids.numel() for batch in steps)
    setting = f"{len(steps)} steps, {1 - sum(lengths) / positions:.1%} padding"
    return {"seconds": seconds, "tokens": int(sum(batch.count for batch in steps)), "setting": setting}


if __name__ == "__main__":
    serve({"trine": trine.__version__, "hardware": HARDWARE.description}, train)
