"""The peer of the training row: the model of nanoGPT (github.com/karpathy/nanoGPT) and the step of its train.py.

Written out here in its form, so that nothing has to be fetched: one product for q, k and v, PyTorch's fused causal
attention, exact GELU, logits of the whole batch at once, `F.cross_entropy`; bf16 autocast over fp32 weights, fused
AdamW, the gradient clipped at 1, the whole compiled. Biases as GPT-2 has them. Where TRINE_NANOGPT names a folder with
its model.py, that is measured instead.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trine.model.transformer import Transformer

_NAMES = {
    "attention_norm": "ln_1", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj", "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj",
}  # fmt: skip
"""Of a block: our modules, and nanoGPT's of the same weights."""


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape  # noqa: N806
        parts = self.c_attn(x).split(D, dim=2)
        q, k, v = (part.view(B, T, self.heads, D // self.heads).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).contiguous().view(B, T, D))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = _Attention(width, heads), _Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGpt(nn.Module):
    """Ids [B, T] and targets [B, T] to (logits [B, T, V], mean loss)."""

    def __init__(self, vocabulary: int, context: int, layers: int, heads: int, width: int) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocabulary, width),
                "wpe": nn.Embedding(context, width),
                "h": nn.ModuleList(_Block(width, heads) for _ in range(layers)),
                "ln_f": nn.LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        parts: Any = self.transformer
        x = parts["wte"](ids) + parts["wpe"](torch.arange(ids.shape[1], device=ids.device))
        for block in parts["h"]:
            x = block(x)
        logits = self.lm_head(parts["ln_f"](x))
        return logits, F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


@torch.no_grad()
def nanogpt_of(ours: Transformer) -> nn.Module:
    """nanoGPT's model with the weights of `ours`, a GPT-2, on its device in fp32."""
    config = ours.config
    sizes = config.vocab_size, config.context, config.layers, config.heads, config.width
    model = _from_its_folder(*sizes) or NanoGpt(*sizes)
    target, source = model.state_dict(), dict(ours.named_parameters())
    target["transformer.wte.weight"].copy_(source["embedding.weight"])
    target["transformer.wpe.weight"].copy_(source["position_embedding.weight"])
    pairs = {"norm": "transformer.ln_f"} | {
        f"blocks.{layer}.{our_name}": f"transformer.h.{layer}.{name}"
        for layer in range(config.layers)
        for our_name, name in _NAMES.items()
    }
    for our_name, name in pairs.items():
        for kind in ("weight", "bias"):
            target[f"{name}.{kind}"].copy_(source[f"{our_name}.{kind}"])
    return model.to(ours.output_weight.device)


def _from_its_folder(vocabulary: int, context: int, layers: int, heads: int, width: int) -> nn.Module | None:
    place = Path(os.environ.get("TRINE_NANOGPT") or "absent")
    if not (place / "model.py").is_file():
        return None
    sys.path.insert(0, str(place))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    sizes = {"n_layer": layers, "n_head": heads, "n_embd": width}
    built: nn.Module = GPT(GPTConfig(block_size=context, vocab_size=vocabulary, bias=True, **sizes))
    return built


class NanoGptStep:
    """One optimizer step over windows [B, T + 1], as train.py makes it; returns the loss, still on the device."""

    def __init__(self, model: nn.Module, device: torch.device, *, compiled: bool) -> None:
        self.model, self.device = model, device
        self._forward: Any = torch.compile(model) if compiled else model
        groups = [
            {"params": [each for each in model.parameters() if each.dim() >= 2], "weight_decay": 0.1},
            {"params": [each for each in model.parameters() if each.dim() < 2], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)

    def __call__(self, windows: Tensor) -> Tensor:
        ids, targets = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            _, loss = self._forward(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()
