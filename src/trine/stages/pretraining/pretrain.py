"""Step 1: a GPT from scratch on plain text, next-token prediction (Radford et al. 2018, 2019)."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from trine.catalog.loading import open_hardware
from trine.catalog.publishing import check_publishing, push_model
from trine.config.text import ModelShape, PretrainConfig
from trine.data.baselines import verbatim_line_share, xz_bits_per_byte
from trine.data.corpus import open_corpus
from trine.data.rows import RowSampler, open_sampler
from trine.data.shards import Shard, Shards
from trine.model.config import ModelConfig, gpt2_config, qwen3_config
from trine.model.folder import save_model
from trine.model.training_library import training_library
from trine.model.transformer import Transformer, initialize
from trine.records import Document
from trine.runtime.device import Hardware
from trine.runtime.distributed import World, open_world
from trine.runtime.errors import TrineError
from trine.runtime.files import write_folder
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed, seed_torch
from trine.runtime.signals import stop_request
from trine.stages.language_modelling import LanguageModelLoss, measured_effort, whole_model
from trine.stages.pretraining.objective import PretrainObjective, step_count
from trine.stages.pretraining.samples import complete
from trine.stages.pretraining.shards import encode_corpus, open_shards, shards_fingerprint
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.inputs import tokenizer_fingerprint
from trine.training.loop import Loop
from trine.training.optimizers import make_optimizers
from trine.training.parallel import parallelise
from trine.training.run_folder import RunFolder, open_run


def model_config(shape: ModelShape, vocab_size: int) -> ModelConfig:
    """The `ModelConfig` a `ModelShape` stands for."""
    make = gpt2_config if shape.family == "gpt2" else qwen3_config
    return make(vocab_size, shape.context, shape.layers, shape.width, shape.heads)


def run(config: PretrainConfig) -> Path:
    """Pretrain and write `model/` in Hugging Face form."""
    if config.row_tokens > config.model.context:
        raise TrineError(f"row_tokens={config.row_tokens} is longer than model.context={config.model.context}")
    if config.push_to_hub is not None:
        check_publishing(config.push_to_hub)
    hardware = open_hardware(config.hardware)
    with open_world(hardware.device) as world:
        return run_in(world, config, hardware)


def run_in(world: World, config: PretrainConfig, hardware: Hardware) -> Path:
    """`run` in processes that are connected already."""
    world.share(config.batch_size, "batch_size")
    tokenizer = Tokenizer.load(config.tokenizer)
    inputs, get_shards = _text(config, tokenizer)
    with open_run(config, inputs, world, hardware) as folder:
        if not folder.finished:
            _make(config, hardware, world, get_shards, tokenizer, folder)
    if config.push_to_hub is not None:
        with world.main_first(f"push of {folder.path}"):
            if world.is_main:
                push_model(folder.path, config.push_to_hub, private=config.push_private)
    return folder.path


def _make(
    config: PretrainConfig, hardware: Hardware, world: World, get_shards: "GetShards",
    tokenizer: Tokenizer, folder: RunFolder,
) -> None:  # fmt: skip
    """Fill the run folder."""
    with world.main_first(f"shards of {folder.path}"):
        shards = get_shards(folder.path / "shards", world)
    with world.main_first(f"rows of {folder.path}"):
        sampler = open_sampler(
            shards.train, config.packing, config.row_tokens, derive_seed(config.seed, "windows"), shards.weights,
            tokenizer.end_of_text,
        )  # fmt: skip
    model, results = _train(config, hardware, world, shards, sampler, tokenizer, folder)
    with world.main_first(f"model of {folder.path}"):
        if world.is_main:
            _save(folder, model, tokenizer)
            folder.finish(results | baselines(shards, tokenizer) | {"corpus": shards.overview} | shards.contents)


GetShards = Callable[[Path, World], Shards]
"""The shards, given a folder to make them in, which only the main process does: the others open what it made."""


def _text(config: PretrainConfig, tokenizer: Tokenizer) -> tuple[dict[str, str], GetShards]:
    """What the run depends on besides its config, and how to get the shards."""
    inputs = {"tokenizer": tokenizer_fingerprint(tokenizer)}
    made = config.shards
    if made is not None:
        shards = open_shards(made, tokenizer)
        return inputs | {"shards": shards_fingerprint(shards)}, lambda folder, world: shards
    corpus = open_corpus(config.corpus)

    def get(folder: Path, world: World) -> Shards:
        if world.is_main:
            return encode_corpus(folder, corpus, tokenizer, config.hardware)
        return Shards(folder, tuple(source.weight for source in corpus.sources))

    return inputs | {"corpus": corpus.fingerprint}, get


def _train(
    config: PretrainConfig, hardware: Hardware, world: World, shards: Shards, sampler: RowSampler, tokenizer: Tokenizer,
    folder: RunFolder,
) -> tuple[Transformer, dict[str, Any]]:  # fmt: skip
    """Train a new model on the shards; returns it, whole, and the results."""
    seed_torch(config.seed)
    shape = model_config(config.model, tokenizer.vocab_size)
    model = Transformer(shape, hardware.compute_dtype)
    initialize(model, derive_seed(config.seed, "initialize"))
    model.to(hardware.device)
    model.recompute_blocks = config.recompute_blocks
    compiled = config.compile == "on" or (config.compile == "auto" and hardware.device.type == "cuda")
    module = LanguageModelLoss(model, compiled=compiled)
    if hardware.device.type == "cpu":
        with world.main_first(f"native operations of {folder.path}"):  # one process compiles, the others find it made
            training_library()
    parallel = parallelise(module, list(model.blocks), world, config.parallel)
    steps = step_count(config, sampler.order.rows_per_epoch)
    assert steps is not None
    tokens = steps * config.batch_size * config.row_tokens
    say(f"pretrain: {shape.parameter_count / 1e6:.1f}M parameters, {tokens / 1e6:.2f}M tokens in {steps} steps")
    optimizers = make_optimizers(model.named_parameters(), config.optimizer, shape, hardware.compute_dtype, world)
    effort = measured_effort(shape, config.row_tokens, hardware, world)
    place = parallel, sampler, shards.held_out
    with closing(PretrainObjective(*place, config, steps, tokenizer.end_of_text)) as objective:
        objective.on_evaluation = lambda: _write_samples(model, tokenizer, config, world, folder)
        loop = Loop(
            objective, model, optimizers, steps, (config.loop, config.optimizer), folder,
            parallel=parallel, watch_spikes=True, effort=effort,
        )  # fmt: skip
        results = loop.train()
    return whole_model(model), results | {
        "parameters": shape.parameter_count,
        "tokens": int(objective.trained_tokens),
        "epochs": sampler.order.epochs(steps * config.batch_size),
        "dropped_share": sampler.source.dropped_share,
        "padded_share": sampler.source.padded_share,
    }


def _write_samples(
    model: Transformer, tokenizer: Tokenizer, config: PretrainConfig, world: World, folder: RunFolder
) -> None:
    """What the model goes on with now, to samples.jsonl."""
    whole = whole_model(model)
    if world.is_main:
        folder.log_samples(complete(whole, tokenizer, config.sample_prompts, config.sample_tokens))


def _save(folder: RunFolder, model: Transformer, tokenizer: Tokenizer) -> None:
    def fill(aside: Path) -> None:
        save_model(model, aside, eos_token_id=tokenizer.end_of_text, pad_token_id=tokenizer.pad)
        tokenizer.save(aside)

    write_folder(folder.path / "model", fill)


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
        stop_request.check()
        text = b"".join(map(table.__getitem__, ids.tolist())).decode("utf-8", "replace")
        yield Document(text, str(number), shard.folder.name, group=str(number))
