"""GGUF both ways: what we write, we and `transformers` open with the same numbers (llama.cpp: test_llama_cpp.py)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny import FAMILY_NAMES, random_ids, scramble, tiny_model, tiny_tokenizer
from trine.model.config import ModelConfig, RopeScaling, gpt2_config
from trine.model.gguf.container import read_container
from trine.model.gguf.reading import read_gguf
from trine.model.gguf.weights import TYPES, halves_to_pairs, pairs_to_halves
from trine.model.gguf.writing import write_gguf
from trine.model.lora import LoraSettings, add_lora, plain_weights
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError
from trine.tokenizer.tokenizer import Tokenizer

families = pytest.mark.parametrize("family", FAMILY_NAMES)
dtypes = pytest.mark.parametrize("dtype", TYPES)
VOCABULARY = 320
ODD_TEXT = "def f(x):\n\treturn  x+1\n\n\n it's 1234  5 naïve café 日本語 🎉 \u00a0<|im_end|> DON'T"
# Largest differences of a weight N(0, 0.3^2): half a step of the dtype at 1.5 (Q8_0: of a block's largest / 127).
WEIGHT_ERROR = {"float32": 0.0, "float16": 0.0006, "bfloat16": 0.005, "q8_0": 0.007}
LOGIT_ERROR = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.2, "q8_0": 0.3}


def shape(family: str) -> ModelConfig:
    """Sizes that llama.cpp and the GGUF reader of `transformers` accept.

    The latter takes 1024 positions for GPT-2 and a head_dim of 128 for Qwen3 whatever the file says.
    """
    if family == "gpt2":
        return gpt2_config(VOCABULARY, context=1024, layers=2, width=64, heads=2)
    return ModelConfig(
        vocab_size=VOCABULARY, context=128, layers=2, width=64, heads=4, kv_heads=2,
        head_dim=128 if family == "qwen3" else 16, mlp_width=96, qkv_bias=family == "qwen2", qk_norm=family == "qwen3",
        tied_embeddings=family == "qwen3", rope_theta=5000.0, norm_epsilon=1e-5,
    )  # fmt: skip


def logits_of(model: Transformer, ids: Tensor) -> Tensor:
    return model(ids) @ model.output_weight.T


def reopened(path: Path) -> Transformer:
    return read_gguf(path).model(torch.float32, torch.device("cpu"))


def written(path: Path, config: ModelConfig, dtype: Any = "float32", tokenizer: Tokenizer | None = None) -> Transformer:
    model = tiny_model(config)
    write_gguf(model, tokenizer or tiny_tokenizer(), path, dtype, name="tiny")
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


# The numbers


@families
def test_a_float32_file_comes_back_bit_for_bit(family: str, path: Path) -> None:
    model = written(path, shape(family))
    again = reopened(path)
    assert again.config == model.config
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name))


@families
@dtypes
@torch.no_grad()
def test_transformers_and_we_read_the_same_numbers_near_those_written(family: str, dtype: Any, path: Path) -> None:
    model, ids = written(path, shape(family), dtype), random_ids(2, 17, vocab_size=VOCABULARY)
    ours = reopened(path)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    for name, parameter in ours.named_parameters():
        assert (parameter - model.get_parameter(name)).abs().max() <= WEIGHT_ERROR[dtype]
    logits, expected = logits_of(ours, ids), logits_of(model, ids)
    assert (theirs(ids).logits - logits).abs().max() < 1e-3
    assert (logits - expected).abs().mean() < LOGIT_ERROR[dtype]


@dtypes
def test_matrices_are_stored_as_asked_and_vectors_in_fp32(dtype: Any, path: Path) -> None:
    written(path, shape("gpt2"), dtype)
    for name, info in read_container(path).tensors.items():
        small = len(info.shape) == 1 or name == "position_embd.weight"
        assert info.type.name == ("F32" if small else TYPES[dtype].name)


def test_rows_that_q8_0_cannot_block_are_stored_in_fp16(path: Path) -> None:
    written(path, replace(shape("llama"), mlp_width=40), "q8_0")
    tensors = read_container(path).tensors
    assert tensors["blk.0.ffn_down.weight"].type.name == "F16"
    assert tensors["blk.0.ffn_up.weight"].type.name == "Q8_0"


def test_a_weight_beyond_fp16_is_refused_and_leaves_nothing_behind(path: Path) -> None:
    model = tiny_model(shape("qwen3"))
    model.embedding.weight.data[3, 4] = 1e6
    with pytest.raises(TrineError, match=r"tensor token_embd\.weight holds values beyond float16"):
        write_gguf(model, tiny_tokenizer(), path, "float16", "tiny")
    assert list(path.parent.iterdir()) == []


def test_the_two_orders_of_a_heads_rows_are_each_others_inverse() -> None:
    rows = torch.arange(12.0)
    assert halves_to_pairs(rows, 2).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert torch.equal(pairs_to_halves(halves_to_pairs(rows, 2), 2), rows)


# Rotary positions


@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling("linear", 4.0),
        RopeScaling("llama3", 8.0, 1.0, 4.0, 8192),
        RopeScaling("llama3", 32.0, 1.0, 4.0, 8192),
        RopeScaling("llama3", 4.0, 1.0, 8.0, 2048),
    ],
)
def test_scaled_rotary_positions_come_back(scaling: RopeScaling, path: Path) -> None:
    config = replace(shape("llama"), head_dim=64, rope_theta=500000.0, rope_scaling=scaling)
    written(path, config)
    assert reopened(path).config == config


def test_factors_that_are_not_of_llama3s_form_are_refused_by_name(path: Path) -> None:
    written(path, replace(shape("llama"), rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 64)))
    corrupt(path, "rope_freqs.weight")
    with pytest.raises(TrineError, match=r"tensor rope_freqs\.weight holds factors that are not of Llama 3's form"):
        read_gguf(path)


def test_llama3s_scaling_has_no_place_in_other_architectures(path: Path) -> None:
    with pytest.raises(TrineError, match="GGUF cannot represent qwen3's rope scaling 'llama3'"):
        written(path, replace(shape("qwen3"), rope_scaling=RopeScaling("llama3", 8.0)))


def corrupt(path: Path, tensor: str) -> None:
    info = read_container(path).tensors[tensor]
    data = bytearray(path.read_bytes())
    data[info.offset : info.offset + 4] = torch.tensor([3.0]).numpy().tobytes()
    path.write_bytes(data)


# What is not understood


def edited(path: Path, changes: dict[str, Any], without: tuple[str, ...] = ()) -> None:
    """Write the file again with other metadata; a value of None takes a key away."""
    reader = GGUFReader(path)
    values = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    values = {key: value for key, value in (values | changes).items() if value is not None}
    writer = GGUFWriter(path.with_name("edited"), values.pop("general.architecture"))
    for key, value in values.items():
        kind = next(kind for kind in (bool, int, float, str, list) if isinstance(value, kind))
        add = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string", list: "add_array"}[kind]
        getattr(writer, add)(key, value)
    for tensor in reader.tensors:
        if tensor.name not in without:
            writer.add_tensor(tensor.name, tensor.data.copy(), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_name("edited").replace(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"general.architecture": "gemma3"}, "general.architecture is 'gemma3'; Trine opens gpt2, llama, qwen2, qwen3"),
        ({"general.type": "adapter"}, "general.type is 'adapter'"),
        ({"split.count": 3}, "split.count is 3, but the file's name does not end in -00001-of-00003.gguf"),
        ({"llama.attention.scale": 0.5}, "llama.attention.scale is unknown and could change the results"),
        ({"llama.expert_count": 8}, "llama.expert_count is 8, which Trine does not support, only 0"),
        ({"llama.block_count": None}, "llama.block_count is missing"),
        ({"llama.block_count": 4_000_000_000}, "llama.block_count is 4000000000, more than the file has tensors"),
        ({"llama.embedding_length": "wide"}, "llama.embedding_length is 'wide', not a positive whole number"),
        ({"llama.vocab_size": 321}, "llama.vocab_size is 321, but the rest of the file says 320"),
        ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count is 8, but the rest of the file says 16"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model is 'bert'; Trine reads gpt2"),
        ({"tokenizer.ggml.pre": "gpt-9"}, "tokenizer.ggml.pre is 'gpt-9'; the supported pre-tokenisers are gpt-2, "),
        ({"tokenizer.ggml.eos_token_id": 320}, "tokenizer.ggml.eos_token_id is 320; the vocabulary has 320 entries"),
        ({"tokenizer.ggml.magic": 1}, r"keys \['tokenizer.ggml.magic'\] are unknown"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "tokens has 2 entries, but token_embd.weight has 320 rows"),
        ({"tokenizer.ggml.tokens": ["a"] * 320}, "tokenizer.ggml.tokens holds 'a' twice"),
        ({"tokenizer.ggml.merges": ["a bcd"]}, "merges holds 'a bcd', which does not merge two entries to a third"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any], reason: str, path: Path) -> None:
    written(path, shape("llama"))
    edited(path, changes)
    with pytest.raises(TrineError, match=reason) as caught:
        read_gguf(path)
    assert str(caught.value).startswith(str(path))


WEIRD_VALUES = (0, -1, 2**40, 0.0, -1.5, float("nan"), float("inf"), True, "", "x", [], [1], ["a"], [1.5], [True], None)


def test_a_value_of_any_other_kind_is_taken_or_refused_and_never_worse(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(path, replace(shape("llama"), rope_scaling=RopeScaling("llama3", 8.0, original_context=64)))
    good = read_container(path)
    for key in good.metadata:
        for value in WEIRD_VALUES:
            metadata = {name: found for name, found in (good.metadata | {key: value}).items() if found is not None}
            container = replace(good, metadata=metadata)
            monkeypatch.setattr("trine.model.gguf.reading.read_model_file", lambda _, container=container: container)
            try:
                parts = read_gguf(path)
                parts.model(torch.float32, torch.device("cpu"))
                Tokenizer(parts.tokenizer).encode("text")
            except TrineError:
                continue


def test_missing_and_surplus_tensors_are_refused_by_name(path: Path) -> None:
    written(path, shape("llama"))
    edited(path, {}, without=("output_norm.weight",))
    with pytest.raises(TrineError, match=r"model\.norm\.weight"):
        reopened(path)
    written(path, shape("qwen2"))
    edited(path, {"general.architecture": "llama"} | renamed(path, "qwen2.", "llama."))
    with pytest.raises(TrineError, match=r"attn_k\.bias.* are not part of the model"):
        read_gguf(path)


def renamed(path: Path, before: str, after: str) -> dict[str, Any]:
    metadata = read_container(path).metadata
    keys = [key for key in metadata if key.startswith(before)]
    return dict.fromkeys(keys) | {key.replace(before, after): metadata[key] for key in keys}


# The tokenizer


@families
def test_the_tokenizer_comes_back_with_ids_roles_and_chat_template(family: str, path: Path) -> None:
    written(path, shape(family))
    before, after = tiny_tokenizer(), Tokenizer(read_gguf(path).tokenizer)
    assert after.encode(ODD_TEXT) == before.encode(ODD_TEXT)
    assert after.special == before.special
    assert (after.end_of_text, after.pad, after.bos_id) == (before.end_of_text, before.pad, before.bos_id)
    assert after.chat_template == before.chat_template


def test_transformers_reads_our_tokenizer_from_the_file(path: Path) -> None:
    written(path, shape("qwen3"))
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    text = ODD_TEXT.replace("<|im_end|>", "")
    assert theirs(text, add_special_tokens=False)["input_ids"] == tiny_tokenizer().encode(text)
    assert theirs.eos_token_id == tiny_tokenizer().end_of_text


def test_rows_without_a_token_get_fillers_and_lose_them_again(path: Path) -> None:
    written(path, replace(shape("llama"), vocab_size=VOCABULARY + 5))
    tokens = read_container(path).metadata["tokenizer.ggml.tokens"]
    assert tokens[VOCABULARY:] == [f"[PAD{row}]" for row in range(VOCABULARY, VOCABULARY + 5)]
    assert Tokenizer(read_gguf(path).tokenizer).vocab_size == VOCABULARY
    assert reopened(path).config.vocab_size == VOCABULARY + 5


def test_lora_adapters_are_merged_into_what_is_written(tmp_path: Path) -> None:
    model = tiny_model("llama", vocab_size=320)
    add_lora(model, LoraSettings(rank=2, alpha=4.0), seed=0)
    scramble(model, 3)
    write_gguf(model, tiny_tokenizer(), tmp_path / "x.gguf", "float32", "tiny")
    again = read_gguf(tmp_path / "x.gguf").model(torch.float32, torch.device("cpu"))
    for name, weight in plain_weights(model).items():
        assert torch.equal(again.get_parameter(name), weight)
