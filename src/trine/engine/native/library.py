"""The compiled decoding step: built once from the C++ beside this file, with the user's own compiler, and kept.

A few seconds at first use, nothing after: the library is kept under a name that is a digest of source, compiler,
options and processor. Without a compiler, or with TRINE_NATIVE=0, generation runs on PyTorch alone.
"""

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from trine.runtime.files import sha256_of, sync_folder
from trine.runtime.progress import say

SOURCES = ("decode.cpp", "attention.h", "products.h", "sample.h", "vectors.h")
OPTIONS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-fopenmp",
    "-shared",
    "-fPIC",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-w",
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
                "weight_bytes", "threads", "most_positions", "logit_rows",
            )
        ),
        ("epsilon", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("embedding", "positions", "cosines", "sines", "norm", "norm_bias")),
        ("layer", ctypes.POINTER(LayerRecord)),
        ("head", MatrixRecord),
        *((name, ctypes.c_void_p) for name in ("residual", "qkv", "logits", "input", "mixed", "hidden")),
    )  # fmt: skip


class RunRecord(ctypes.Structure):
    """`Run` of decode.cpp."""

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
        ("runs", ctypes.c_int64),
        ("selected", ctypes.c_int64),
        ("ids", ctypes.c_void_p),
        ("run", ctypes.POINTER(RunRecord)),
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
    if os.environ.get("TRINE_NATIVE", "1") == "0":
        return None
    found = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not found:
        say("no C++ compiler was found: generation runs on PyTorch, several times slower; install g++ to change that")
        return None
    compiler = shlex.split(found)
    try:
        return _declared(_loaded(compiler))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: a user without a home
        reason = getattr(error, "stderr", None) or error
        say(f"{found} could not build the decoding step; generation runs on PyTorch, several times slower: {reason}")
        return None


def _loaded(compiler: list[str]) -> ctypes.CDLL:
    path = _built(compiler)
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # what was kept is damaged
        path.unlink(missing_ok=True)
        return ctypes.CDLL(str(_built(compiler)))


def _built(compiler: list[str]) -> Path:
    folder = Path(__file__).parent
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    sources = [(folder / name).read_bytes() for name in SOURCES]
    path = _kept_in() / f"decode-{sha256_of(*sources, version, ' '.join(OPTIONS), _processor())[:24]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as aside:
            made = Path(aside) / path.name
            command = [*compiler, *OPTIONS, str(folder / SOURCES[0]), "-o", str(made)]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            with open(made, "rb") as file:
                os.fsync(file.fileno())
            made.replace(path)
            sync_folder(path.parent)
    return path


def _kept_in() -> Path:
    """A folder of the user's own: what is loaded from there runs."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    root = root if root.is_absolute() else Path.home() / ".cache"
    folder = root / "trine" / "native"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if hasattr(os, "getuid") and (folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022):
        raise OSError(f"{folder} can be written by other users; make it your own (chmod 700)")
    return folder


def _processor() -> str:
    """What -march=native will see: the processor's name and features."""
    keys = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(keys)}) or lines[:1])


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer = ctypes.c_void_p
    library.trine_has_bf16_product.argtypes = []
    library.trine_has_bf16_product.restype = ctypes.c_int64
    library.trine_forward.argtypes = [pointer, pointer]
    library.trine_forward.restype = None
    library.trine_sample.argtypes = [pointer, ctypes.c_int64, *[pointer] * 6]
    library.trine_sample.restype = None
    library.trine_decode.argtypes = [pointer, pointer, ctypes.c_int64, pointer, pointer]
    library.trine_decode.restype = ctypes.c_int64
    return library
