"""Keys of strangers' config.json: what cannot change the numbers passes, what can is refused, the user may overrule."""

import json
import random
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, GenerationConfig
from transformers.activations import ACT2FN

from tests.model.published import PUBLISHED
from tests.tiny import FAMILY_NAMES, tiny_config, tiny_model
from trine.model.families import from_hugging_face_config, to_hugging_face_config
from trine.model.folder import load_model, read_config, save_model
from trine.runtime.errors import TrineError

families = pytest.mark.parametrize("family", FAMILY_NAMES)


def opened(family: str, **changes: Any) -> Any:
    return from_hugging_face_config(to_hugging_face_config(tiny_config(family)) | changes, "here")


HARMLESS = {
    "unsloth_fixed": True, "unsloth_version": "2024.9", "_num_labels": 1, "_attn_implementation": "sdpa",
    "transformers_weights": "model.safetensors", "torch_dtype": "bfloat16", "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02, "is_decoder": True, "router_aux_loss_coef": 0.001, "mm_tokenizer": None,
    "pretraining_flags": {}, "num_experts": None, "output_router_logits": False, "image_token_id": 7,
    "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "gradient_checkpointing_kwargs": {"use_reentrant": True},
    "license": "mit", "parallel_attn": False, "layer_scales": [], "alibi": False, "kv_cache_version": 2,
}  # fmt: skip


@families
@pytest.mark.parametrize("key", HARMLESS)
def test_what_cannot_change_the_numbers_passes(family: str, key: str) -> None:
    """4.2: keys of other tools, and keys that are null, false or empty, are passed over."""
    assert opened(family, **{key: HARMLESS[key]}) == tiny_config(family)


@families
def test_any_unknown_key_passes_switched_off_and_is_refused_with_a_number_or_a_word(family: str) -> None:
    """4.2: the rule, on generated names."""
    draw = random.Random(0)
    for _ in range(100):
        key = "".join(draw.choices(string.ascii_lowercase, k=9)) + "_" + draw.choice(["scale", "type", "mode", "size"])
        for value in (None, False, "", [], {}):
            assert opened(family, **{key: value}) == tiny_config(family)
        for value in (True, 0, 1, 0.5, "alibi", [1], {"a": 1}):
            with pytest.raises(
                TrineError, match=rf"unknown keys \['{key}'\].* --ignore_config_keys {key} to trine import"
            ):
                opened(family, **{key: value})


@families
def test_old_generation_settings_pass_whatever_they_say(family: str) -> None:
    """4.2: transformers once wrote every setting of generation into config.json."""
    settings = GenerationConfig(do_sample=True, temperature=0.7, num_beams=4, max_new_tokens=9).to_dict()
    assert opened(family, **settings) == tiny_config(family)
    assert opened(family, **dict.fromkeys(set(settings) - {"transformers_version"}, 1)) == tiny_config(family)


@families
def test_whatever_transformers_itself_writes_by_default_passes(family: str) -> None:
    """4.2: the config of a model made with the current transformers, whole."""
    described = AutoConfig.for_model(family).to_dict() | {"model_type": family}
    from_hugging_face_config(json.loads(json.dumps(described)), "here")


@pytest.mark.parametrize(("name", "ours"), [("gpt2", "activation_function"), ("SmolLM2-135M", "hidden_act")])
def test_an_activation_passes_where_it_is_the_same_function(name: str, ours: str) -> None:
    """4.2: by its values, for every activation that transformers knows."""
    described, (x, passed) = PUBLISHED[name][0], (torch.linspace(-12, 12, 4001, dtype=torch.float64), set())
    expected = ACT2FN[described[ours]](x)
    for other in ACT2FN:
        try:
            same = bool((ACT2FN[other](x) - expected).abs().max() < 1e-6)
        except (ImportError, AttributeError, TypeError, RuntimeError):  # one that needs kernels or more arguments
            continue
        try:
            from_hugging_face_config(described | {ours: other}, "here")
        except TrineError as error:
            assert not same, other
            assert f"{ours}='{other}' is not supported" in str(error)
        else:
            assert same, other
            passed.add(other)
    assert passed >= ({"gelu_new", "gelu_pytorch_tanh"} if name == "gpt2" else {"silu", "swish"})


@pytest.mark.parametrize(
    ("name", "changes", "passes"),
    [
        ("Llama-2-7b", {"sliding_window": 4096}, True),
        ("Llama-2-7b", {"sliding_window": 4095}, False),
        ("Llama-2-7b", {"sliding_window": 4096, "layer_types": ["sliding_attention"] * 32}, True),
        ("Llama-2-7b", {"pretraining_tp": None, "attention_bias": None, "mlp_bias": 0}, True),
        ("Llama-2-7b", {"hidden_act": None}, False),
        ("gpt2", {"scale_attn_weights": None}, False),
        ("Qwen2.5-0.5B", {"use_sliding_window": True, "sliding_window": 32768}, True),
        ("Qwen2.5-0.5B", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 24}, True),
        ("Qwen2.5-0.5B", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 23}, False),
        ("Qwen2.5-0.5B", {"use_sliding_window": "yes", "sliding_window": 32768}, False),
        ("Llama-3.2-1B", {"is_causal": False}, False),
        ("Llama-3.2-1B", {"use_rope": False}, False),
        ("Llama-3.2-1B", {"use_qk_norm": True}, False),
        ("Qwen3-0.6B", {"use_qk_norm": False}, False),
        ("Qwen3-0.6B", {"use_qk_norm": True, "use_rope": True, "is_causal": True}, True),
        ("Llama-3.2-1B", {"auto_map": {"AutoModelForCausalLM": "modeling.Other"}}, False),
    ],
)  # fmt: skip
def test_a_known_key_passes_by_its_value(name: str, changes: dict[str, Any], passes: bool) -> None:
    """4.2: a window as long as the context hides nothing; what every family does may be said, and not denied."""
    described = PUBLISHED[name][0]
    if passes:
        assert from_hugging_face_config(described | changes, "here") == from_hugging_face_config(described, "here")
    else:
        with pytest.raises(TrineError, match=next(iter(changes))):
            from_hugging_face_config(described | changes, "here")


@families
def test_a_key_that_the_user_names_is_as_if_it_were_not_there(family: str, tmp_path: Path) -> None:
    """4.2: the way round, for keys at the top and inside."""
    save_model(tiny_model(family), tmp_path)
    path = tmp_path / "config.json"
    described = json.loads(path.read_text()) | {"logit_scale": 2.0, "use_mrope": True}
    if family != "gpt2":
        described["rope_parameters"] |= {"mrope_section": [1, 2]}
    path.write_text(json.dumps(described))
    ignored = ("logit_scale", "use_mrope", "mrope_section", "not_there")
    with pytest.raises(TrineError, match=r"config\.json: unknown keys \['logit_scale'\]"):
        read_config(tmp_path)
    model = load_model(tmp_path, torch.float32, torch.device("cpu"), ignored=ignored)
    assert model.config == tiny_config(family)
