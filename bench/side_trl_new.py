"""Iterations of PPO by trl 0.24, the last version that has it, in an environment of its own (`make bench-peers`).

It insists on a reward model and a value model: the reward model is of one layer of width 16, so that it costs nothing;
the value model is of the policy's shape, as its documentation has it.
"""

import os
import tempfile
import time

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
)

from bench.process_memory import peak_bytes, reset_peak
from bench.protocol import Reply, options, random_prompts, serve

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
import trl
from trl import PPOConfig, PPOTrainer

END = "<end>"
OPTIONS = options()
if OPTIONS["threads"]:
    torch.set_num_threads(OPTIONS["threads"])


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """trl asks for an end token; its id is beyond the model's vocabulary, so that it is never sampled."""
    words = {str(word): word for word in range(vocabulary)} | {END: vocabulary}
    words_only = Tokenizer(WordLevel(words, "0"))
    return PreTrainedTokenizerFast(tokenizer_object=words_only, pad_token="0", eos_token=END)


def iterate(prompts: int, prompt_tokens: int, new_tokens: int, epochs: int, seed: int) -> Reply:
    """One iteration: `train` of as many episodes as there are prompts; making the trainer is in no time."""
    policy, reference = (AutoModelForCausalLM.from_pretrained(OPTIONS["folder"]) for _ in range(2))
    vocabulary = policy.config.vocab_size
    small = GPT2Config(vocab_size=vocabulary, n_positions=256, n_embd=16, n_layer=1, n_head=1, num_labels=1)
    value = AutoModelForSequenceClassification.from_pretrained(OPTIONS["folder"], num_labels=1)
    rows = random_prompts(prompts, prompt_tokens, vocabulary, seed)
    with tempfile.TemporaryDirectory(prefix="trine-bench-") as folder:
        config = PPOConfig(
            output_dir=folder, per_device_train_batch_size=prompts, num_mini_batches=1, num_ppo_epochs=epochs,
            total_episodes=prompts, response_length=new_tokens, local_rollout_forward_batch_size=prompts,
            temperature=1.0, num_sample_generations=0, report_to="none", save_strategy="no", seed=seed, use_cpu=True,
            bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        )  # fmt: skip
        trainer = PPOTrainer(
            config, _tokenizer(vocabulary), policy, reference, GPT2ForSequenceClassification(small),
            Dataset.from_dict({"input_ids": rows}), value,
        )  # fmt: skip
        reset_peak()
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens": prompts * (prompt_tokens + new_tokens), "peak_bytes": peak_bytes()}


if __name__ == "__main__":
    serve({"trl": trl.__version__, "torch": torch.__version__, "threads": torch.get_num_threads()}, iterate)
