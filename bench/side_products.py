"""The machine's matrix products: `torch.mm` on the shapes of a model's own training step, nothing else.

Every product of the forward pass of every block and of the head, and the two of its backward pass, into memory that is
there already. In fp32 by MKL or oneDNN, whichever is faster for the product.
"""

import time
from pathlib import Path

import torch

from bench.flops import flops_per_token, product_shapes
from bench.protocol import Reply, options, serve
from trine.model.folder import read_config

OPTIONS = options()
DTYPE: torch.dtype = getattr(torch, OPTIONS["dtype"])
CONFIG = read_config(Path(OPTIONS["folder"]))
_Product = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_products: dict[tuple[int, int, int], list[_Product]] = {}


def multiply(rows: int, tokens: int, steps: int, causal: bool, seed: int) -> Reply:
    """`seconds`: what the FLOPs of `steps` steps would take at the rate measured over the products of one step."""
    shapes = product_shapes(CONFIG, rows * tokens)
    for shape in shapes:
        if shape not in _products:
            _products[shape] = _three_products(*shape)
    seconds = sum(_seconds(product) for shape in shapes for product in _products[shape])
    rate = sum(3 * 2 * m * k * n for m, k, n in shapes) / seconds
    per_token = flops_per_token(CONFIG, tokens, causal=causal)
    count = steps * rows * tokens
    setting = f"torch.mm of the step's shapes: {rate / 1e9:.0f} GFLOP/s; {per_token / 1e6:.1f} MFLOP a token"
    return {"seconds": count * per_token / rate, "tokens": count, "flops_per_second": rate, "setting": setting}


def _seconds(product: _Product) -> float:
    """Of one product, by the faster library: each takes its turn."""
    left, right, out = product
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    taken = []
    for precision in ("none",) if torch.bfloat16 == DTYPE else ("none", "bf16"):  # fp32 by oneDNN is named so
        setting.fp32_precision = precision
        started = time.perf_counter()
        torch.mm(left, right, out=out)
        taken.append(time.perf_counter() - started)
    return min(taken)


def _three_products(m: int, k: int, n: int) -> list[_Product]:
    """x W^T, and its gradients g W and g^T x, all of one linear map."""
    x, weight, gradient = (torch.randn(shape, dtype=DTYPE) for shape in ((m, k), (n, k), (m, n)))
    return [
        (x, weight.t(), torch.empty_like(gradient)),
        (gradient, weight, torch.empty_like(x)),
        (gradient.t(), x, torch.empty_like(weight)),
    ]


if __name__ == "__main__":
    if OPTIONS["threads"]:
        torch.set_num_threads(OPTIONS["threads"])
    serve({"torch": torch.__version__, "threads": torch.get_num_threads()}, multiply)
