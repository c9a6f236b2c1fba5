"""Iterations of GRPO by trl's GRPOTrainer: the same prompts, groups, tokens and epochs, and a reward without cost.

Options: `autocast` (bf16) and `checkpointing` (of activations), both its defaults; `fused` (AdamW). Time is from the
beginning of the first step, which samples, to the end of the last. Needs trl, transformers and datasets.
"""

import tempfile
from typing import Any

import torch
import transformers
import trl  # type: ignore[import-not-found]
from datasets import Dataset
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from bench.clock import Clock
from bench.process_memory import peak_bytes, reset_peak
from bench.protocol import Reply, options, random_prompts, serve

END = "<end>"
OPTIONS = options()
if OPTIONS["threads"]:
    torch.set_num_threads(OPTIONS["threads"])


def tokenizer(vocabulary: int) -> Any:
    """A word for each id. The end token's is beyond the model's vocabulary: it is never sampled, and nothing padded."""
    words = {str(word): word for word in range(vocabulary)} | {END: vocabulary}
    words_only = Tokenizer(WordLevel(words, "0"))
    words_only.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words_only, pad_token=END, eos_token=END, padding_side="left")


def nothing(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A reward that costs nothing, and differs from response to response."""
    return [float(ids[0] % 7) for ids in completion_ids]


def iterate_groups(prompts: int, samples: int, prompt_tokens: int, new_tokens: int, epochs: int, seed: int) -> Reply:
    """One iteration: `epochs` steps on one set of samples; making the trainer is in no time."""
    policy = GPT2LMHeadModel.from_pretrained(OPTIONS["folder"], dtype=torch.float32)
    vocabulary = policy.config.vocab_size
    rows = random_prompts(prompts, prompt_tokens, vocabulary, seed)
    texts = [" ".join(map(str, ids)) for ids in rows]
    with tempfile.TemporaryDirectory(prefix="trine-bench-") as folder:
        config = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=prompts * samples, num_generations=samples,
            num_iterations=epochs, steps_per_generation=1, max_steps=epochs, max_completion_length=new_tokens,
            temperature=1.0, beta=0.04, learning_rate=1.41e-5, lr_scheduler_type="constant", max_grad_norm=1.0,
            optim="adamw_torch_fused" if OPTIONS["fused"] else "adamw_torch", bf16=OPTIONS["autocast"],
            gradient_checkpointing=OPTIONS["checkpointing"], use_cpu=True, report_to="none", save_strategy="no",
            disable_tqdm=True, seed=seed, shuffle_dataset=False,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=policy, args=config, reward_funcs=nothing, train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=tokenizer(vocabulary),
        )  # fmt: skip
        clock = Clock()
        trainer.add_callback(clock)
        reset_peak()
        trainer.train()
    row = next(row for row in trainer.state.log_history if "num_tokens" in row)
    return {"seconds": clock.seconds, "tokens": int(row["num_tokens"]), "peak_bytes": peak_bytes()}


if __name__ == "__main__":
    serve(
        {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}, iterate_groups
    )
