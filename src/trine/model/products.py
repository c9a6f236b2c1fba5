"""The three products of a linear layer on a CPU, each by the library that is fastest here.

In bf16 they are our own (`native/linear.h`). In fp32 our own kernels, PyTorch's default library (MKL on x86) and oneDNN
each win on some processor and shape, so each is timed once when a shape first occurs. The winners are kept in a file of
the cache folder, since another library adds in another order: on one machine the same step gives the same bits in every
process, as long as that file stays. `TRINE_PRODUCTS` (own, torch, onednn) takes one for all instead.

Within `row_invariant` all are our own, whatever the number of rows: each element is one sum in one order, so that a row
of the result is the same to the bit alone and among others. The libraries choose their order by the number of rows.

Shapes: N rows (tokens), K inputs, M outputs; all tensors contiguous.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from trine.model.training_library import call
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, write_json
from trine.runtime.lock import folder_lock
from trine.runtime.native_library import kept_folder, processor_digest

LIBRARIES = ("own", "torch", "onednn")
VARIABLE = "TRINE_PRODUCTS"
TIMED_ROWS = 1024  # at most; more rows take longer to time and change little
_ROW_INVARIANT: ContextVar[bool] = ContextVar("row invariant", default=False)
ROUNDS = 4  # the fastest counts, since other programs only slow one down


@contextmanager
def row_invariant() -> Iterator[None]:
    """Products whose rows do not depend on what other rows there are; for results, not for speed."""
    token = _ROW_INVARIANT.set(True)
    try:
        yield
    finally:
        _ROW_INVARIANT.reset(token)


def is_row_invariant() -> bool:
    """Whether `row_invariant` is in force in this thread."""
    return _ROW_INVARIANT.get()


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out [N, M] = x [N, K] weight [M, K]^T + bias [M]."""
    _forward(_library("forward", x, len(x), *weight.shape), x, weight, bias, out)


def input_gradient(gradient: Tensor, weight: Tensor, out: Tensor) -> None:
    """out [N, K] = gradient [N, M] weight [M, K]."""
    _input_gradient(_library("input", gradient, len(gradient), *weight.shape), gradient, weight, out)


def weight_gradient(gradient: Tensor, x: Tensor, out: Tensor) -> None:
    """out [M, K] fp32 = gradient [N, M]^T x [N, K]."""
    _weight_gradient(_library("weight", x, len(x), *out.shape), gradient, x, out)


def bias_gradient(gradient: Tensor, out: Tensor) -> None:
    """out [M] fp32 = sum over the rows of gradient [N, M]."""
    call("linear_backward", gradient.dtype, gradient, None, None, None, None, out, len(gradient), 0, gradient.shape[1])


def measured_products() -> dict[str, str]:
    """The fastest library of each product that has occurred on this machine, by `kind rows inputs outputs threads`."""
    return dict(_measured())


def forget() -> None:
    """Read the file anew when a product is needed next."""
    _measured.cache_clear()


def _forward(library: str, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if library == "own":
        call("linear_forward", x.dtype, x, weight, bias, out, len(x), x.shape[1], len(weight))
        return
    with _using(library):
        torch.mm(x, weight.T, out=out) if bias is None else torch.addmm(bias, x, weight.T, out=out)


def _input_gradient(library: str, gradient: Tensor, weight: Tensor, out: Tensor) -> None:
    if library == "own":
        sizes = len(gradient), weight.shape[1], len(weight)
        call("linear_backward", gradient.dtype, gradient, None, weight, out, None, None, *sizes)
        return
    with _using(library):
        torch.mm(gradient, weight, out=out)


def _weight_gradient(library: str, gradient: Tensor, x: Tensor, out: Tensor) -> None:
    if library == "own":
        sizes = len(x), x.shape[1], gradient.shape[1]
        call("linear_backward", gradient.dtype, gradient, x, None, None, out, None, *sizes)
        return
    with _using(library):
        torch.mm(gradient.T, x, out=out)


def _library(kind: str, like: Tensor, rows: int, outputs: int, inputs: int) -> str:
    if like.dtype != torch.float32 or is_row_invariant():
        return "own"
    if chosen := os.environ.get(VARIABLE):
        if chosen not in LIBRARIES:
            raise TrineError(f"{VARIABLE}={chosen} is unknown; choose {', '.join(LIBRARIES)}, or unset it")
        return chosen
    key = f"{kind} {1 << (rows - 1).bit_length()} {inputs} {outputs} {torch.get_num_threads()}"
    return _measured().get(key) or _measure(key, kind, (min(rows, TIMED_ROWS), inputs, outputs))


@cache
def _measured() -> dict[str, str]:
    """What is known in this process; filled from the file."""
    return _read(_file())


def _file() -> Path | None:
    folder = kept_folder()
    return folder and folder / f"products-{processor_digest(torch.__version__)}" / "fastest.json"


def _read(file: Path | None) -> dict[str, str]:
    try:
        found = read_json(file) if file and file.exists() else {}
    except (OSError, TrineError):  # as if nothing had been measured
        return {}
    known = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in known if isinstance(key, str) and value in LIBRARIES}


def _measure(key: str, kind: str, sizes: tuple[int, int, int]) -> str:
    """Time the libraries, unless another process has meanwhile; keep the fastest."""
    file, known = _file(), _measured()
    try:
        if file is None:
            raise OSError
        with folder_lock(file.parent, wait=True):
            known |= _read(file)
            if key not in known:
                known[key] = _fastest(kind, sizes)
                write_json(file, dict(sorted(known.items())))
    except (OSError, TrineError):  # no folder to write to: this process alone knows
        known.setdefault(key, _fastest(kind, sizes))
    return known[key]


def _fastest(kind: str, sizes: tuple[int, int, int]) -> str:
    rows, inputs, outputs = sizes
    x, weight, gradient = torch.zeros(rows, inputs), torch.zeros(outputs, inputs), torch.zeros(rows, outputs)
    work: Callable[[str], None] = {
        "forward": lambda library: _forward(library, x, weight, None, gradient),
        "input": lambda library: _input_gradient(library, gradient, weight, x),
        "weight": lambda library: _weight_gradient(library, gradient, x, weight),
    }[kind]
    seconds = {name: math.inf for name in LIBRARIES if name != "onednn" or _onednn_is_exact()}
    for turn in range(1 + ROUNDS):  # in turns, so that a disturbance meets all; the first fills caches and workspaces
        for library, best in seconds.items():
            started = time.perf_counter()
            work(library)
            taken = time.perf_counter() - started
            seconds[library] = min(best, taken) if turn else math.inf
    return min(seconds, key=seconds.__getitem__)


def _onednn_is_exact() -> bool:
    """Whether `runtime/device.py` has found that oneDNN's fp32 products, asked for by the name bf16, are fp32."""
    return bool(torch.backends.mkldnn.matmul.fp32_precision == "bf16")  # type: ignore[attr-defined]


@contextmanager
def _using(library: str) -> Iterator[None]:
    """PyTorch's products by its default library or by oneDNN."""
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, wanted = setting.fp32_precision, "bf16" if library == "onednn" else "none"
    if before == wanted or not _onednn_is_exact():
        yield
        return
    setting.fp32_precision = wanted
    try:
        yield
    finally:
        setting.fp32_precision = before
