"""Iterations of PPO by trl 0.11.4, in an environment of its own (`make bench-peers`): `generate` and `step`, as its
notebooks have them, with a value head on the policy, a reference, and rewards that cost nothing.

`at_once`: prompts in one call of `generate`; trl's default is 4, its sentiment notebook asks one at a time.
"""

import random
import time

import torch
import trl
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer, create_reference_model

from bench.process_memory import peak_bytes, reset_peak
from bench.protocol import Reply, options, random_prompts, serve

OPTIONS = options()
if OPTIONS["threads"]:
    torch.set_num_threads(OPTIONS["threads"])
if OPTIONS.get("fast_products"):
    torch.set_float32_matmul_precision("medium")  # bf16 products where the chip has them
END = "<end>"  # trl asks for one; its id is beyond the model's vocabulary, so that it is never sampled
MADE: dict[str, PPOTrainer] = {}


def _trainer(prompts: int, epochs: int) -> PPOTrainer:
    if "one" not in MADE:
        model = AutoModelForCausalLMWithValueHead.from_pretrained(OPTIONS["folder"])
        for each in (model.pretrained_model.config, model.pretrained_model.generation_config):
            each.eos_token_id = None  # no token ends a response
        config = PPOConfig(
            batch_size=prompts, mini_batch_size=prompts, ppo_epochs=epochs, learning_rate=1.41e-5, log_with=None
        )
        vocabulary = model.pretrained_model.config.vocab_size
        words = {str(word): word for word in range(vocabulary)} | {END: vocabulary}
        words_only = Tokenizer(WordLevel(words, "0"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words_only, pad_token="0", eos_token=END)
        MADE["one"] = PPOTrainer(config, model, create_reference_model(model), tokenizer)
    return MADE["one"]


def iterate(prompts: int, prompt_tokens: int, new_tokens: int, epochs: int, seed: int) -> Reply:
    """One iteration: responses, rewards, four epochs of updates."""
    trainer = _trainer(prompts, epochs)
    vocabulary = trainer.model.pretrained_model.config.vocab_size
    queries = [torch.tensor(ids) for ids in random_prompts(prompts, prompt_tokens, vocabulary, seed)]
    settings = {
        "do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": new_tokens, "pad_token_id": 0, "min_length": -1,
    }  # fmt: skip
    rewards = [torch.tensor(float(random.Random(seed + place).randrange(7))) for place in range(prompts)]
    torch.manual_seed(seed)
    reset_peak()
    started = time.perf_counter()
    if OPTIONS["at_once"] == 1:
        responses = [trainer.generate(query, return_prompt=False, **settings)[0] for query in queries]
    else:
        responses = trainer.generate(queries, batch_size=OPTIONS["at_once"], return_prompt=False, **settings)
    generated = time.perf_counter()
    trainer.step(queries, responses, rewards)
    ended = time.perf_counter()
    tokens = sum(len(query) + len(response) for query, response in zip(queries, responses, strict=True))
    return {
        "seconds": ended - started, "tokens": tokens, "generation_seconds": generated - started,
        "peak_bytes": peak_bytes(),
    }  # fmt: skip


if __name__ == "__main__":
    serve({"trl": trl.__version__, "torch": torch.__version__, "threads": torch.get_num_threads()}, iterate)
