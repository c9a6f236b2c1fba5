"""The plain runner: PyTorch's own operations, on any device; the reference the fast ones are held to.

New tokens are padded to a rectangle. Keys and values lie in pages of one tensor per layer; a row's are gathered
through its list of pages. Padding is written to page 0, which nobody reads; where a list of pages is padded it repeats
the row's own first page, and a page is cleared before its first slot is written: a masked NaN would still be one.
Shapes: B rows, T new tokens, S positions, K key/value heads, d head_dim.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trine.algorithms.text_log_probs import target_log_probs
from trine.engine.memory import large_zeros
from trine.engine.pages import PAGE
from trine.engine.runner import Chunk, DecodeRow, SamplingState
from trine.engine.sampling import sample as sample_tokens
from trine.model.config import ModelConfig
from trine.model.transformer import Linear, Transformer


class PagedCache:
    """A `KeyValueCache` over pages: `set_targets` names the slots and page tables of the next call."""

    def __init__(self, config: ModelConfig, pages: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (2 * config.layers, pages + 1, PAGE, config.kv_heads, config.head_dim)
        self._room = _zeros(shape, dtype, device)
        self.keys, self.values = self._room[::2], self._room[1::2]  # by layer

    def clear(self, pages: Tensor) -> None:
        """Forget what `pages` [n] hold."""
        self._room.index_fill_(1, pages.to(self._room.device), 0)

    def set_targets(self, tables: Tensor, positions: Tensor, real: Tensor | None = None) -> None:
        """`tables` [B, pages of a row]; `positions` [B, T] of the tokens; `real` [B, T]: which are not padding.

        Without `real` all are real, and their pages cleared before they were begun.
        """
        device = self._room.device
        page, slot = tables.gather(1, positions // PAGE), positions % PAGE
        if real is not None:
            page = torch.where(real, page, 0)
            self.clear(page[real & (slot == 0)])
        self.tables, self.page, self.slot = tables.to(device), page.to(device), slot.to(device)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, K, T, d]; return all keys and values of the rows, [B, K, S, d]."""
        return self._extended(self.keys[layer], key), self._extended(self.values[layer], value)

    def _extended(self, pages: Tensor, new: Tensor) -> Tensor:
        pages[self.page, self.slot] = new.transpose(1, 2)
        return self._gather(pages)

    def _gather(self, pages: Tensor) -> Tensor:
        return pages[self.tables].flatten(1, 2).transpose(1, 2)


