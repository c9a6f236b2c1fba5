"""An encoder as Trine trains and scores it (`trine reward --kind encoder`, `trine score`)."""

import time
from pathlib import Path
from typing import Any

import torch

import trine
from bench.encoder_texts import BATCH, LEARNING_RATE, MAX_TOKENS, labels_of, review_texts, tokens_of
from bench.protocol import Reply, options, serve
from trine.algorithms.text_judgements import label_losses
from trine.catalog.encoders import load_encoder, open_encoder
from trine.records import Answer, Judgement
from trine.rewards.encoder import EncoderSettings, use_own_products
from trine.runtime.allocator import keep_freed_memory
from trine.runtime.device import choose_hardware
from trine.stages.preferences.encoder_rows import EncoderRenderer, EncoderScores, encoder_batch
from trine.stages.preferences.reward_items import Standard

OPTIONS = options()
keep_freed_memory()
HARDWARE = choose_hardware("cpu", threads=OPTIONS["threads"])
FOLDER = Path(OPTIONS["folder"])
SETTINGS = EncoderSettings(MAX_TOKENS, "log_odds", 1)
MODELS: dict[str, Any] = {}


def score(texts: int, seed: int) -> Reply:
    """Scores as `trine score` gives them, tokenizing included."""
    if "score" not in MODELS:
        MODELS["score"] = open_encoder(FOLDER, HARDWARE)
    given = review_texts(texts, seed)
    started = time.perf_counter()
    MODELS["score"].score([Answer((), text, query="") for text in given])
    return {"seconds": time.perf_counter() - started, "tokens": tokens_of(given)}


def train(texts: int, seed: int) -> Reply:
    """One pass over the texts, those of like length in a batch; tokenizing included."""
    if "train" not in MODELS:
        model, tokenizer = load_encoder(FOLDER)
        use_own_products(model, HARDWARE.compute_dtype, 2)
        scores = EncoderScores(model, SETTINGS, HARDWARE.compute_dtype).train()
        MODELS["train"] = scores, tokenizer, torch.optim.AdamW(scores.parameters(), lr=LEARNING_RATE, fused=True)
    scores, tokenizer, optimizer = MODELS["train"]
    given = review_texts(texts, seed)
    started = time.perf_counter()
    judgements = [
        Judgement((), (Answer((), text, query=""),), label=bool(label))
        for text, label in zip(given, labels_of(texts), strict=True)
    ]
    items = sorted(
        EncoderRenderer(tokenizer, SETTINGS, Standard(), "cut").items(judgements), key=lambda item: item.tokens
    )
    for start in range(0, texts, BATCH):
        batch = items[start : start + BATCH]
        rows = encoder_batch(batch, tokenizer.pad_token_id, HARDWARE.device)
        losses = label_losses(scores(rows), torch.tensor([item.target for item in batch]))
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(scores.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return {"seconds": time.perf_counter() - started, "tokens": tokens_of(given)}


if __name__ == "__main__":
    serve({"trine": trine.__version__, "hardware": HARDWARE.description}, score, train)
