"""Step 1: a GPT from scratch on plain text, next-token prediction (Radford et al. 2018, 2019)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trine.config.text import ModelShape, PretrainConfig
from trine.data.baselines import verbatim_line_share, xz_bits_per_byte
from trine.data.corpus import Corpus, load_corpus
from trine.data.shards import Shard, Windows, make_shard
from trine.model.config import ModelConfig, gpt2_config, qwen3_config
from trine.model.folder import save_model
from trine.model.transformer import Transformer, initialize
from trine.records import Term
from trine.runtime.device import Hardware
from trine.runtime.distributed import World, open_world
from trine.runtime.errors import TrineError
from trine.runtime.files import sha256_of, write_folder
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed, seed_torch
from trine.stages.language_modelling import LanguageModelLoss, Rows, measured_effort, shared_loss_sum, whole_model
from trine.stages.opening import open_hardware
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.loop import Loop, StepObjective
from trine.training.optimizers import make_optimizers
from trine.training.parallel import Parallel, parallelise
from trine.training.run_folder import RunFolder, fingerprint, open_run

EVALUATION_ROWS = 32


def model_config(shape: ModelShape, vocab_size: int) -> ModelConfig:
    """The `ModelConfig` a `ModelShape` stands for."""
    make = gpt2_config if shape.family == "gpt2" else qwen3_config
    return make(vocab_size, shape.context, shape.layers, shape.width, shape.heads)


def step_count(config: PretrainConfig) -> int:
    return max(1, config.tokens // (config.batch_rows * config.row_tokens))


class PretrainObjective(StepObjective):
    """Next-token cross-entropy over windows of a shard; evaluation in bits per byte."""

    name = "pretrain"

    def __init__(
        self, parallel: Parallel, windows: Windows, held_out: dict[str, Shard], config: PretrainConfig
    ) -> None:
        """`parallel.module` is a `LanguageModelLoss`, wrapped for several processes or not."""
        assert parallel.module is not None
        self.module, self.world = parallel.module, parallel.world
        self.windows, self.held_out, self.config = windows, held_out, config
        self.first, self.count = self.world.share(config.batch_rows, "batch_rows")

    def batches(self, step: int) -> Sequence[Rows]:
        rows = self.windows.rows(step * self.config.batch_rows + self.first, self.count)
        return [self._rows(part) for part in rows.split(self.config.micro_batch_rows)]

    def _rows(self, windows: Tensor) -> Rows:
        return Rows.of_windows(windows.to(self.world.device))

    def counts(self, batch: Rows) -> dict[str, float]:
        return {"cross_entropy": batch.count}

    def terms(self, batch: Rows) -> dict[str, Term]:
        return {"cross_entropy": Term(batch.loss_sum(self.module), batch.count)}

    def identity(self, step: int) -> dict[str, Any]:
        first = step * self.config.batch_rows
        return {"first_row": first, "rows": self.config.batch_rows, "epoch": first // self.windows.count}

    def evaluate(self, final: bool) -> dict[str, Any]:
        budget = None if final else self.config.evaluation_tokens
        return {f"bits_per_byte/{name}": self._bits_per_byte(shard, budget) for name, shard in self.held_out.items()}

    def _bits_per_byte(self, shard: Shard, budget: int | None) -> float:
        """Bits the model spends on the text behind the first `budget` tokens, per UTF-8 byte of it.

        Bytes are counted as the shard's share of tokens read. Each window starts with nothing before it.
        """
        ids = np.asarray(shard.ids[:budget]).astype(np.int64)
        batches = [self._rows(windows) for windows in _windows(ids, self.config.row_tokens)]
        nats, read = shared_loss_sum(self.module, batches, self.world)
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
    hardware = open_hardware(config.hardware)
    with open_world(hardware.device) as world:
        return run_in(world, config, hardware)


def run_in(world: World, config: PretrainConfig, hardware: Hardware) -> Path:
    """`run` in processes that are connected already."""
    world.share(config.batch_rows, "batch_rows")
    corpus = load_corpus(config.corpus)
    tokenizer = Tokenizer.load(config.tokenizer)
    inputs = {"corpus": corpus.fingerprint, "tokenizer": fingerprint(config.tokenizer)}
    with open_run(config.model_dump(mode="json"), inputs, world) as folder:
        if folder.finished:
            return folder.path
        with world.main_first(f"shards of {folder.path}"):
            shards = make_shards(folder.path / "shards", corpus, tokenizer)
        seed_torch(config.seed)
        shape = model_config(config.model, tokenizer.vocab_size)
        model = Transformer(shape, hardware.compute_dtype)
        initialize(model, derive_seed(config.seed, "initialize"))
        model.to(hardware.device)
        parallel = parallelise(LanguageModelLoss(model), list(model.blocks), world, config.parallel)
        steps = step_count(config)
        size, tokens = shape.parameter_count / 1e6, config.tokens / 1e6
        say(f"pretrain: {size:.1f}M parameters, {tokens:.2f}M tokens in {steps} steps")
        windows = Windows(shards["train"].ids, config.row_tokens, derive_seed(config.seed, "windows"))
        held_out = {name: shard for name, shard in shards.items() if name != "train"}
        objective = PretrainObjective(parallel, windows, held_out, config)
        optimizers = make_optimizers(model.named_parameters(), config.optimizer, shape, hardware.compute_dtype, world)
        results = Loop(
            objective, model, optimizers, steps, (config.loop, config.optimizer), folder,
            parallel=parallel, watch_spikes=True, effort=measured_effort(shape, config.row_tokens, hardware, world),
        ).train()  # fmt: skip
        whole = whole_model(model)
        with world.main_first(f"model of {folder.path}"):
            if world.is_main:
                _save(folder, whole, tokenizer)
                folder.finish(
                    results
                    | _baselines(corpus)
                    | {"parameters": shape.parameter_count, "tokens": steps * config.batch_rows * config.row_tokens}
                    | {"corpus": corpus.description, "epochs": steps * config.batch_rows / windows.count}
                )
    return folder.path


def _save(folder: RunFolder, model: Transformer, tokenizer: Tokenizer) -> None:
    def fill(aside: Path) -> None:
        save_model(model, aside, eos_token_id=tokenizer.end_of_text, pad_token_id=tokenizer.pad)
        tokenizer.save(aside)

    write_folder(folder.path / "model", fill)


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
