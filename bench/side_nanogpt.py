"""A training step of nanoGPT (github.com/karpathy/nanoGPT, MIT), from the folder that TRINE_NANOGPT names.

Options: `dtype` of all weights (bfloat16 keeps no fp32 master: less exact than ours, and the fastest it can be);
`compiled`; `fused` AdamW instead of what its own `configure_optimizers` makes on a CPU.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.process_memory import ready_bytes
from bench.protocol import options, serve
from bench.training_runs import training_work

OPTIONS = options()
_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def load_nanogpt() -> tuple[Any, int]:
    """nanoGPT's model with the weights of the folder, as its `from_pretrained` copies them; and its vocabulary."""
    place = Path(os.environ.get("TRINE_NANOGPT") or ".")
    if not (place / "model.py").is_file():
        raise SystemExit("TRINE_NANOGPT names no folder with nanoGPT's model.py")
    sys.path.insert(0, str(place))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    folder = Path(OPTIONS["folder"])
    described = json.loads((folder / "config.json").read_text())
    shape = {"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd", "block_size": "n_positions"}
    sizes = {name: described[key] for name, key in (shape | {"vocab_size": "vocab_size"}).items()}
    model = GPT(GPTConfig(**sizes))
    state = model.state_dict()
    for name, tensor in load_file(folder / "model.safetensors").items():
        state[name].copy_(tensor.t() if name.endswith(_TRANSPOSED) else tensor)
    return model.to(getattr(torch, OPTIONS["dtype"])), sizes["vocab_size"]


with contextlib.redirect_stdout(sys.stderr):  # it prints its size
    IMPORTS = ready_bytes(compiled=OPTIONS["compiled"])
    MODEL, VOCABULARY = load_nanogpt()
    OPTIMIZER = MODEL.configure_optimizers(0.1, 1e-4, (0.9, 0.95), "cpu")
if OPTIONS["fused"]:
    # Groups of an optimizer that exists say fused=None, and keep saying it.
    GROUPS = [{key: group[key] for key in ("params", "weight_decay")} for group in OPTIMIZER.param_groups]
    OPTIMIZER = torch.optim.AdamW(GROUPS, lr=1e-4, betas=(0.9, 0.95), fused=True)
FORWARD: Any = torch.compile(MODEL) if OPTIONS["compiled"] else MODEL


def step(windows: Tensor) -> float:
    _, loss = FORWARD(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
    loss.backward()
    nn.utils.clip_grad_norm_(MODEL.parameters(), 1.0)
    OPTIMIZER.step()
    OPTIMIZER.zero_grad()
    return float(loss)


if __name__ == "__main__":
    if OPTIONS["threads"]:
        torch.set_num_threads(OPTIONS["threads"])
    hello = {"torch": torch.__version__, "import_bytes": IMPORTS, "threads": torch.get_num_threads()}
    # In bf16 it gives its loss in bf16, whose numbers from 8 to 16 lie 0.0625 apart.
    serve(hello, training_work(step, VOCABULARY, 0.0625 if OPTIONS["dtype"] == "bfloat16" else 0.0))
