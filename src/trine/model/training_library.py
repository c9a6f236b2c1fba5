"""The compiled kernels of training, as Python sees them: their arguments, and which tensors they take.

What they compute is in `native/`; `training_kernels.py` makes differentiable operations of them, `products.py` the
products of linear layers.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trine.runtime.native_library import NativeSource, load_native

HERE = Path(__file__).parent / "native"
FILES = (
    "training.cpp", "activations.h", "causal_attention.h", "cross_entropy.h", "heads.h", "linear.h", "norms.h",
    "team.h", "tiles.h", "token_log_probs.h", "vectors.h",
)  # fmt: skip
SOURCE = NativeSource(
    "training",
    tuple(HERE / name for name in FILES),
    "the operations of a training step",
    "training uses PyTorch's own operations, which are slower",
    uses_openmp=True,
)
LANES = 16
_ARGUMENTS = {  # p pointer, i int64, f float
    "norm_forward": "ppppppiifi",
    "norm_backward": "pppppppiifi",
    "gelu_forward": "ppii",
    "gelu_backward": "pppii",
    "swiglu_forward": "ppiii",
    "swiglu_backward": "pppiii",
    "cross_entropy": "ppppiii",
    "token_log_probs_forward": "ppppppiifi",
    "token_log_probs_backward": "pppppppiifi",
    "rotary_forward": "ppppppfi",
    "rotary_backward": "pppppppfi",
    "attention_forward": "ppppppi",
    "attention_backward": "ppppppppi",
    "linear_forward": "ppppiiii",
    "linear_backward": "ppppppiiii",
}
_KINDS: dict[str, Any] = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@cache
def training_library() -> ctypes.CDLL | None:
    """The library, compiled if not cached; None without a compiler or with TRINE_NATIVE=0."""
    library = load_native(SOURCE)
    if library is not None:
        for name, kinds in _ARGUMENTS.items():
            for dtype in _DTYPES.values():
                function = getattr(library, f"trine_{name}_{dtype}")
                function.argtypes, function.restype = [_KINDS[kind] for kind in kinds], None
        library.trine_instructions.argtypes, library.trine_instructions.restype = [], ctypes.c_char_p
        library.trine_has_fast_products.argtypes, library.trine_has_fast_products.restype = [], ctypes.c_int64
    return library


def usable(x: Tensor, *widths: int, multiple: int = LANES) -> bool:
    """Whether the functions below support `x`, whose rows (or heads) have the given `widths`."""
    return (
        x.device.type == "cpu"
        and x.dtype in _DTYPES
        and not torch.compiler.is_compiling()
        and not any(width % multiple for width in widths)
        and training_library() is not None
    )


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int | float | None) -> None:
    """Call the C++ function for `name` and `dtype`; tensors are passed as pointers, the number of threads last."""
    library = training_library()
    assert library is not None
    values = [each.data_ptr() if isinstance(each, Tensor) else each for each in arguments]
    getattr(library, f"trine_{name}_{_DTYPES[dtype]}")(*values, torch.get_num_threads())
