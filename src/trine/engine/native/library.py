"""The compiled decoding step, as Python sees it: its records and functions (`runtime/native_library.py` builds it)."""

import ctypes
from functools import cache
from pathlib import Path

from trine.model import native as shared
from trine.runtime.native_library import NativeSource, load_native

HERE, SHARED = Path(__file__).parent, Path(shared.__file__).parent
SOURCE = NativeSource(
    "decode",
    (
        *(HERE / name for name in ("decode.cpp", "attention.h", "products.h", "sample.h")),
        SHARED / "team.h",
        SHARED / "vectors.h",
    ),
    "the decoding step",
    "generation runs on PyTorch, several times slower",
)


class MatrixRecord(ctypes.Structure):
    """`Matrix` of products.h."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
    )


class LayerRecord(ctypes.Structure):
    """`Layer` of decode.cpp."""

    _fields_ = (
        *((name, MatrixRecord) for name in ("qkv", "out", "up", "down")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "attention_norm", "attention_norm_bias", "mlp_norm", "mlp_norm_bias", "q_norm", "k_norm",
                "keys", "values",
            )
        ),
    )  # fmt: skip


class ModelRecord(ctypes.Structure):
    """`Model` of decode.cpp."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                "layers", "width", "heads", "kv_heads", "head_dim", "mlp_width", "vocabulary", "layer_norm", "gated",
                "weight_bytes", "threads", "max_positions", "logit_rows",
            )
        ),
        ("epsilon", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("embedding", "positions", "cosines", "sines", "norm", "norm_bias")),
        ("layer", ctypes.POINTER(LayerRecord)),
        ("head", MatrixRecord),
        *((name, ctypes.c_void_p) for name in ("residual", "qkv", "logits", "input", "mixed", "hidden")),
    )  # fmt: skip


class ChunkRecord(ctypes.Structure):
    """`Chunk` of decode.cpp."""

    _fields_ = (
        ("first", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("start", ctypes.c_int64),
        ("pages", ctypes.c_void_p),
    )


class BatchRecord(ctypes.Structure):
    """`Batch` of decode.cpp."""

    _fields_ = (
        ("tokens", ctypes.c_int64),
        ("chunks", ctypes.c_int64),
        ("selected", ctypes.c_int64),
        ("ids", ctypes.c_void_p),
        ("chunk", ctypes.POINTER(ChunkRecord)),
        ("select", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("temperature", ctypes.c_float),
        ("log_probs", ctypes.c_void_p),
    )


class RowsRecord(ctypes.Structure):
    """`Rows` of decode.cpp."""

    _fields_ = (
        ("count", ctypes.c_int64),
        *(
            (name, ctypes.c_void_p)
            for name in ("ids", "positions", "counters", "seeds", "ends", "end_offsets", "temperatures", "pages")
        ),
    )


@cache
def native_library() -> ctypes.CDLL | None:
    """The library, compiled if need be; None where that is not possible or not wanted."""
    library = load_native(SOURCE)
    return None if library is None else _declared(library)


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer = ctypes.c_void_p
    for name in ("trine_has_bf16_product", "trine_panel"):
        getattr(library, name).argtypes, getattr(library, name).restype = [], ctypes.c_int64
    library.trine_instructions.argtypes, library.trine_instructions.restype = [], ctypes.c_char_p
    library.trine_forward.argtypes = [pointer, pointer]
    library.trine_forward.restype = None
    library.trine_sample.argtypes = [pointer, ctypes.c_int64, *[pointer] * 6]
    library.trine_sample.restype = None
    library.trine_decode.argtypes = [pointer, pointer, ctypes.c_int64, pointer, pointer]
    library.trine_decode.restype = ctypes.c_int64
    return library