def _rectangles(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """The chunks, in order (a later one may read an earlier one's pages), cut so that padding at most doubles them."""
    cut: list[list[Chunk]] = []
    longest = real = 0
    for chunk in chunks:
        longest, real = max(longest, len(chunk.ids)), real + len(chunk.ids)
        if not cut or longest * (len(cut[-1]) + 1) > 2 * real:
            cut.append([])
            longest = real = len(chunk.ids)
        cut[-1].append(chunk)
    return cut


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On a CPU in memory that is taken when it is first touched: most of a cache never is."""
    if device.type == "cpu":
        return large_zeros(math.prod(shape), dtype).view(shape)
    return torch.zeros(shape, dtype=dtype, device=device)


class TorchRunner:
    """Runs weights of the shape of `model`, where it lies and in its compute dtype."""

    kept_in_compute_dtype: tuple[type[nn.Module], ...] = (Linear,)
    """Modules whose weights are cast once, here, rather than where they are used: the numbers are the same."""

    def __init__(self, model: Transformer, pages: int) -> None:
        self.device = model.output_weight.device
        with torch.device("meta"):
            self.model = Transformer(model.config, model.compute_dtype).requires_grad_(False)
        self.cache = PagedCache(model.config, pages, model.compute_dtype, self.device)
        self.logits = torch.empty(0)

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        dtype = self.model.compute_dtype
        of_these = {name for name, each in self.model.named_modules() if isinstance(each, self.kept_in_compute_dtype)}
        cast = {
            name: weight.to(self.device, dtype if name.rpartition(".")[0] in of_these else weight.dtype, copy=True)
            for name, weight in weights.items()
        }
        # Of tied tables keeping fewer bits rounds the output's copy only.
        output = cast.pop("head.weight") if self.model.config.tied_embeddings and "head.weight" in cast else None
        self.model.load_state_dict(cast, assign=True)
        self.output_weight = self.model.output_weight.to(dtype) if output is None else output.to(dtype)

    @torch.no_grad()
    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        logits = F.linear(self._wanted(chunks), self.output_weight)
        self.logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return self.logits

    def log_probs(self, chunks: Sequence[Chunk], targets: Sequence[int], temperature: float) -> list[float]:
        following = torch.tensor(targets, device=self.device)
        return target_log_probs(self._wanted(chunks), self.output_weight, following, temperature).tolist()

    @torch.no_grad()
    def _wanted(self, chunks: Sequence[Chunk]) -> Tensor:
        """Hidden states [wanted tokens, D]."""
        return torch.cat([self._wanted_of(rectangle) for rectangle in _rectangles(chunks)])

    def _wanted_of(self, chunks: Sequence[Chunk]) -> Tensor:
        longest, max_pages = max(len(chunk.ids) for chunk in chunks), max(len(chunk.pages) for chunk in chunks)
        ids = torch.zeros(len(chunks), longest, dtype=torch.int64)
        tables = torch.zeros(len(chunks), max_pages, dtype=torch.int64)
        for row, chunk in enumerate(chunks):
            ids[row, : len(chunk.ids)] = torch.tensor(chunk.ids)
            used = torch.from_numpy(chunk.pages[: (chunk.start + len(chunk.ids) - 1) // PAGE + 1])
            tables[row] = used[0]
            tables[row, : len(used)] = used
        counts = torch.tensor([len(chunk.ids) for chunk in chunks])
        starts = torch.tensor([chunk.start for chunk in chunks])
        wanted = [
            (row, column)
            for row, chunk in enumerate(chunks)
            for column in range(len(chunk.ids) - chunk.wanted, len(chunk.ids))
        ]
        indices = torch.tensor(wanted, dtype=torch.int64).view(-1, 2).to(self.device)
        return self._hidden(ids, tables, counts, starts)[indices[:, 0], indices[:, 1]]

    def _hidden(self, ids: Tensor, tables: Tensor, counts: Tensor, starts: Tensor) -> Tensor:
        offsets = torch.arange(ids.shape[1])
        real = offsets < counts.unsqueeze(1)
        # Padding takes the position of its row's last token, so that every look-up stays in range.
        positions = starts.unsqueeze(1) + torch.minimum(offsets, counts.unsqueeze(1) - 1)
        tables = tables[:, : int(positions.max()) // PAGE + 1]
        seen = torch.arange(tables.shape[1] * PAGE) <= positions.unsqueeze(2)  # B, T, S
        bias = torch.zeros(seen.shape, dtype=self.model.compute_dtype).masked_fill_(~seen, float("-inf"))
        self.cache.set_targets(tables, positions, real)
        positions, bias = positions.to(self.device), bias.to(self.device)
        return self.model(ids.to(self.device), positions=positions, bias=bias, cache=self.cache)

    def sample(self, rows: Sequence[int], states: Sequence[SamplingState]) -> tuple[list[int], list[float]]:
        temperatures = torch.tensor([state.temperature for state in states], device=self.device)
        seeds = torch.tensor([state.seed for state in states], device=self.device)
        counters = torch.tensor([state.counter for state in states], device=self.device)
        ids, log_probs = sample_tokens(
            self.logits[torch.tensor(rows, device=self.device)], temperatures, seeds, counters
        )
        return ids.tolist(), log_probs.tolist()

    def decode(self, rows: Sequence[DecodeRow], steps: int) -> tuple[list[list[int]], list[list[float]]]:
        all_ids: list[list[int]] = []
        all_log_probs: list[list[float]] = []
        for _ in range(steps):
            self.forward([Chunk(row.pages, [row.next_id], row.position) for row in rows])
            ids, log_probs = self.sample(range(len(rows)), [row.sampling for row in rows])
            all_ids.append(ids)
            all_log_probs.append(log_probs)
            for row, new_id in zip(rows, ids, strict=True):
                row.next_id = new_id
                row.position += 1
                row.sampling.counter += 1
            if stops(rows, ids):
                break
        return all_ids, all_log_probs


def stops(rows: Sequence[DecodeRow], ids: Sequence[int]) -> bool:
    """Whether by these new ids a row ends, or is damaged."""
    return any(new_id < 0 or new_id in row.ends for row, new_id in zip(rows, ids, strict=True))
