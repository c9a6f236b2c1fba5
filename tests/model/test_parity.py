"""The parity table, family x check: what Trine computes is what `transformers` computes, on small random models.

Every column is a family (Llama with each way to place rotary positions), every row one check, and each holds for
several shapes: heads, grouped heads, head sizes, tied and untied tables, thetas, epsilons.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.tiny import ragged_prompts, random_ids, tiny_model
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.config import ModelConfig, RopeScaling, gpt2_config
from trine.model.families import family_of, to_hugging_face_weights
from trine.model.folder import load_model, save_model
from trine.model.transformer import Transformer

VOCABULARY, CONTEXT = 83, 128
SHAPES_PER_FAMILY = 3
ROPE: dict[str, Callable[[random.Random], RopeScaling | None]] = {
    "plain": lambda _: None,
    "linear": lambda choose: RopeScaling("linear", choose.uniform(1.5, 8.0)),
    "llama3": lambda choose: RopeScaling("llama3", choose.uniform(2.0, 32.0), 1.0, 4.0, choose.choice((16, 40, 64))),
}
COLUMNS = (
    "gpt2", "llama-plain", "llama-linear", "llama-llama3", "qwen2-plain", "qwen2-llama3", "qwen3-plain",
    "qwen3-linear",
)  # fmt: skip
table = pytest.mark.parametrize(
    ("column", "shape"), [(column, shape) for column in COLUMNS for shape in range(SHAPES_PER_FAMILY)]
)


def random_config(column: str, shape: int) -> ModelConfig:
    """A shape drawn from (column, shape) alone."""
    choose = random.Random(f"{column} {shape}")
    layers, head_dim = choose.choice((1, 2, 3)), choose.choice((4, 8, 16))
    kv_heads = choose.choice((1, 2, 3))
    heads = kv_heads * choose.choice((1, 2, 3))
    tied, epsilon = choose.random() < 0.5, 10.0 ** choose.uniform(-6, -2)
    if column == "gpt2":
        config = gpt2_config(VOCABULARY, CONTEXT, layers, heads * head_dim, heads)
        return replace(config, mlp_width=choose.choice((24, 40)), tied_embeddings=tied, norm_epsilon=epsilon)
    family, rope = column.split("-")
    return ModelConfig(
        vocab_size=VOCABULARY, context=CONTEXT, layers=layers, width=heads * choose.choice((4, 8)), heads=heads,
        kv_heads=kv_heads, head_dim=head_dim, mlp_width=choose.choice((24, 40)), norm_epsilon=epsilon,
        rope_theta=10 ** choose.uniform(2, 6), rope_scaling=ROPE[rope](choose), qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3", tied_embeddings=tied,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], tuple[Transformer, PreTrainedModel]]:
    """(column, shape) -> a random model of ours and the one transformers opens from its folder, in fp32."""

    @cache
    def make(column: str, shape: int) -> tuple[Transformer, PreTrainedModel]:
        ours = tiny_model(random_config(column, shape), seed=shape)
        assert family_of(ours.config).model_type == column.split("-", maxsplit=1)[0]
        folder = tmp_path_factory.mktemp("parity")
        save_model(ours, folder)
        theirs, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"] | report["unexpected_keys"]
        return ours, theirs.eval()

    return make


Pair = Callable[[str, int], tuple[Transformer, PreTrainedModel]]


@table
@torch.no_grad()
def test_logits_are_within_one_in_ten_thousand(column: str, shape: int, pair: Pair) -> None:
    ours, theirs = pair(column, shape)
    ids = random_ids(3, CONTEXT - 1, vocab_size=VOCABULARY, seed=shape)
    difference = (ours(ids) @ ours.output_weight.T - theirs(ids).logits).abs().max()
    assert difference < 1e-4


@table
@torch.no_grad()
def test_greedy_text_is_token_for_token_the_same(column: str, shape: int, pair: Pair) -> None:
    ours, theirs = pair(column, shape)
    prompts = ragged_prompts((3, 17, 1, 40), VOCABULARY, seed=shape)
    rollouts = Engine(ours).generate(prompts, Sampling(24, temperature=0.0))
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        ids = torch.tensor([prompt])
        text = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        assert list(rollout.response_ids) == text[0, len(prompt) :].tolist()


@table
def test_gradients_of_every_parameter_are_within_one_in_a_thousand(column: str, shape: int, pair: Pair) -> None:
    ours, theirs = pair(column, shape)
    ids = random_ids(2, 24, vocab_size=VOCABULARY, seed=shape)
    names, parameters = zip(*ours.named_parameters(), strict=True)
    gradients = torch.autograd.grad(language_model_loss(ours(ids) @ ours.output_weight.T, ids), parameters)
    theirs_names, theirs_parameters = zip(*theirs.named_parameters(), strict=True)
    stock = torch.autograd.grad(language_model_loss(theirs(ids).logits, ids), theirs_parameters)
    mapped = to_hugging_face_weights(dict(zip(names, gradients, strict=True)), ours.config)
    assert mapped.keys() == set(theirs_names)
    for name, expected in zip(theirs_names, stock, strict=True):
        assert relative_difference(mapped[name], expected) < 1e-3, name


def language_model_loss(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@table
def test_export_to_transformers_and_back_is_bit_equal(column: str, shape: int, pair: Pair, tmp_path: Path) -> None:
    ours, theirs = pair(column, shape)
    theirs.save_pretrained(tmp_path)
    again = load_model(tmp_path, torch.float32, torch.device("cpu"))
    assert again.config == ours.config
    for name, parameter in ours.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter), name
