"""GPT-1: a linear head on a generatively pretrained model, with language modelling beside it (Radford et al. 2018).

    trine finetune --task classify --model runs/base --examples reviews.jsonl --held_out_share 0.1 --held_out_by movie

Start, delimiter and extract are new tokens; `model/classifier.py` has the inputs of the four tasks, and
`task_objective.py` the loss. The result is a `...ForSequenceClassification` that `transformers` opens, with a tokenizer
that writes the new tokens around one text or two, and a reward for PPO.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trine.catalog.loading import open_tokenizer
from trine.catalog.locating import is_hub_data_set
from trine.config.finetuning import FinetuneConfig
from trine.data.data_sets import data_set_records
from trine.data.task_examples import are_scores, divided, label_names, read_task_examples, task_examples_of
from trine.model.classifier import TaskModel, TaskSettings, TaskTokens, reading_ids
from trine.model.folder import save_task_model
from trine.model.lora import merge_lora
from trine.model.training_library import training_library
from trine.model.transformer import Transformer
from trine.records import TaskExample, TokenSpan
from trine.runtime.distributed import World
from trine.runtime.errors import TrineError
from trine.runtime.progress import progress_bar, say
from trine.stages.finetuning.accuracies import (
    THIS,
    accuracy,
    against,
    baselines,
    right_of_run,
    rows_of_run,
    words_of,
    write_predictions,
)
from trine.stages.finetuning.shown_rows import print_rows
from trine.stages.finetuning.shown_tasks import first_task_rows
from trine.stages.finetuning.task_objective import Encoded, TaskLoss, TaskObjective
from trine.stages.finetuning.task_scores import ScoreScale, correlations, in_words, scale_of, write_scores
from trine.stages.finetuning.task_tokens import open_grown, train_named_rows
from trine.tokenizer.growth import with_special_tokens, with_template
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.parallel import is_sharded, parallelise, whole_weights
from trine.training.stage_run import StageRun, stage_run

TOKENS = TaskTokens()
OPTION = ("option",)
"""the one label of a choice: its logit says how well an option fits"""
SCORE = ("score",)
"""the one label of a similarity that is given as a number: its logit is that number, standardised"""


@dataclass(frozen=True)
class Prepared:
    """Examples that fit a row, the same as tokens, and how many had to be cut or were dropped."""

    examples: list[TaskExample]
    encoded: Encoded
    cut: int
    dropped: int


def run(config: FinetuneConfig) -> Path:
    """Train a head; with `config.show` the first rows are printed instead, and nothing is written."""
    if not config.show:
        return _train(config)
    tokenizer = with_special_tokens(open_tokenizer(config.model, config.adapter)[0], TOKENS.names)
    train, held_out = read_both(config)
    labels = labels_of(config, train, held_out)
    prepared = prepare(train, tokenizer, target_of(labels, train), config)
    say(f"finetune: {words_on(prepared, labels)}")
    print_rows(first_task_rows(prepared.examples, prepared.encoded, tokenizer, config, config.show))
    return config.out


@stage_run("model", "adapter", "examples", "held_out", "compare_with", several_processes=True)
def _train(config: FinetuneConfig, stage: StageRun) -> dict[str, Any]:
    """Train a head; write `model/` as a sequence classifier, and `predictions.jsonl` of the held-out examples."""
    world = stage.world
    check_processes(config, world)
    with world.main_first(f"examples of {stage.path}"):
        train, held_out = read_both(config)
    labels = labels_of(config, train, held_out)
    with world.main_first(f"opening of {stage.path}"):
        trunk, tokenizer = open_grown(config, stage, TOKENS.names)
        if stage.hardware.device.type == "cpu":
            training_library()
    if config.row_tokens > trunk.config.context:
        raise TrineError(f"row_tokens={config.row_tokens} is longer than the model's context, {trunk.config.context}")
    target = target_of(labels, train)
    prepared, tests = (prepare(examples, tokenizer, target, config) for examples in (train, held_out))
    if config.compare_with is not None:
        rows_of_run(config.compare_with, tests.examples)  # said before hours of training
    model = with_head(trunk, labels, config, tokenizer).to(stage.hardware.device)
    steps = max(1, round(config.epochs * len(prepared.examples) / config.batch_size))
    say(f"finetune: {words_on(prepared, labels)}, {len(tests.examples)} held out; {steps} steps")
    module = TaskLoss(model, language_modelling=config.auxiliary_weight > 0)
    parallel = parallelise(module, list(trunk.blocks), world, config.parallel)
    objective = TaskObjective(parallel, prepared.encoded, tests.encoded, config)
    results = stage.train(config, objective, model, trunk.config, steps, parallel)
    whole = whole_task_model(model)
    with world.main_first(f"model of {stage.path}"):
        if world.is_main:
            write(config, stage, whole, tokenizer)
            results |= evaluated(config, stage.path, prepared, tests, labels, objective.predicted, target)
    scale = {"scores_were": asdict(target)} if isinstance(target, ScoreScale) else {}
    return results | described(config, prepared, tests, labels) | scale


def write(config: FinetuneConfig, stage: StageRun, model: TaskModel, tokenizer: Tokenizer) -> None:
    """Write the classifier, adapters merged in."""
    merge_lora(model)
    kept = with_template(tokenizer, *template_of(TOKENS), truncation_side=config.truncation_side)
    stage.write_model("model", kept, lambda folder: save_task_model(model, folder, pad_token_id=tokenizer.pad))


def check_processes(config: FinetuneConfig, world: World) -> None:
    """Raise `TrineError` for what several processes cannot do."""
    world.share(config.batch_size, "batch_size")
    if world.size > 1 and config.parallel == "fsdp" and (config.trains == "head" or config.lora.rank):
        raise TrineError(
            "parallel=fsdp shards the embeddings, of which trains=head and adapters train the new rows alone; take "
            "parallel=ddp"
        )


def whole_task_model(model: TaskModel) -> TaskModel:
    """`model` as one process uses it: itself, or one on the CPU with all weights where it is sharded."""
    if not any(is_sharded(parameter) for parameter in model.parameters()):
        return model
    copy = TaskModel(Transformer(model.trunk.config, model.trunk.compute_dtype), model.settings)
    copy.load_state_dict(whole_weights(model))
    return copy


def read_both(config: FinetuneConfig) -> tuple[list[TaskExample], list[TaskExample]]:
    """The examples to train on and those to evaluate on. Raises `TrineError` where there is nothing to train on."""
    examples = _read(config.examples, config, config.dataset.split)
    held_out: list[TaskExample] = []
    if config.held_out is not None:
        held_out = _read(config.held_out, config, config.dataset.held_out_split)
    elif config.held_out_share:
        examples, held_out = divided(examples, config.held_out_share)
    if not examples:
        raise TrineError(f"{config.examples} holds no examples to train on")
    if config.compare_with is not None and not held_out:
        raise TrineError("compare_with needs held-out examples: give held_out or held_out_share")
    return examples, held_out


def _read(source: Path, config: FinetuneConfig, split: str) -> list[TaskExample]:
    assert config.task is not None
    # A field to hold out by is needed in what is divided only.
    held_out_by = config.held_out_by if config.held_out is None else None
    if is_hub_data_set(source):
        records = data_set_records(str(source), config.dataset.configuration, split)
        return task_examples_of(records, config.task, held_out_by)
    return read_task_examples(source, config.task, held_out_by)


def labels_of(config: FinetuneConfig, train: Sequence[TaskExample], held_out: Sequence[TaskExample]) -> tuple[str, ...]:
    """The labels to learn; raises `TrineError` unless there are some to tell apart, the held-out ones among them."""
    if config.task == "choose":
        return OPTION
    if config.task == "similar" and are_scores([*train, *held_out]):
        return SCORE
    labels = tuple(label_names(train))
    if len(labels) < 2:
        raise TrineError(f"{config.examples}: every example has the label {labels[0]!r}; there is nothing to learn")
    unknown = next((example for example in held_out if example.label not in labels), None)
    if unknown is not None:
        raise TrineError(
            f"{unknown.name}: the held-out label {unknown.label!r} is none of those that are trained, "
            f"{', '.join(labels):.200}"
        )
    return labels


def with_head(trunk: Transformer, labels: Sequence[str], config: FinetuneConfig, tokenizer: Tokenizer) -> TaskModel:
    """`trunk` with a new head, and those parameters trainable that `config.trains` says."""
    assert config.task is not None
    if config.trains == "head":
        trunk.requires_grad_(False)
        train_named_rows(trunk, tokenizer, TOKENS.names)
    if not trunk.config.tied_embeddings and not config.auxiliary_weight:
        trunk.head.requires_grad_(False)  # the output table, which labels do not use
    model = TaskModel(trunk, TaskSettings(config.task, tuple(labels), TOKENS))
    model.initialize_head(config.seed)
    return model


def prepare(
    examples: Sequence[TaskExample], tokenizer: Tokenizer, target: Callable[[str], float], config: FinetuneConfig
) -> Prepared:
    """`examples` as readings of at most `row_tokens` tokens; those that are too long as `too_long` says.

    `target` makes of a label what the head learns.
    """
    tokens = [tokenizer.special[name] for name in TOKENS.names]
    kept: list[TaskExample] = []
    encoded, cut, dropped = Encoded([], []), 0, 0
    with progress_bar("encoding", len(examples)) as bar:
        for example in examples:
            readings = [[tokenizer.encode(text) for text in texts] for texts in example.readings]
            longest = max(sum(map(len, texts)) + len(texts) + 1 for texts in readings)
            if longest > config.row_tokens:
                _refuse_if_asked(example, longest, config)
                cut, dropped = cut + (config.too_long == "cut"), dropped + (config.too_long == "drop")
            if longest <= config.row_tokens or config.too_long == "cut":
                kept.append(example)
                spans = [reading_ids(tokens, texts, config.row_tokens, config.truncation_side) for texts in readings]
                encoded.readings.append([TokenSpan(tuple(ids), tuple(of_text)) for ids, of_text in spans])
                encoded.labels.append(target(example.label))
            bar.advance_or_stop()
    if examples and not kept:
        raise TrineError(f"every example is longer than row_tokens={config.row_tokens}, and was dropped; raise it")
    return Prepared(kept, encoded, cut, dropped)


def target_of(labels: Sequence[str], train: Sequence[TaskExample]) -> Callable[[str], float]:
    """What makes of a label what the head learns: its place, or the score in deviations from the mean of `train`."""
    if labels == OPTION:
        return int
    return scale_of(train) if labels == SCORE else labels.index


def _refuse_if_asked(example: TaskExample, length: int, config: FinetuneConfig) -> None:
    if config.too_long == "stop" or config.row_tokens < 5:
        raise TrineError(
            f"{example.name}: the example has {length} tokens with start and extract, more than "
            f"row_tokens={config.row_tokens}; raise that, or say too_long=cut or too_long=drop"
        )


def template_of(tokens: TaskTokens) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """One text and two, as the post-processor of a tokenizer.json writes them."""
    return (tokens.start, "$A", tokens.extract), (tokens.start, "$A", tokens.delimiter, "$B", tokens.extract)


def words_on(prepared: Prepared, labels: Sequence[str]) -> str:
    """How many examples of each label there are, and what was done to the long ones."""
    counts = Counter(example.label for example in prepared.examples)
    each = "" if labels in (OPTION, SCORE) else f" ({', '.join(f'{counts[name]} {name}' for name in labels):.200})"
    cut = f", {prepared.cut} cut at row_tokens" if prepared.cut else ""
    return f"{len(prepared.examples)} examples{each}{cut}" + (
        f", {prepared.dropped} dropped" if prepared.dropped else ""
    )


def described(config: FinetuneConfig, prepared: Prepared, tests: Prepared, labels: Sequence[str]) -> dict[str, Any]:
    """What done.json says of the examples."""
    counts = Counter(example.label for example in prepared.examples)
    return {
        "task": config.task,
        "trains": config.trains,
        "auxiliary_weight": config.auxiliary_weight,
        "labels": {} if labels == SCORE else {n: counts[n] for n in (sorted(counts) if labels == OPTION else labels)},
        "examples": len(prepared.examples),
        "cut": prepared.cut,
        "dropped": prepared.dropped,
        "held_out_examples": len(tests.examples),
        "held_out_cut": tests.cut,
        "held_out_dropped": tests.dropped,
    }


def evaluated(
    config: FinetuneConfig,
    folder: Path,
    prepared: Prepared,
    tests: Prepared,
    labels: Sequence[str],
    predicted: Sequence[Sequence[float]],
    target: Callable[[str], float],
) -> dict[str, Any]:
    """Print and return the accuracies on the held-out examples, those of the baselines and of `compare_with` beside; of
    scores, the correlations."""
    if not tests.examples:
        return {}
    if isinstance(target, ScoreScale):
        scores = [target.original(row[0]) for row in predicted]
        write_scores(folder, tests.examples, scores)
        found = correlations(tests.examples, scores, config.compare_with, config.seed)
        sys.stdout.write(in_words(found))
        return {"correlations": found}
    right = write_predictions(folder, tests.examples, labels, predicted)
    others = baselines(prepared.examples, tests.examples, str(config.task))
    if config.compare_with is not None:
        name, theirs = right_of_run(config.compare_with, tests.examples)
        others = {name: theirs} | others
    figures = {THIS: accuracy(right)} | {name: against(right, other) for name, other in others.items()}
    sys.stdout.write(words_of(figures))
    return {"accuracies": figures}
