"""Decoding in a captured graph: ratio to transformers' `generate`, and share of the memory's bandwidth."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.gpu.setting import Figures, Setting
from bench.protocol import random_prompts
from trine.engine.engine import Engine
from trine.engine.graph_runner import GraphRunner
from trine.engine.sampling import Sampling
from trine.engine.torch_runner import TorchRunner
from trine.model.config import ModelConfig
from trine.model.folder import save_model
from trine.model.transformer import Transformer

PROMPT_TOKENS, NEW_TOKENS = 16, 64
BATCHES = (64, 1)


def measure(setting: Setting) -> Figures:
    """Of each batch size: ours captured, ours without capture, transformers; and what a step has to read."""
    hardware, rounds = setting.hardware, 1 if setting.tiny else 5
    model, new_tokens = setting.model(hardware).eval(), 2 if setting.tiny else NEW_TOKENS
    bandwidth = setting.copy_bandwidth()
    figures: Figures = {"copy_bandwidth": bandwidth, "precision": hardware.precision, "new_tokens": new_tokens}
    peer = _transformers_of(model)
    for batch in (2, 1) if setting.tiny else BATCHES:
        works = {
            "ours": _engine_work(model, batch, new_tokens, captured=True),
            "plain": _engine_work(model, batch, new_tokens, captured=False),
            "transformers": _peer_work(peer, batch, new_tokens),
        }
        setting.in_turns(works, 0 if setting.tiny else 1)  # captures and warms up
        found = setting.in_turns(works, rounds)
        speeds = {name: batch * new_tokens / median(runs) for name, runs in found.items()}
        steps = speeds["ours"] / batch
        figures[f"B={batch}"] = {
            "tokens_per_second": speeds, "runs": found,
            "ratio_to_transformers": speeds["ours"] / speeds["transformers"],
            "bandwidth_share": steps * step_bytes(setting.shape, model, batch, new_tokens) / bandwidth,
        }  # fmt: skip
    return figures


def step_bytes(shape: ModelConfig, model: Transformer, batch: int, new_tokens: int) -> float:
    """What a decoding step has to read at least: every weight of a product, keys and values of what went before."""
    item = model.compute_dtype.itemsize
    weights = sum(each.numel() for name, each in model.named_parameters() if "blocks." in name and each.dim() == 2)
    weights += model.output_weight.numel()
    read = PROMPT_TOKENS + new_tokens / 2
    return item * (weights + 2 * shape.layers * shape.kv_heads * shape.head_dim * batch * read)


def _engine_work(model: Transformer, batch: int, new_tokens: int, *, captured: bool) -> Callable[[], Any]:
    engine = Engine(model, rows=batch, native=False)
    engine.runner = engine.stepper.runner = (GraphRunner if captured else TorchRunner)(model, engine.pool.pages)
    engine.refresh()
    prompts = random_prompts(batch, PROMPT_TOKENS, model.config.vocab_size, seed=0)
    return lambda: engine.generate(prompts, Sampling(new_tokens, temperature=1.0))


def _transformers_of(model: Transformer) -> Any:
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory(prefix="trine-bench-") as folder:
        save_model(model, Path(folder))
        peer = AutoModelForCausalLM.from_pretrained(folder, dtype=model.compute_dtype)
    return peer.to(model.output_weight.device).eval()


def _peer_work(peer: Any, batch: int, new_tokens: int) -> Callable[[], Any]:
    """`generate` as a user calls it: sampling at temperature 1, the dynamic cache."""
    ids = torch.tensor(random_prompts(batch, PROMPT_TOKENS, peer.config.vocab_size, seed=0), device=peer.device)

    @torch.no_grad()
    def work() -> None:
        peer.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_new_tokens=new_tokens, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip

    return work
