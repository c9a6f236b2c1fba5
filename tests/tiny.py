"""Small things that tests share: models of width 32, a tokenizer of 320 entries, rollouts by hand."""

from functools import cache

import torch
from torch import Tensor

from trine.model.classifier import TaskModel, TaskSettings, TaskTokens
from trine.model.config import ModelConfig, gpt2_config
from trine.model.heads import ScoreModel
from trine.model.transformer import Transformer
from trine.records import Rollout, StopReason
from trine.tokenizer.bpe import train_tokenizer
from trine.tokenizer.chat_format import ChatFormat
from trine.tokenizer.growth import with_special_tokens
from trine.tokenizer.tokenizer import Tokenizer

FAMILY_NAMES = ("gpt2", "llama", "qwen2", "qwen3")

TEXT = """def add(first, second):
    return first + second


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self, amount: int) -> int:
        self.count += amount
        return self.count


for number in range(10):
    print("the number is", number, "and the next number is", number + 1)

The cat sat on the mat, and the other cat sat on the other mat. It's 2024, and they'll say: "that's all".
"""


def tiny_config(family: str = "qwen3", vocab_size: int = 97, context: int = 64, layers: int = 2) -> ModelConfig:
    """Width 32; the rotary families have grouped queries and a head_dim that is not width / heads."""
    if family == "gpt2":
        return gpt2_config(vocab_size, context, layers, width=32, heads=2)
    return ModelConfig(
        vocab_size=vocab_size, context=context, layers=layers, width=32, heads=4, kv_heads=2, head_dim=16,
        mlp_width=48, qkv_bias=family == "qwen2", qk_norm=family == "qwen3", tied_embeddings=family == "qwen3",
        rope_theta=5000.0, norm_epsilon=1e-5,
    )  # fmt: skip


def tiny_model(
    config: ModelConfig | str = "qwen3", seed: int = 0, dtype: torch.dtype = torch.float32, **shape: int
) -> Transformer:
    """A model whose every parameter is random, norms and biases too, and whose predictions are far from uniform."""
    model = Transformer(tiny_config(config, **shape) if isinstance(config, str) else config, dtype)
    scramble(model, seed)
    return model


@torch.no_grad()
def scramble(model: torch.nn.Module, seed: int) -> None:
    """Every vector near 1 (norm weights) or 0 (biases), every matrix N(0, 0.3^2)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        centre = 0.0 if parameter.dim() > 1 or name.endswith("bias") else 1.0
        parameter.copy_(centre + noise * (0.3 if parameter.dim() > 1 else 0.1))


def tiny_score_model(family: str = "qwen3", seed: int = 0, offset: float = 0.75, **shape: int) -> ScoreModel:
    model = ScoreModel(tiny_model(family, seed, **shape))
    model.initialize_head(seed)
    model.offset = offset
    return model


def tiny_task_tokenizer() -> Tokenizer:
    """With start, delimiter and extract."""
    return with_special_tokens(tiny_tokenizer(), TaskTokens().names)


def tiny_task_model() -> TaskModel:
    """A classifier of two labels for `tiny_task_tokenizer`."""
    model = TaskModel(tiny_model(vocab_size=323), TaskSettings("classify", ("neg", "pos")))
    model.initialize_head(seed=0)
    return model


@cache
def tiny_tokenizer(vocab_size: int = 320) -> Tokenizer:
    return train_tokenizer([TEXT], vocab_size)


def tiny_chat() -> ChatFormat:
    return ChatFormat(tiny_tokenizer())


@torch.no_grad()
def make_likely(model: Transformer, token_id: int, strength: float) -> None:
    """Raise the logit of one token everywhere, through the bias of the last norm (GPT-2 shapes have one)."""
    model.norm.bias += strength * model.output_weight[token_id]


def rollout(
    prompt_ids: tuple[int, ...] | list[int],
    response_ids: tuple[int, ...] | list[int],
    stop_reason: StopReason = "eos",
    log_probs: tuple[float, ...] | None = None,
) -> Rollout:
    """A rollout by hand; log-probabilities are 0 unless given."""
    return Rollout(tuple(prompt_ids), tuple(response_ids), log_probs or (0.0,) * len(response_ids), stop_reason)


def random_tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_ids(*shape: int, vocab_size: int = 97, seed: int = 0) -> Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def ragged_prompts(lengths: tuple[int, ...], vocab_size: int = 97, seed: int = 0) -> list[list[int]]:
    return [
        random_ids(length, vocab_size=vocab_size, seed=seed + index).tolist() for index, length in enumerate(lengths)
    ]
