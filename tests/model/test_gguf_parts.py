"""GGUF files as llama-quantize and llama-gguf-split leave them: mixed types, several parts, names of pre-tokenisers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from tests.model.test_gguf import edited, shape
from tests.tiny import tiny_model, tiny_tokenizer
from trine.catalog.locating import place_model
from trine.model.config import ModelConfig
from trine.model.gguf.parts import one_model, part_names
from trine.model.gguf.reading import read_gguf
from trine.model.gguf.splits import SPLITS, split_name
from trine.model.gguf.writing import write_gguf
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError

WIDE = ModelConfig(
    vocab_size=320, context=64, layers=1, width=256, heads=4, kv_heads=2, head_dim=64, mlp_width=288, qk_norm=False,
    tied_embeddings=False,
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def opened(path: Path) -> Transformer:
    return read_gguf(path).model(torch.float32, torch.device("cpu"))


def random_blocks(kind: GGMLQuantizationType, rows: int, columns: int) -> np.ndarray:
    """Bytes that some quantiser could have written: K types have finite scales where their bytes are small."""
    from gguf.constants import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[kind]
    return np.random.default_rng(rows).integers(0, 50, (rows, columns // block * size), dtype=np.uint8)


def test_a_file_of_mixed_types_is_read_tensor_by_tensor(path: Path, tmp_path: Path) -> None:
    """4.1: Q4_K_M takes Q5_0 or Q8_0 where a row is no multiple of 256 (mlp_width is 288 here)."""
    write_gguf(tiny_model(WIDE), tiny_tokenizer(), path, "float32", name="wide")
    kinds = {
        "blk.0.attn_q.weight": "Q4_K", "blk.0.attn_k.weight": "Q6_K", "blk.0.attn_v.weight": "Q5_K",
        "blk.0.attn_output.weight": "Q3_K", "blk.0.ffn_up.weight": "Q2_K", "blk.0.ffn_gate.weight": "IQ4_XS",
        "blk.0.ffn_down.weight": "Q5_0", "token_embd.weight": "Q8_0", "output.weight": "Q5_1",
    }  # fmt: skip
    reader, writer = GGUFReader(path), GGUFWriter(tmp_path / "mixed.gguf", "llama")
    copy_metadata(reader, writer)
    expected: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if tensor.name in kinds:
            kind = GGMLQuantizationType[kinds[tensor.name]]
            try:
                data = quantize(tensor.data, kind)
            except NotImplementedError:
                data = random_blocks(kind, *tensor.data.shape)
            expected[tensor.name] = dequantize(data.view(np.uint8), kind)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    finish(writer)
    parts = read_gguf(tmp_path / "mixed.gguf")
    model = parts.model(torch.float32, torch.device("cpu"))
    assert parts.dtype == "float32"
    assert torch.equal(model.blocks[0].mlp.down.weight, torch.from_numpy(expected["blk.0.ffn_down.weight"]))
    up = torch.from_numpy(np.concatenate([expected["blk.0.ffn_gate.weight"], expected["blk.0.ffn_up.weight"]]))
    assert torch.equal(model.blocks[0].mlp.up.weight, up)
    assert torch.equal(model.embedding.weight, torch.from_numpy(expected["token_embd.weight"]))
    assert torch.equal(model.head.weight, torch.from_numpy(expected["output.weight"]))


def copy_metadata(reader: GGUFReader, writer: GGUFWriter) -> None:
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            value = field.contents()
            writer.add_key_value(key, value, field.types[0], sub_type=field.types[1] if len(field.types) > 1 else None)


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# Parts


def split(path: Path, count: int) -> list[Path]:
    """What llama-gguf-split makes of the file: the metadata in the first part, tensors in all."""
    reader = GGUFReader(path)
    parts = [path.with_name(name) for name in part_names(f"{path.stem}-00001-of-{count:05}.gguf")]
    for number, part in enumerate(parts):
        writer = GGUFWriter(part, "llama")
        if number == 0:
            copy_metadata(reader, writer)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[number::count]:
            writer.add_tensor(tensor.name, tensor.data.copy(), raw_dtype=tensor.tensor_type)
        finish(writer)
    path.unlink()
    return parts


def test_a_model_in_parts_is_the_model(path: Path) -> None:
    """4.1: any part may be named."""
    write_gguf(tiny_model(shape("llama")), tiny_tokenizer(), path, "float16", name="tiny")
    whole = opened(path)
    for part in split(path, 3):
        again = opened(part)
        assert again.config == whole.config
        for name, parameter in again.named_parameters():
            assert torch.equal(parameter, whole.get_parameter(name))


def test_parts_that_are_missing_renamed_or_of_another_model_are_named(path: Path) -> None:
    """4.1: never part of a model."""
    write_gguf(tiny_model(shape("llama")), tiny_tokenizer(), path, "float16", name="tiny")
    first, second, third = split(path, 3)
    third.rename(third.with_name("kept"))
    with pytest.raises(TrineError, match=r"model-00003-of-00003\.gguf not in"):
        opened(first)
    shutil.copy(second, third)
    with pytest.raises(TrineError, match=r"00003-of-00003\.gguf: split\.no and split\.count are \(1, 3\)"):
        opened(first)
    first.rename(path)
    with pytest.raises(
        TrineError, match=r"split\.count is 3, but the file's name does not end in -00001-of-00003\.gguf"
    ):
        opened(path)


def test_a_run_depends_on_every_part(path: Path) -> None:
    """4.1: a part that was replaced is another model."""
    write_gguf(tiny_model(shape("llama")), tiny_tokenizer(), path, "float16", name="tiny")
    parts = split(path, 2)
    assert place_model(path.parent).paths == tuple(parts)


def test_files_that_are_parts_of_one_model_are_one() -> None:
    assert one_model(part_names("a-00002-of-00003.gguf")) == "a-00001-of-00003.gguf"
    assert one_model(["a.gguf"]) == "a.gguf"
    assert one_model(["a.gguf", "b.gguf"]) is None
    assert one_model([]) is None


# Pre-tokenisers


@pytest.mark.parametrize("name", ["smaug-bpe", "phi-2", "refact", "command-r", "tekken", "gpt-4o", "falcon3", "olmo"])
def test_a_file_that_names_its_pre_tokeniser_otherwise_opens(name: str, path: Path) -> None:
    """4.1: names that llama.cpp knows for the expressions of others."""
    write_gguf(tiny_model(shape("llama")), tiny_tokenizer(), path, "float16", name="tiny")
    edited(path, {"tokenizer.ggml.pre": name, "tokenizer.ggml.add_bos_token": False})
    description = json.loads(read_gguf(path).tokenizer.texts["tokenizer.json"])
    assert description["pre_tokenizer"] == SPLITS[name].pre_tokenizer


TEXT = "Hello WORLD's  it's 12345\n\n\tnaïve café日本語 don'T (x+=y); `a`"


@pytest.mark.parametrize("name", SPLITS)
def test_every_pre_tokeniser_is_one_that_tokenizers_runs_and_loses_nothing(name: str) -> None:
    """4.1: pieces put together are the text, for every name."""
    described = json.loads(Backend(BPE()).to_str()) | {"pre_tokenizer": SPLITS[name].pre_tokenizer}
    backend = Backend.from_str(json.dumps(described))
    pieces = [TEXT[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(TEXT)]
    joined = "".join(TEXT[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(TEXT))
    assert joined == TEXT
    digits = [piece.strip() for piece in pieces if piece.strip().isdigit()]
    expected = {"llama-bpe": ["123", "45"], "qwen2": list("12345"), "gpt-2": ["12345"]}
    for kind, same in (("llama-bpe", ("smaug-bpe", "dbrx", "gpt-4o")), ("qwen2", ("refact", "command-r", "tekken")),
                       ("gpt-2", ("phi-2", "olmo"))):  # fmt: skip
        if name == kind or name in same:
            assert digits == expected[kind]


def test_a_tokenizer_is_written_under_the_first_name_of_its_kind() -> None:
    model = {"model": {}}
    assert split_name({"pre_tokenizer": SPLITS["phi-2"].pre_tokenizer} | model) == "gpt-2"
    assert split_name({"pre_tokenizer": SPLITS["refact"].pre_tokenizer} | model) == "smollm"
