"""A training step of Hugging Face transformers: its own loss over full logits, AdamW, clipping at 1.

Options: `autocast` (bf16; else fp32 throughout), `compiled`, `fused` (AdamW), `checkpointing` (of activations).
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from bench.process_memory import ready_bytes
from bench.protocol import options, serve
from bench.training_runs import training_work

OPTIONS = options()
IMPORTS = ready_bytes(compiled=OPTIONS["compiled"])
NO_DROPOUT: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
MODEL: Any = GPT2LMHeadModel.from_pretrained(OPTIONS["folder"], dtype=torch.float32, **NO_DROPOUT).train()
if OPTIONS.get("checkpointing"):
    MODEL.gradient_checkpointing_enable()
FORWARD: Any = torch.compile(MODEL) if OPTIONS["compiled"] else MODEL
OPTIMIZER = torch.optim.AdamW(MODEL.parameters(), lr=1e-4, fused=True if OPTIONS["fused"] else None)


def step(windows: Tensor) -> float:
    ids, targets = windows[:, :-1], windows[:, 1:].contiguous()
    with torch.autocast("cpu", torch.bfloat16, enabled=OPTIONS["autocast"]):
        loss = FORWARD(input_ids=ids, labels=targets, shift_labels=targets, use_cache=False).loss
    loss.backward()
    nn.utils.clip_grad_norm_(MODEL.parameters(), 1.0)
    OPTIMIZER.step()
    OPTIMIZER.zero_grad()
    return float(loss)


if __name__ == "__main__":
    if OPTIONS["threads"]:
        torch.set_num_threads(OPTIONS["threads"])
    vocab_size = json.loads((Path(OPTIONS["folder"]) / "config.json").read_text())["vocab_size"]
    hello = {"transformers": transformers.__version__, "torch": torch.__version__, "import_bytes": IMPORTS}
    serve(hello | {"threads": torch.get_num_threads()}, training_work(step, vocab_size))
