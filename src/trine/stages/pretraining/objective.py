"""What pretraining minimises: next-token cross-entropy over rows of a shard; on held-out text, bits per byte."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trine.config.text import PretrainConfig
from trine.data.loading import Prefetcher
from trine.data.rows import Batch, RowSampler, window_batch
from trine.data.shards import Shard
from trine.records import Term
from trine.stages.language_modelling import loss_sum, shared_loss_sum
from trine.training.objective import StepObjective
from trine.training.parallel import Parallel

EVALUATION_ROWS = 32


def step_count(config: PretrainConfig, rows_per_epoch: float | None = None) -> int | None:
    """Optimizer steps of the horizon: `tokens`, or `epochs` over the rows of one pass (None until they are known)."""
    if config.epochs is None:
        return max(1, config.tokens // (config.batch_size * config.row_tokens))
    return None if rows_per_epoch is None else max(1, round(config.epochs * rows_per_epoch / config.batch_size))


class PretrainObjective(StepObjective):
    """Batches made ahead by a thread of their own, which ends with the final evaluation or with `close`.

    Of several processes each trains its part of a step's rows; figures are of all of them. `on_evaluation` is called
    before each evaluation, in every process.
    """

    name = "pretrain"

    def __init__(
        self,
        parallel: Parallel,
        sampler: RowSampler,
        held_out: dict[str, Shard],
        config: PretrainConfig,
        steps: int,
        end_of_text: int,
    ) -> None:
        """`parallel.module` is a `LanguageModelLoss`, wrapped for several processes or not."""
        assert parallel.module is not None
        self.module, self.world = parallel.module, parallel.world
        self.sampler, self.held_out, self.config, self.end_of_text = sampler, held_out, config, end_of_text
        self.first, self.rows = self.world.share(config.batch_size, "batch_size")
        self.on_evaluation: Callable[[], None] = lambda: None
        self.trained_tokens = 0.0
        self._loader = Prefetcher(self._micro_batches, end=steps)
        self._began, self._waited, self._tokens = 0.0, 0.0, 0.0

    def _micro_batches(self, step: int) -> list[Batch]:
        start = step * self.config.batch_size + self.first
        return self.sampler.rows(start, self.rows).split(self.config.micro_batch_size)

    def batches(self, step: int) -> Sequence[Batch]:
        self._began, before = time.perf_counter(), self._loader.waiting_seconds
        batches = self._loader.get(step)
        self._waited = self._loader.waiting_seconds - before
        self._tokens = self.world.all_reduce_sum({"tokens": sum(batch.count for batch in batches)})["tokens"]
        return [batch.to(self.world.device) for batch in batches]

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"cross_entropy": batch.count}

    def terms(self, batch: Batch) -> dict[str, Term]:
        return {"cross_entropy": Term(loss_sum(self.module, batch))}

    def describe_batch(self, step: int) -> dict[str, Any]:
        first = step * self.config.batch_size
        rows = self.sampler.order.indices(first, self.config.batch_size).tolist()
        return {"first_place": first, "rows": rows, "epoch": int(self.sampler.order.epochs(first))}

    def evaluate(self, final: bool) -> dict[str, Any]:
        if final:
            self.close()
        self.on_evaluation()
        budget = None if final else self.config.evaluation_tokens
        return {f"bits_per_byte/{name}": self._bits_per_byte(shard, budget) for name, shard in self.held_out.items()}

    def _bits_per_byte(self, shard: Shard, budget: int | None) -> float:
        """Bits the model spends on the text behind the first `budget` tokens, per UTF-8 byte of it.

        Bytes are counted as the shard's share of tokens read. Each window starts with nothing before it; so does each
        document, unless training let documents run into each other.
        """
        apart = None if self.config.packing == "stream" else self.end_of_text
        windows = HeldOutWindows(shard.ids[:budget], self.config.row_tokens, apart, self.world.device)
        nats, read = shared_loss_sum(self.module, windows, self.world)
        return nats / math.log(2) / (shard.bytes * read / len(shard.ids))

    def observations(self, taken: bool = True) -> dict[str, float]:
        """`loader_share`: how much of the step was spent waiting for its batch."""
        if not taken:
            return {}
        self.trained_tokens += self._tokens
        share = self._waited / max(time.perf_counter() - self._began, 1e-9)
        return {"tokens": self._tokens, "loader_share": share}

    def state(self) -> dict[str, Any]:
        """The data position is the step; what was trained so far is kept for the report."""
        return {"trained_tokens": self.trained_tokens}

    def restore(self, state: dict[str, Any]) -> None:
        self.trained_tokens = state["trained_tokens"]

    def close(self) -> None:
        """End the thread that makes batches ahead."""
        self._loader.close()


class HeldOutWindows(Sequence[Batch]):
    """All of `ids` as windows of T + 1 tokens, some at a time, each batch made when it is asked for.

    With `end_of_text`, attention and positions restart behind each such token, and what follows it is no target.
    """

    def __init__(
        self, ids: NDArray[np.integer[Any]], length: int, end_of_text: int | None, device: torch.device
    ) -> None:
        self.ids, self.length, self.end_of_text, self.device = ids, length, end_of_text, device
        whole = (len(ids) - 1) // length
        self.firsts = [
            (start * length, min(EVALUATION_ROWS, whole - start)) for start in range(0, whole, EVALUATION_ROWS)
        ]
        if (len(ids) - 1) % length:
            self.firsts.append((whole * length, 0))  # the shorter rest, as a row of its own

    def __len__(self) -> int:
        return len(self.firsts)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        first, rows = self.firsts[index]
        if rows:
            windows = self.ids[first + np.arange(rows)[:, None] * self.length + np.arange(self.length + 1)]
        else:
            windows = self.ids[None, first:]
        batch = window_batch(torch.from_numpy(windows.astype(np.int64)))
        return (batch if self.end_of_text is None else documents_apart(batch, self.end_of_text)).to(self.device)


def documents_apart(batch: Batch, end_of_text: int) -> Batch:
    """`batch` with `positions` and `starts` that restart after every end-of-text token, which predicts nothing."""
    places = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    ends = batch.ids == end_of_text
    behind = torch.where(ends, places + 1, 0).cummax(1).values  # where what follows this token begins
    starts = torch.cat((torch.zeros_like(behind[:, :1]), behind[:, :-1]), 1)
    weights = batch.weights.masked_fill(ends, 0.0)
    return replace(batch, weights=weights, count=float(weights.sum()), positions=places - starts, starts=starts)
