"""The fast runner on CPUs: weights packed once into panels, a decoding step in one call without Python between layers.

Its numbers are the plain runner's to rounding (tests/engine/test_native.py). In one respect they are better: no sum
depends on what shares the batch, so a row's tokens are the same in any batch, in bf16 too.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trine.engine.memory import ALIGNMENT, Arena, large_zeros
from trine.engine.native.library import (
    BatchRecord,
    ChunkRecord,
    LayerRecord,
    MatrixRecord,
    ModelRecord,
    RowsRecord,
    native_library,
)
from trine.engine.native.panels import Panels, Precision
from trine.engine.ngrams import MAX_DRAFT_TOKENS
from trine.engine.pages import PAGE
from trine.engine.quantization import quantize
from trine.engine.runner import MAX_TOKENS, Chunk, DecodeRow, SamplingState
from trine.model.config import ModelConfig
from trine.model.kernels import rotary_table
from trine.model.rope import rotary_frequencies
from trine.runtime.errors import TrineError

LANES = 16  # of the widest vectors; narrower ones divide it
LOG_PROB_ROWS = 192  # rows of logits at a time for log_probs: each time the output table is read once
_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
_CACHE_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16}


def native_supports(config: ModelConfig) -> bool:
    """Whether this shape can run natively: widths in whole vectors."""
    widths = (config.width, config.head_dim, config.mlp_width)
    return not any(width % LANES for width in widths) and native_library() is not None


class NativeRunner:
    """A model of shape `config` for at most `rows` rows, with `pages` pages of memory."""

    def __init__(self, config: ModelConfig, *, rows: int, pages: int, precision: Precision, threads: int) -> None:
        library = native_library()
        assert library is not None
        self.library, self.config, self.precision = library, config, precision
        self.panels = Panels(library.trine_panel())
        self.layers = (LayerRecord * config.layers)()
        self._kept: dict[str, Tensor] = {}
        self._arena: Arena | None = None
        self.model = ModelRecord(
            layers=config.layers, width=config.width, heads=config.heads, kv_heads=config.kv_heads,
            head_dim=config.head_dim, mlp_width=config.mlp_width, vocabulary=config.vocab_size,
            layer_norm=config.norm == "layer", gated=config.mlp == "swiglu", weight_bytes=_BYTES[precision],
            threads=threads, max_positions=min(config.context, pages * PAGE),
            logit_rows=max(rows, 1 + MAX_DRAFT_TOKENS, LOG_PROB_ROWS), epsilon=config.norm_epsilon,
            layer=ctypes.cast(self.layers, ctypes.POINTER(LayerRecord)),
        )  # fmt: skip
        self._make_workspace(rows)
        self._make_pages(pages)
        if config.position == "rotary":
            self._make_rotary_table()

    # Memory

    def _keep(self, name: str, tensor: Tensor) -> int:
        self._kept[name] = tensor
        return tensor.data_ptr()

    def _make_workspace(self, rows: int) -> None:
        config, tokens = self.config, rows + MAX_TOKENS
        heads = config.heads + 2 * config.kv_heads
        input_dtype = torch.float32 if self.precision != "bf16" else torch.bfloat16
        if self.precision == "bf16" and not self.library.trine_has_bf16_product():
            input_dtype = torch.float32
        for name, count, width, dtype in (
            ("residual", tokens, config.width, torch.float32),
            ("qkv", tokens, heads * config.head_dim, torch.float32),
            ("logits", self.model.logit_rows, config.vocab_size, torch.float32),
            ("input", tokens, config.width, input_dtype),
            ("mixed", tokens, config.heads * config.head_dim, input_dtype),
            ("hidden", tokens, config.mlp_width, input_dtype),
        ):
            room = large_zeros(count * self.panels.padded(width), dtype).view(count, -1)
            setattr(self.model, name, self._keep(name, room))

    def _make_pages(self, pages: int) -> None:
        config, dtype = self.config, _CACHE_DTYPE[self.precision]
        values = (pages + 1) * config.kv_heads * config.head_dim * PAGE
        for index, layer in enumerate(self.layers):
            for name in ("keys", "values"):
                setattr(layer, name, self._keep(f"{name}.{index}", large_zeros(values, dtype)))

    def _make_rotary_table(self) -> None:
        positions = torch.arange(self.model.max_positions)
        cosines, sines = rotary_table(rotary_frequencies(self.config), positions, torch.float32)
        half = self.config.head_dim // 2
        self.model.cosines = self._keep("cosines", cosines.squeeze(1)[:, :half].contiguous())
        self.model.sines = self._keep("sines", sines.squeeze(1)[:, half:].contiguous())

    # Weights

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        if self._arena is None:
            self._arena = Arena(self._packed_size(weights))
        self._arena.clear()

        def vector(name: str) -> int:
            return self._keep(name, weights[name].detach().float().contiguous().clone()) if name in weights else 0

        for index, layer in enumerate(self.layers):
            block = f"blocks.{index}."
            for name in ("qkv", "out"):
                setattr(layer, name, self._matrix(weights, f"{block}attention.{name}"))
            for name in ("up", "down"):
                setattr(layer, name, self._matrix(weights, f"{block}mlp.{name}"))
            for name in ("attention_norm", "mlp_norm"):
                setattr(layer, name, vector(f"{block}{name}.weight"))
                setattr(layer, f"{name}_bias", vector(f"{block}{name}.bias"))
            layer.q_norm, layer.k_norm = vector(f"{block}attention.q_norm"), vector(f"{block}attention.k_norm")
        self.model.embedding, self.model.positions = vector("embedding.weight"), vector("position_embedding.weight")
        self.model.norm, self.model.norm_bias = vector("norm.weight"), vector("norm.bias")
        self.model.head = self._matrix(weights, "head" if "head.weight" in weights else "embedding")

    def _packed_size(self, weights: dict[str, Tensor]) -> int:
        """Bytes that all matrices take, at the most."""
        shapes = [weight.shape for name, weight in weights.items() if weight.dim() == 2 and "embedding" not in name]
        if "head.weight" not in weights:
            shapes.append(weights["embedding.weight"].shape)
        padding = 2 * self.panels.size  # two halves of a gated matrix are padded apart
        return sum((rows + padding) * columns * _BYTES[self.precision] + ALIGNMENT for rows, columns in shapes)

    def _matrix(self, weights: dict[str, Tensor], name: str) -> MatrixRecord:
        """One weight, with its bias, in panels; each of a gated layer has as many gates as values."""
        weight, bias = weights[f"{name}.weight"].detach(), weights.get(f"{name}.bias")
        gated = name.endswith("mlp.up") and self.model.gated
        arrange = self.panels.interleaved if gated else self.panels.whole
        scale = None
        if self.precision == "int8":
            weight, scale = quantize(weight)
            scale = arrange(scale)
        assert self._arena is not None
        arranged = arrange(weight)
        packed = self._arena.put(self.panels.packed(arranged, self.precision))
        record = MatrixRecord(weight=packed.data_ptr(), outputs=len(arranged), inputs=weight.shape[1])
        if scale is not None:
            record.scale = self._keep(f"{name}.scale", scale)
        if bias is not None:
            record.bias = self._keep(f"{name}.bias", arrange(bias.detach().float()).clone())
        return record

    # Running

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        return self._kept["logits"][: self._run(chunks), : self.config.vocab_size]

    def log_probs(self, chunks: Sequence[Chunk], targets: Sequence[int], temperature: float) -> list[float]:
        wanted, log_probs = np.array(targets, dtype=np.int64), np.empty(len(targets), dtype=np.float32)
        self._run(chunks, targets=wanted.ctypes.data, temperature=temperature, log_probs=log_probs.ctypes.data)
        return log_probs.tolist()

    def _run(self, chunks: Sequence[Chunk], **targets: float) -> int:
        """One pass over new tokens; how many of them were wanted."""
        ids = np.concatenate([np.asarray(chunk.ids, dtype=np.int64) for chunk in chunks])
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.config.vocab_size:
            raise TrineError(
                f"token ids from {ids.min()} to {ids.max()} are not all in 0..{self.config.vocab_size - 1}"
            )
        records = (ChunkRecord * len(chunks))()
        select, first = list[int](), 0
        for record, chunk in zip(records, chunks, strict=True):
            record.first, record.count, record.start = first, len(chunk.ids), chunk.start
            record.pages = chunk.pages.ctypes.data
            first += len(chunk.ids)
            select += range(first - chunk.wanted, first)
        chosen = np.array(select, dtype=np.int64)
        batch = BatchRecord(
            tokens=first,
            chunks=len(chunks),
            selected=len(chosen),
            ids=ids.ctypes.data,
            chunk=records,
            select=chosen.ctypes.data,
            **targets,
        )
        self.library.trine_forward(ctypes.byref(self.model), ctypes.byref(batch))
        return len(chosen)

    def sample(self, rows: Sequence[int], states: Sequence[SamplingState]) -> tuple[list[int], list[float]]:
        row_indices = np.array(rows, dtype=np.int64)
        arrays = _SamplingArrays(states)
        ids, log_probs = np.empty(len(row_indices), dtype=np.int64), np.empty(len(row_indices), dtype=np.float32)
        self.library.trine_sample(
            ctypes.byref(self.model), len(row_indices), row_indices.ctypes.data, arrays.seeds.ctypes.data,
            arrays.counters.ctypes.data, arrays.temperatures.ctypes.data, ids.ctypes.data, log_probs.ctypes.data,
        )  # fmt: skip
        return ids.tolist(), log_probs.tolist()

    def decode(self, rows: Sequence[DecodeRow], steps: int) -> tuple[list[list[int]], list[list[float]]]:
        arrays = _SamplingArrays([row.sampling for row in rows])
        next_ids = np.array([row.next_id for row in rows], dtype=np.int64)
        positions = np.array([row.position for row in rows], dtype=np.int64)
        pages = (ctypes.c_void_p * len(rows))(*[row.pages.ctypes.data for row in rows])
        ends = np.concatenate([row.ends for row in rows])
        offsets = np.cumsum([0, *[len(row.ends) for row in rows]], dtype=np.int64)
        record = RowsRecord(
            count=len(rows), ids=next_ids.ctypes.data, positions=positions.ctypes.data,
            counters=arrays.counters.ctypes.data, seeds=arrays.seeds.ctypes.data, ends=ends.ctypes.data,
            end_offsets=offsets.ctypes.data, temperatures=arrays.temperatures.ctypes.data,
            pages=ctypes.addressof(pages),
        )  # fmt: skip
        ids, log_probs = np.empty((steps, len(rows)), dtype=np.int64), np.empty((steps, len(rows)), dtype=np.float32)
        made = self.library.trine_decode(
            ctypes.byref(self.model), ctypes.byref(record), steps, ids.ctypes.data, log_probs.ctypes.data
        )
        for row, next_id in zip(rows, next_ids.tolist(), strict=True):
            row.next_id = next_id
            row.position += made
            row.sampling.counter += made
        return ids[:made].tolist(), log_probs[:made].tolist()


class _SamplingArrays:
    def __init__(self, states: Sequence[SamplingState]) -> None:
        self.seeds = np.array([state.seed for state in states], dtype=np.int64)
        self.counters = np.array([state.counter for state in states], dtype=np.int64)
        self.temperatures = np.array([state.temperature for state in states], dtype=np.float32)
