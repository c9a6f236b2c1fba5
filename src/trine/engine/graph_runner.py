"""The runner of GPUs: a decoding step, from ids to sampled ids, is one CUDA graph that is captured once and replayed.

A step of a small model is some two hundred kernels of a few microseconds each; launched one by one they take several
times as long as they run. A graph knows addresses and shapes, not values, so everything that a step reads lies in
`StepBuffers`, new weights are copied over the old ones, and rows and pages are rounded up to powers of two: a graph for
each pair that occurs. A row that is none reads and writes page 0, which belongs to nobody. Pages that a row will begin
during a call are cleared before it, so that no slot is read that its row has not written (torch_runner.py).

On other devices the same step runs without being captured, which is how it is tested where there is no GPU. Prompts,
whose shapes never repeat, are read by the plain runner. Shapes: B rows, P pages of a row, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trine.engine.pages import PAGE
from trine.engine.runner import Chunk, DecodeRow, SamplingState
from trine.engine.sampling import sample as sample_tokens
from trine.engine.torch_runner import TorchRunner, stops
from trine.model.rope import rotary_frequencies
from trine.model.transformer import Linear, Norm, Transformer

WARM_UPS = 2  # before a capture, so that libraries have their workspaces and handles


@dataclass(frozen=True)
class RowState:
    """What a step has to know of a row: the pages it reads, the next id to read and its position, how to sample."""

    pages: NDArray[np.int32]
    next_id: int
    position: int
    sampling: SamplingState


class StepBuffers:
    """The memory that captured steps of B rows read and write."""

    def __init__(self, rows: int, pages: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> None:
        self.ids, self.positions = (torch.zeros(rows, 1, dtype=torch.int64, device=device) for _ in range(2))
        self.tables = torch.zeros(rows, pages, dtype=torch.int64, device=device)
        self.seeds, self.counters, self.sampled = (
            torch.zeros(rows, dtype=torch.int64, device=device) for _ in range(3)
        )
        self.temperatures, self.log_probs = (torch.zeros(rows, device=device) for _ in range(2))
        self.logits = torch.zeros(rows, vocabulary, dtype=dtype, device=device)

    def fill(self, rows: Sequence[RowState]) -> None:
        """Put `rows` first; behind them come rows that are none: id 0 at position 0 of page 0, greedy."""
        missing = len(self.ids) - len(rows)
        tables = torch.zeros(self.tables.shape, dtype=torch.int64)
        for table, row in zip(tables, rows, strict=False):
            table[:] = int(row.pages[0])
            table[: len(row.pages)] = torch.from_numpy(row.pages)
        self.tables.copy_(tables)
        for buffer, values in (
            (self.ids, [row.next_id for row in rows]),
            (self.positions, [row.position for row in rows]),
            (self.temperatures, [row.sampling.temperature for row in rows]),
            (self.seeds, [row.sampling.seed for row in rows]),
            (self.counters, [row.sampling.counter for row in rows]),
        ):
            buffer.copy_(torch.tensor(values + [0] * missing, dtype=buffer.dtype).view(buffer.shape))


class GraphRunner(TorchRunner):
    """`TorchRunner` whose steps of one token a row are captured.

    >>> runner = GraphRunner(model, pages=64)
    >>> runner.load(plain_weights(model))
    >>> logits = runner.forward([Chunk(np.array([1], dtype=np.int32), [3], start=0)])  # [1, V]
    """

    kept_in_compute_dtype = (Linear, Norm)

    def __init__(self, model: Transformer, pages: int) -> None:
        super().__init__(model, pages)
        config = model.config
        self._pages_of_context = -(-config.context // PAGE)
        self._places = torch.arange(self._pages_of_context * PAGE, device=self.device)
        self._buffers: dict[int, StepBuffers] = {}
        self._steps: dict[tuple[int, int], Callable[[], None]] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        if config.position != "learned":
            self._frequencies = rotary_frequencies(config, self.device)  # graphs read them: they have to stay

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over `weights` in the memory of those before, which captured steps read."""
        before = self._loaded()
        super().load(weights)
        if not before:
            return
        for name, new in self._loaded().items():
            before[name].copy_(new)
        self.output_weight = before.pop("")
        self.model.load_state_dict(before, assign=True)

    def _loaded(self) -> dict[str, Tensor]:
        """All weights by name, the output table's copy as ""; nothing before the first `load`."""
        return {**self.model.state_dict(), "": self.output_weight} if hasattr(self, "output_weight") else {}

    @torch.no_grad()
    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """One token of every chunk by a captured step (what it samples is not looked at); else as the plain runner."""
        if any(len(chunk.ids) != 1 or not chunk.wanted for chunk in chunks):
            return super().forward(chunks)
        greedy = SamplingState(temperature=0.0, seed=0)
        states = [
            RowState(chunk.pages[: chunk.start // PAGE + 1], chunk.ids[0], chunk.start, greedy) for chunk in chunks
        ]
        buffers, step = self._begin(states)
        step()
        self.logits = buffers.logits[: len(chunks)]
        return self.logits

    @torch.no_grad()
    def decode(self, rows: Sequence[DecodeRow], steps: int) -> tuple[list[list[int]], list[list[float]]]:
        """Ids are fetched once, behind the last step, where no row has an end; else after each, so as to stop."""
        states = [
            RowState(row.pages[: (row.position + steps - 1) // PAGE + 1], row.next_id, row.position, row.sampling)
            for row in rows
        ]
        buffers, step = self._begin(states)
        may_end = any(len(row.ends) for row in rows)
        made: list[tuple[Tensor, Tensor]] = []
        for _ in range(steps):
            step()
            made.append((buffers.sampled[: len(rows)].clone(), buffers.log_probs[: len(rows)].clone()))
            if may_end and stops(rows, made[-1][0].tolist()):
                break
        all_ids, all_log_probs = (torch.stack(parts).tolist() for parts in zip(*made, strict=True))
        count = next((number for number, ids in enumerate(all_ids, 1) if stops(rows, ids)), len(all_ids))
        for row, new_id in zip(rows, all_ids[count - 1], strict=True):
            row.next_id = new_id
            row.position += count
            row.sampling.counter += count
        return all_ids[:count], all_log_probs[:count]

    def _begin(self, rows: Sequence[RowState]) -> tuple[StepBuffers, Callable[[], None]]:
        """The buffers with `rows` in them, and the step that moves these on by one token."""
        begun = np.concatenate([row.pages[-(-row.position // PAGE) :] for row in rows])
        self.cache.clear(torch.from_numpy(begun.astype(np.int64)))
        longest = max(len(row.pages) for row in rows)
        count, pages = _power_of_two(len(rows)), min(_power_of_two(longest), self._pages_of_context)
        if count not in self._buffers:
            dtype = torch.promote_types(self.model.compute_dtype, torch.float32)
            shape = count, self._pages_of_context, self.model.config.vocab_size
            self._buffers[count] = StepBuffers(*shape, dtype, self.device)
        buffers = self._buffers[count]
        if (count, pages) not in self._steps:
            buffers.fill([])
            self._steps[count, pages] = self._captured(lambda: self._step(buffers, pages))
        buffers.fill(rows)
        return buffers, self._steps[count, pages]

    def _captured(self, step: Callable[[], None]) -> Callable[[], None]:
        """`step` as a graph. The graphs share one pool of memory: nothing of a replay is read after the next."""
        if self.device.type != "cuda":
            return step
        with torch.cuda.device(self.device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    step()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # Another thread may use the GPU meanwhile: an engine's worker is one thread of several.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                step()
        return graph.replay

    @torch.no_grad()
    def _step(self, buffers: StepBuffers, pages: int) -> None:
        """Read one id of every row and sample the next; no shape and no branch depends on a value."""
        tables, positions = buffers.tables[:, :pages], buffers.positions
        seen = self._places[: pages * PAGE] <= positions.unsqueeze(2)  # B, 1, S
        bias = torch.zeros(seen.shape, dtype=self.model.compute_dtype, device=self.device)
        bias.masked_fill_(~seen, float("-inf"))
        self.cache.set_targets(tables, positions)
        hidden = self.model(buffers.ids, positions=positions, bias=bias, cache=self.cache)[:, 0]
        buffers.logits.copy_(F.linear(hidden, self.output_weight))
        ids, log_probs = sample_tokens(buffers.logits, buffers.temperatures, buffers.seeds, buffers.counters)
        buffers.sampled.copy_(ids)
        buffers.log_probs.copy_(log_probs)
        buffers.ids.copy_(ids.clamp(min=0).unsqueeze(1))  # -1, of a damaged row, is no id
        buffers.counters.add_(1)
        # Rows that are none begin at 0 and move on too; they have to stay in the table.
        buffers.positions.add_(1).clamp_(max=min(pages * PAGE, self.model.config.context) - 1)


def _power_of_two(count: int) -> int:
    """The smallest that is at least `count`."""
    return 1 << (count - 1).bit_length()
