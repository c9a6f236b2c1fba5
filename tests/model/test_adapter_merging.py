"""Adapters of PEFT merged into a model compute what PEFT computes, whatever adapter_config.json asks for."""

import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.tiny import FAMILY_NAMES, random_ids, tiny_model
from trine.model.adapter_merging import merge_adapter
from trine.model.folder import load_model, save_model
from trine.model.transformer import Transformer

families = pytest.mark.parametrize("family", FAMILY_NAMES)
IDS = random_ids(2, 11)


def logits_of(model: Transformer, ids: Tensor = IDS) -> Tensor:
    return model(ids) @ model.output_weight.T


@torch.no_grad()
def learn(wrapped: Any, seed: int = 4) -> None:
    """Every parameter that PEFT trains gets values of its own."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def adapted_by_peft(family: str, folder: Path, auto: Any = AutoModelForCausalLM, vocab: int = 0, **changes: Any) -> Any:
    """PEFT's model on the tiny base in `folder`/base, trained; its adapter is written into `folder`."""
    base = folder / "base"
    base.mkdir(parents=True)
    save_model(tiny_model(family), base, pad_token_id=1)
    theirs = auto.from_pretrained(base, **({"num_labels": 1} if auto is not AutoModelForCausalLM else {}))
    if vocab:
        theirs.resize_token_embeddings(vocab)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(theirs, peft.LoraConfig(**{"r": 3, "lora_alpha": 6} | changes)).eval()
        learn(wrapped)
        wrapped.save_pretrained(folder)
    return wrapped


GATED = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES: dict[str, dict[str, Any]] = {
    "rank and alpha by pattern": {
        "target_modules": "all-linear", "rank_pattern": {"c_attn": 5, "q_proj": 5, r".*\.0\..*(up_proj|c_fc)": 2},
        "alpha_pattern": {"c_proj": 3, "v_proj": 9, r"layers\.1\.self_attn\.k_proj": 1},
    },
    "patterns, rank-stabilized": {
        "target_modules": "all-linear", "use_rslora": True, "rank_pattern": {"mlp.c_proj": 7, "down_proj": 7},
    },
    "an expression": {"target_modules": r".*\.1\..*(q_proj|v_proj|c_attn|mlp\.c_proj)"},
    "layers": {"target_modules": ["q_proj", "up_proj", "c_attn", "c_fc"], "layers_to_transform": [1]},
    "one layer, by its list": {
        "target_modules": ["o_proj", "c_proj"], "layers_to_transform": 0, "layers_pattern": ["layers", "h"],
    },
    "excluded": {"target_modules": "all-linear", "exclude_modules": ["k_proj", "mlp.c_proj", "c_fc"]},
    "excluded by expression": {"target_modules": "all-linear", "exclude_modules": r".*\.0\..*"},
    "biases of all": {"target_modules": ["q_proj", "c_attn"], "bias": "all"},
    "biases of the adapted": {"target_modules": ["q_proj", "c_attn", "c_fc"], "bias": "lora_only"},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "dora, rank-stabilized": {"target_modules": ["v_proj", "c_attn"], "use_dora": True, "use_rslora": True},
    "embeddings": {"target_modules": ["q_proj", "c_attn", "embed_tokens", "wte"]},
    "positions": {"target_modules": ["embed_tokens", "wpe"]},
    "the head": {"target_modules": ["q_proj", "c_attn", "lm_head"]},
    "the head saved": {"target_modules": ["q_proj", "c_attn"], "modules_to_save": ["lm_head"]},
    "embeddings saved": {"target_modules": ["q_proj", "c_attn"], "modules_to_save": ["embed_tokens", "wte"]},
    "both ends saved": {"target_modules": ["q_proj", "c_attn"], "modules_to_save": ["embed_tokens", "wte", "lm_head"]},
    "norms saved": {
        "target_modules": ["q_proj", "c_attn"], "modules_to_save": ["input_layernorm", "norm", "ln_1", "ln_f"],
    },
    "tokens": {"target_modules": ["q_proj", "c_attn"], "trainable_token_indices": [3, 50, 96]},
}  # fmt: skip


@pytest.mark.parametrize("family", ["gpt2", "llama"])  # tied and stored transposed; untied with grouped queries
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_an_adapter_computes_what_peft_computes(family: str, case: str, tmp_path: Path) -> None:
    """4.3: rank_pattern, alpha_pattern, layers_to_transform, expressions, DoRA, biases, saved modules, embeddings."""
    if case == "positions" and family != "gpt2":
        pytest.skip("learned positions are GPT-2's")
    family = "qwen2" if "bias" in CASES[case] and family == "llama" else family  # Llama has none
    theirs = adapted_by_peft(family, tmp_path, **CASES[case])
    model = merge_adapter(tiny_model(family), tmp_path).model
    assert (theirs(IDS).logits - logits_of(model)).abs().max() < 2e-4
    assert (logits_of(model) - logits_of(tiny_model(family))).abs().max() > 0.01
    save_model(model, tmp_path / "base")  # and it goes out as any other model
    again = load_model(tmp_path / "base", torch.float32, torch.device("cpu"))
    assert torch.equal(logits_of(again), logits_of(model))
