"""Step 1: a GPT from scratch on plain text, next-token prediction (Radford et al. 2018, 2019)."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trine.algorithms.log_probs import cross_entropy_sum
from trine.config.text import ModelShape, PretrainConfig
from trine.data.baselines import verbatim_line_share, xz_bits_per_byte
from trine.data.corpus import open_corpus
from trine.data.loading import Prefetcher
from trine.data.rows import Batch, RowSampler, open_sampler, window_batch
from trine.data.shards import Shard, Shards
from trine.model.config import ModelConfig, gpt2_config, qwen3_config
from trine.model.folder import save_model
from trine.model.transformer import Transformer, initialize
from trine.records import Document, Term
from trine.runtime.device import Hardware
from trine.runtime.errors import TrineError
from trine.runtime.files import write_folder
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed, seed_torch
from trine.stages.opening import open_hardware
from trine.stages.shards import encode_corpus, open_shards
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.loop import Loop, StepObjective
from trine.training.optimizers import make_optimizers
from trine.training.run_folder import RunFolder, fingerprint, open_run

EVALUATION_ROWS = 32


def model_config(shape: ModelShape, vocab_size: int) -> ModelConfig:
    """The `ModelConfig` a `ModelShape` stands for."""
    make = gpt2_config if shape.family == "gpt2" else qwen3_config
    return make(vocab_size, shape.context, shape.layers, shape.width, shape.heads)


def step_count(config: PretrainConfig) -> int:
    return max(1, config.tokens // (config.batch_rows * config.row_tokens))


class PretrainObjective(StepObjective):
    """Next-token cross-entropy over rows of a shard; evaluation in bits per byte.

    A rank of several trains its part of each step's rows. The thread that makes batches ahead ends with the last step,
    with the final evaluation, or with `close`.
    """

    name = "pretrain"

    def __init__(
        self,
        model: Transformer,
        sampler: RowSampler,
        held_out: dict[str, Shard],
        config: PretrainConfig,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.model, self.sampler, self.held_out, self.config = model, sampler, held_out, config
        self.rank, self.rows = rank, config.batch_rows // ranks
        self.device = model.output_weight.device
        self.trained_tokens = 0.0
        self._loader = Prefetcher(self._micro_batches, end=step_count(config))
        self._began, self._waited, self._tokens = 0.0, 0.0, 0.0

    def _micro_batches(self, step: int) -> list[Batch]:
        start = step * self.config.batch_rows + self.rank * self.rows
        return self.sampler.rows(start, self.rows).split(self.config.micro_batch_rows)

    def batches(self, step: int) -> Sequence[Batch]:
        self._began, before = time.perf_counter(), self._loader.waiting_seconds
        batches = self._loader.get(step)
        self._waited = self._loader.waiting_seconds - before
        self._tokens = sum(batch.count for batch in batches)
        self.trained_tokens += self._tokens
        return [batch.to(self.device) for batch in batches]

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"cross_entropy": batch.count}

    def terms(self, batch: Batch) -> dict[str, Term]:
        return {"cross_entropy": Term(self._sum(batch), batch.count)}

    def _sum(self, batch: Batch) -> Tensor:
        hidden = hidden_states(self.model, batch).flatten(0, 1)
        return cross_entropy_sum(hidden, self.model.output_weight, batch.targets.flatten(), batch.weights.flatten())

    def evaluate(self, final: bool) -> dict[str, Any]:
        if final:
            self.close()
        budget = None if final else self.config.evaluation_tokens
        return {f"bits_per_byte/{name}": self._bits_per_byte(shard, budget) for name, shard in self.held_out.items()}

    def _bits_per_byte(self, shard: Shard, budget: int | None) -> float:
        """Bits the model spends on the text behind the first `budget` tokens, per UTF-8 byte of it.

        Bytes are counted as the shard's share of tokens read. Each window starts with nothing before it.
        """
        ids = np.asarray(shard.ids[:budget]).astype(np.int64)
        nats, read = 0.0, 0
        for rows in _windows(ids, self.config.row_tokens):
            nats += float(self._sum(window_batch(rows).to(self.device)))
            read += rows[:, 1:].numel()
        return nats / math.log(2) / (shard.bytes * read / len(shard.ids))

    def observations(self) -> dict[str, float]:
        """`loader_share`: how much of the step was spent waiting for its batch."""
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


def hidden_states(model: Transformer, batch: Batch) -> Tensor:
    """What `model` makes of a batch [R, T, D], attention and positions restarting where the batch says."""
    if batch.starts is None:
        return model(batch.ids)
    return model(batch.ids, positions=batch.positions, bias=batch.bias(model.compute_dtype))


def _windows(ids: np.ndarray, length: int) -> list[Tensor]:  # type: ignore[type-arg]
    """All of `ids` as windows of T + 1 in batches, the shorter rest as a row of its own."""
    whole = (len(ids) - 1) // length
    windows = [torch.from_numpy(ids[start : start + length + 1]) for start in range(0, whole * length, length)]
    batches = [torch.stack(windows[start : start + EVALUATION_ROWS]) for start in range(0, whole, EVALUATION_ROWS)]
    rest = torch.from_numpy(ids[whole * length :]).unsqueeze(0)
    return batches + ([rest] if rest.shape[1] > 1 else [])


def run(config: PretrainConfig) -> Path:
    """Pretrain and write `model/` in Hugging Face form."""
    if config.row_tokens > config.model.context:
        raise TrineError(f"row_tokens={config.row_tokens} is longer than model.context={config.model.context}")
    hardware = open_hardware(config.hardware)
    tokenizer = Tokenizer.load(config.tokenizer)
    inputs, get_shards = _text(config, tokenizer)
    with open_run(config.model_dump(mode="json"), inputs) as folder:
        if folder.finished:
            return folder.path
        shards = get_shards(folder.path / "shards")
        results = _train(config, hardware, shards, tokenizer, folder)
        folder.finish(results | baselines(shards, tokenizer) | {"corpus": shards.summary})
    return folder.path


def _text(config: PretrainConfig, tokenizer: Tokenizer) -> tuple[dict[str, str], Callable[[Path], Shards]]:
    """What the run depends on besides its config, and how to get the shards, given a folder to make them in."""
    inputs = {"tokenizer": fingerprint(config.tokenizer)}
    made = config.shards
    if made is not None:
        return inputs | {"shards": fingerprint(made)}, lambda folder: open_shards(made, tokenizer)
    corpus = open_corpus(config.corpus)
    make = partial(encode_corpus, corpus=corpus, tokenizer=tokenizer, hardware=config.hardware)
    return inputs | {"corpus": corpus.fingerprint}, make


def _train(
    config: PretrainConfig, hardware: Hardware, shards: Shards, tokenizer: Tokenizer, folder: RunFolder
) -> dict[str, Any]:
    """Train a new model on the shards and write it to `model/`; returns the results."""
    seed_torch(config.seed)
    shape = model_config(config.model, tokenizer.vocab_size)
    model = Transformer(shape, hardware.compute_dtype)
    initialize(model, derive_seed(config.seed, "initialize"))
    model.to(hardware.device)
    steps = step_count(config)
    say(f"pretrain: {shape.parameter_count / 1e6:.1f}M parameters, {config.tokens / 1e6:.2f}M tokens in {steps} steps")
    sampler = open_sampler(
        shards.train, config.cutting, config.row_tokens, derive_seed(config.seed, "windows"), shards.weights,
        tokenizer.end_of_text,
    )  # fmt: skip
    optimizers = make_optimizers(model.named_parameters(), config.optimizer, shape, hardware.compute_dtype)
    with closing(PretrainObjective(model, sampler, shards.held_out, config)) as objective:
        results = Loop(objective, model, optimizers, steps, (config.loop, config.optimizer), folder).train()

    def fill(aside: Path) -> None:
        save_model(model, aside, eos_token_id=tokenizer.end_of_text, pad_token_id=tokenizer.pad)
        tokenizer.save(aside)

    write_folder(folder.path / "model", fill)
    return results | {
        "parameters": shape.parameter_count,
        "tokens": int(objective.trained_tokens),
        "epochs": sampler.order.epochs(steps * config.batch_rows),
        "dropped_share": sampler.source.dropped_share,
        "padded_share": sampler.source.padded_share,
    }


def baselines(shards: Shards, tokenizer: Tokenizer) -> dict[str, float]:
    """What the held-out figures stand beside: xz -9 on the same bytes, and lines known word for word."""
    results: dict[str, float] = {}
    for name, shard in shards.held_out.items():
        results[f"xz_bits_per_byte/{name}"] = xz_bits_per_byte(_documents(shard, tokenizer))
        train = _documents(shards.train, tokenizer)
        results[f"verbatim_line_share/{name}"] = verbatim_line_share(_documents(shard, tokenizer), train)
    return results


def _documents(shard: Shard, tokenizer: Tokenizer) -> Iterator[Document]:
    """The documents of a shard, decoded one at a time."""
    table = tokenizer.token_bytes
    for number, ids in enumerate(shard.document_ids()):
        text = b"".join(map(table.__getitem__, ids.tolist())).decode("utf-8", "replace")
        yield Document(text, str(number), shard.folder.name, group=str(number))
