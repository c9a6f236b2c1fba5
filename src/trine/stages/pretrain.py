"""Step 1: a GPT from scratch on plain text, next-token prediction (Radford et al. 2018, 2019)."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trine.algorithms.log_probs import cross_entropy_sum
from trine.config.text import ModelShape, PretrainConfig
from trine.data.baselines import verbatim_line_share, xz_bits_per_byte
from trine.data.corpus import Corpus, load_corpus
from trine.data.shards import Shard, Windows, make_shard
from trine.model.config import ModelConfig, gpt2_config, qwen3_config
from trine.model.folder import save_model
from trine.model.transformer import Transformer, initialize
from trine.records import Term
from trine.runtime.errors import TrineError
from trine.runtime.files import sha256_of, write_folder
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed, seed_torch
from trine.stages.completions import complete
from trine.stages.opening import open_hardware
from trine.stages.publishing import check_publishing, push_model
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.loop import Loop, StepObjective
from trine.training.optimizers import make_optimizers
from trine.training.run_folder import fingerprint, open_run

EVALUATION_ROWS = 32


def model_config(shape: ModelShape, vocab_size: int) -> ModelConfig:
    """The `ModelConfig` a `ModelShape` stands for."""
    make = gpt2_config if shape.family == "gpt2" else qwen3_config
    return make(vocab_size, shape.context, shape.layers, shape.width, shape.heads)


def step_count(config: PretrainConfig, rows: int | None = None) -> int | None:
    """Optimizer steps of the horizon: `tokens`, or `epochs` over the `rows` of one pass (None until they are known)."""
    if config.epochs is None:
        return max(1, config.tokens // (config.batch_rows * config.row_tokens))
    return None if rows is None else max(1, round(config.epochs * rows / config.batch_rows))


class PretrainObjective(StepObjective):
    """Next-token cross-entropy over windows of a shard; evaluation in bits per byte."""

    name = "pretrain"

    def __init__(
        self, model: Transformer, windows: Windows, held_out: dict[str, Shard], config: PretrainConfig
    ) -> None:
        self.model, self.windows, self.held_out, self.config = model, windows, held_out, config
        self.device = model.output_weight.device
        self.on_evaluation: Callable[[], None] = lambda: None

    def batches(self, step: int) -> Sequence[Tensor]:
        rows = self.windows.rows(step * self.config.batch_rows, self.config.batch_rows)
        return rows.to(self.device).split(self.config.micro_batch_rows)

    def counts(self, batch: Tensor) -> dict[str, float]:
        return {"cross_entropy": float(batch[:, 1:].numel())}

    def terms(self, batch: Tensor) -> dict[str, Term]:
        return {"cross_entropy": Term(self._sum(batch), float(batch[:, 1:].numel()))}

    def _sum(self, rows: Tensor) -> Tensor:
        hidden = self.model(rows[:, :-1]).flatten(0, 1)
        targets = rows[:, 1:].flatten()
        ones = torch.ones(len(targets), device=self.device)
        return cross_entropy_sum(hidden, self.model.output_weight, targets, ones)

    def evaluate(self, final: bool) -> dict[str, Any]:
        self.on_evaluation()
        budget = None if final else self.config.evaluation_tokens
        return {f"bits_per_byte/{name}": self._bits_per_byte(shard, budget) for name, shard in self.held_out.items()}

    def _bits_per_byte(self, shard: Shard, budget: int | None) -> float:
        """Bits the model spends on the text behind the first `budget` tokens, per UTF-8 byte of it.

        Bytes are counted as the shard's share of tokens read. Each window starts with nothing before it.
        """
        ids = np.asarray(shard.ids[:budget]).astype(np.int64)
        nats, read = 0.0, 0
        for rows in _windows(ids, self.config.row_tokens):
            nats += float(self._sum(rows.to(self.device)))
            read += rows[:, 1:].numel()
        return nats / math.log(2) / (shard.bytes * read / len(shard.ids))

    def observations(self) -> dict[str, float]:
        return {"tokens": float(self.config.batch_rows * self.config.row_tokens)}


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
    if config.push_to_hub is not None:
        check_publishing(config.push_to_hub)
    hardware = open_hardware(config.hardware)
    corpus = load_corpus(config.corpus)
    tokenizer = Tokenizer.load(config.tokenizer)
    inputs = {"corpus": corpus.fingerprint, "tokenizer": fingerprint(config.tokenizer)}
    with open_run(config.model_dump(mode="json"), inputs) as folder:
        if folder.finished:
            return folder.path
        shards = make_shards(folder.path / "shards", corpus, tokenizer)
        seed_torch(config.seed)
        shape = model_config(config.model, tokenizer.vocab_size)
        model = Transformer(shape, hardware.compute_dtype)
        initialize(model, derive_seed(config.seed, "initialize"))
        model.to(hardware.device)
        windows = Windows(shards["train"].ids, config.row_tokens, derive_seed(config.seed, "windows"))
        steps = step_count(config, windows.count)
        assert steps is not None
        size, tokens = shape.parameter_count / 1e6, steps * config.batch_rows * config.row_tokens / 1e6
        say(f"pretrain: {size:.1f}M parameters, {tokens:.2f}M tokens in {steps} steps")
        held_out = {name: shard for name, shard in shards.items() if name != "train"}
        objective = PretrainObjective(model, windows, held_out, config)
        objective.on_evaluation = lambda: folder.log_samples(
            complete(model, tokenizer, config.sample_prompts, config.sample_tokens)
        )
        optimizers = make_optimizers(model.named_parameters(), config.optimizer, shape, hardware.compute_dtype)
        results = Loop(objective, model, optimizers, steps, (config.loop, config.optimizer), folder).train()

        def fill(aside: Path) -> None:
            save_model(model, aside, eos_token_id=tokenizer.end_of_text, pad_token_id=tokenizer.pad)
            tokenizer.save(aside)

        write_folder(folder.path / "model", fill)
        folder.finish(
            results
            | _baselines(corpus)
            | {"parameters": shape.parameter_count, "tokens": steps * config.batch_rows * config.row_tokens}
            | {"corpus": corpus.description, "epochs": steps * config.batch_rows / windows.count}
        )
    if config.push_to_hub is not None:
        push_model(folder.path, config.push_to_hub, private=config.push_private)
    return folder.path


def make_shards(folder: Path, corpus: Corpus, tokenizer: Tokenizer) -> dict[str, Shard]:
    """The training shard (`train`) and one shard per held-out part."""
    folder.mkdir(exist_ok=True)
    parts = {"train": corpus.train, **corpus.held_out_parts()}
    return {
        name: make_shard(
            folder / name, documents, tokenizer.encode_batch, tokenizer.end_of_text, tokenizer.vocab_size,
            sha256_of(corpus.fingerprint, tokenizer.fingerprint, name),
        )
        for name, documents in parts.items()
    }  # fmt: skip


def _baselines(corpus: Corpus) -> dict[str, float]:
    """What the held-out figures stand beside: xz -9 on the same bytes, and lines known word for word."""
    results: dict[str, float] = {}
    for name, documents in corpus.held_out_parts().items():
        results[f"xz_bits_per_byte/{name}"] = xz_bits_per_byte(documents)
        results[f"verbatim_line_share/{name}"] = verbatim_line_share(documents, corpus.train)
    return results
