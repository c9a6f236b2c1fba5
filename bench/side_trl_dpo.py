"""DPO by trl's DPOTrainer: the same pairs, weights and steps, its reference's log-probabilities computed before.

Options: `autocast` (bf16), `fused` (AdamW), `checkpointing` (of activations, which is its default), `grouped` (pairs of
like length in a batch, which is not). Time is from the beginning of the first step to the end of the last: what a
trainer does around them is in nobody's seconds. Needs trl, transformers and datasets.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
import trl  # type: ignore[import-not-found]
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from bench.clock import Clock
from bench.pairs import random_pairs, tokens_of
from bench.protocol import Reply, options, serve

OPTIONS = options()
if OPTIONS["threads"]:
    torch.set_num_threads(OPTIONS["threads"])
FOLDER = Path(OPTIONS["folder"])
VOCABULARY = int(json.loads((FOLDER / "config.json").read_text())["vocab_size"])
FIRST: list[float] = []
TRAINERS: dict[tuple[int, int, int], Any] = {}


def tokenizer() -> Any:
    """One word for each id; the pairs are ids already."""
    words = {"<pad>": 0, "<eos>": 1, **{f"w{number}": number for number in range(2, VOCABULARY)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, "<pad>")), pad_token="<pad>", eos_token="<eos>"
    )


def trainer_of(pairs: int, batch: int, micro_batch: int) -> Any:
    key = pairs, batch, micro_batch
    if key in TRAINERS:
        return TRAINERS[key]
    settings = DPOConfig(
        output_dir=str(FOLDER / "trl"), per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=batch // micro_batch, num_train_epochs=1, learning_rate=1e-4, weight_decay=0.1,
        lr_scheduler_type="constant", max_grad_norm=1.0,
        optim="adamw_torch_fused" if OPTIONS["fused"] else "adamw_torch",
        bf16=OPTIONS["autocast"], gradient_checkpointing=OPTIONS["checkpointing"], precompute_ref_log_probs=True,
        use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1, max_length=None,
    )  # fmt: skip
    model = GPT2LMHeadModel.from_pretrained(FOLDER, dtype=torch.float32)
    found = random_pairs(pairs, VOCABULARY)
    if OPTIONS["grouped"]:
        found.sort(key=lambda pair: max(len(pair["chosen"]), len(pair["rejected"])))
        settings.train_sampling_strategy = "sequential"
    text = Dataset.from_list([{"prompt": "w2", "chosen": " w3", "rejected": " w4"}])
    trainer = DPOTrainer(model=model, args=settings, train_dataset=text, processing_class=tokenizer())
    ids = Dataset.from_list([{f"{name}_ids": each for name, each in pair.items()} for pair in found])
    trainer.train_dataset = trainer._precompute_ref_logps(ids, "train", micro_batch)
    TRAINERS[key] = trainer
    return trainer


def dpo(pairs: int, batch: int, micro_batch: int, seed: int) -> Reply:
    """One epoch over the pairs."""
    trainer, clock = trainer_of(pairs, batch, micro_batch), Clock()
    trainer.add_callback(clock)
    trainer.state.log_history.clear()
    trainer.train()
    trainer.remove_callback(clock)
    losses = [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]
    FIRST[:] = FIRST or losses[:1]
    tokens = tokens_of(random_pairs(pairs, VOCABULARY))
    return {"seconds": clock.seconds, "tokens": tokens, "first_loss": FIRST[0]}


if __name__ == "__main__":
    serve({"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}, dpo)
