"""The same by transformers: its Trainer, and its pipeline. Options: `autocast` (bf16; else fp32), `grouped` (batches of
like length; else the Trainer's random ones, padded to their longest)."""

import tempfile
import time
from typing import Any

import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)

from bench.encoder_texts import BATCH, LEARNING_RATE, MAX_TOKENS, labels_of, review_texts, tokens_of
from bench.protocol import Reply, options, serve

OPTIONS = options()
TOKENIZER = AutoTokenizer.from_pretrained(OPTIONS["folder"])
MODELS: dict[str, Any] = {}


def _model() -> Any:
    return AutoModelForSequenceClassification.from_pretrained(OPTIONS["folder"], dtype=torch.float32)


def score(texts: int, batch: int, seed: int) -> Reply:
    """The pipeline over the texts; grouped: sorted by length before."""
    if "score" not in MODELS:
        dtype = torch.bfloat16 if OPTIONS["autocast"] else torch.float32
        MODELS["score"] = pipeline("text-classification", model=_model().to(dtype), tokenizer=TOKENIZER, device="cpu")
    given = review_texts(texts, seed)
    started = time.perf_counter()
    ordered = sorted(given, key=len) if OPTIONS["grouped"] else given
    MODELS["score"](ordered, batch_size=batch, truncation=True, max_length=MAX_TOKENS, function_to_apply="none")
    return {"seconds": time.perf_counter() - started, "tokens": tokens_of(given)}


def train(texts: int, seed: int) -> Reply:
    """One epoch of the Trainer, tokenizing included."""
    model = MODELS.setdefault("train", _model())
    given = review_texts(texts, seed)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        rows = [
            {"input_ids": ids, "label": label}
            for ids, label in zip(
                TOKENIZER(given, truncation=True, max_length=MAX_TOKENS)["input_ids"], labels_of(texts), strict=True
            )
        ]
        settings = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=LEARNING_RATE, use_cpu=True,
            bf16=OPTIONS["autocast"], train_sampling_strategy="group_by_length" if OPTIONS["grouped"] else "random",
            save_strategy="no", report_to=[], disable_tqdm=True, seed=seed,
        )  # fmt: skip
        Trainer(model, settings, train_dataset=rows, data_collator=DataCollatorWithPadding(TOKENIZER)).train()  # type: ignore[arg-type]
        return {"seconds": time.perf_counter() - started, "tokens": tokens_of(given)}


if __name__ == "__main__":
    if OPTIONS["threads"]:
        torch.set_num_threads(OPTIONS["threads"])
    hello = {"transformers": transformers.__version__, "torch": torch.__version__}
    serve(hello | {"threads": torch.get_num_threads()}, score, train)
