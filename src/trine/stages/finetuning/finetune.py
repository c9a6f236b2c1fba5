"""Step 2: fine-tune on conversations (Radford et al. 2018; Ouyang et al. 2022), packed several to a row.

The loss is the mean cross-entropy of the answers' tokens over the whole step; `prompt_weight` counts the other tokens
too. Packed examples do not see each other. One process or several train the same (DDP, FSDP2).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trine.catalog.adapters import finish_lora
from trine.catalog.loading import open_tokenizer
from trine.config.finetuning import FinetuneConfig
from trine.data.packing import PackedExamples, fit_rows, pack
from trine.data.rows import Batch
from trine.model.folder import save_model
from trine.model.lora import merge_lora
from trine.model.training_library import training_library
from trine.model.transformer import Transformer
from trine.records import Term, TokenSpan
from trine.runtime.errors import TrineError
from trine.runtime.json_object import read_text
from trine.runtime.progress import say
from trine.stages.finetuning import classify
from trine.stages.finetuning.examples import Examples, read_examples_of
from trine.stages.finetuning.shown_rows import ROWS, first_rows, print_rows, write_rows
from trine.stages.finetuning.task_tokens import open_grown, open_task_tokenizer, read_task_spans
from trine.stages.finetuning.watched_tasks import WatchedTasks
from trine.stages.language_modelling import LanguageModelLoss, loss_sum, shared_loss_sum, whole_model
from trine.tokenizer.chat_format import Chat, format_to_learn
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.objective import StepObjective
from trine.training.parallel import Parallel, parallelise
from trine.training.stage_run import StageRun, stage_run


class FinetuneObjective(StepObjective):
    """Cross-entropy of answers, in nats per answer token. Of several processes each trains its share of the rows.

    `on_evaluation` is called at every evaluation, in every process, with whether it is the final one; the figures that
    it returns are logged beside the held-out loss.
    """

    name = "finetune"

    def __init__(
        self, parallel: Parallel, packed: PackedExamples, held_out: list[TokenSpan], config: FinetuneConfig
    ) -> None:
        """`parallel.module` is a `LanguageModelLoss`, wrapped for several processes or not."""
        assert parallel.module is not None
        self.module, self.world = parallel.module, parallel.world
        self.packed, self.held_out, self.config = packed, held_out, config
        self.first, self.rows = self.world.share(config.batch_size, "batch_size")
        self.on_evaluation: Callable[[bool], dict[str, Any]] = lambda final: {}

    def batches(self, step: int) -> Sequence[Batch]:
        start = step * self.config.batch_size + self.first
        rows = [self.packed.row(index) for index in range(start, start + self.rows)]
        return self._pack(self.packed.spans, rows, self.config.prompt_weight)

    def _pack(self, spans: list[TokenSpan], rows: list[list[int]], prompt_weight: float) -> list[Batch]:
        """Micro-batches of the rows."""
        batch = pack(spans, rows, self.config.row_tokens, prompt_weight).to(self.world.device)
        return batch.split(self.config.micro_batch_size)

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"cross_entropy": batch.count}

    def terms(self, batch: Batch) -> dict[str, Term]:
        return {"cross_entropy": Term(loss_sum(self.module, batch))}

    def describe_batch(self, step: int) -> dict[str, Any]:
        first = step * self.config.batch_size
        rows = [self.packed.row(index) for index in range(first, first + self.config.batch_size)]
        return {"epoch": first // self.packed.rows_per_epoch, "examples": rows}

    def evaluate(self, final: bool) -> dict[str, Any]:
        return self._held_out_figures() | self.on_evaluation(final)

    def _held_out_figures(self) -> dict[str, Any]:
        if not self.held_out:
            return {}
        rows = fit_rows([len(span.ids) for span in self.held_out], self.config.row_tokens)
        nats, count = shared_loss_sum(self.module, self._pack(self.held_out, rows, 0.0), self.world)
        return {"held_out_cross_entropy": nats / max(count, 1.0)}


@stage_run("model", "adapter", "examples", "held_out", "chat_template", several_processes=True)
def _train(config: FinetuneConfig, stage: StageRun) -> dict[str, Any]:
    world = stage.world
    world.share(config.batch_size, "batch_size")
    with world.main_first(f"examples of {stage.path}"):  # the main process downloads, the others find it there
        tokenizer, end_ids, examples, held_out = open_examples(config)
    say(f"finetune: {examples.words}")
    with world.main_first(f"opening of {stage.path}"):
        model = open_grown(config, stage, config.task_tokens)[0]
        if stage.hardware.device.type == "cpu":
            training_library()
    packed = PackedExamples(examples.spans, config.row_tokens, config.seed)
    steps = max(1, round(config.epochs * packed.rows_per_epoch / config.batch_size))
    padding = f"{packed.padding_share:.1%} padding"
    say(f"finetune: {len(examples.spans)} examples in {packed.rows_per_epoch} rows ({padding}), {steps} steps")
    parallel = parallelise(LanguageModelLoss(model), list(model.blocks), world, config.parallel)
    objective = FinetuneObjective(parallel, packed, held_out.spans if held_out else [], config)
    watched = WatchedTasks(config, stage, model, tokenizer, end_ids)
    objective.on_evaluation = watched
    results = stage.train(config, objective, model, model.config, steps, parallel)
    whole = whole_model(model)
    with world.main_first(f"model of {stage.path}"):
        if world.is_main:
            write_rows(stage.path / ROWS, examples, packed, tokenizer)
            _write(config, stage, whole, tokenizer, end_ids)
    accounts = {"train": examples.account} | ({"held_out": held_out.account} if held_out else {})
    kept = {"best": best} if (best := watched.best()) else {}
    counted = {"examples": len(examples.spans), "padding_share": packed.padding_share, "account": accounts}
    return results | counted | kept


def _write(
    config: FinetuneConfig, stage: StageRun, model: Transformer, tokenizer: Tokenizer, end_ids: Sequence[int]
) -> None:
    if config.task_tokens:
        merge_lora(model)  # an adapter alone has no rows for the new tokens
    else:
        finish_lora(model, stage.path / "adapter", config.model, config.adapter)
    stage.write_model(
        "model",
        tokenizer,
        lambda folder: save_model(model, folder, eos_token_id=list(end_ids), pad_token_id=tokenizer.pad),
    )


def run(config: FinetuneConfig) -> Path:
    """Fine-tune; write `model/` in Hugging Face form, LoRA adapters merged in, and those as `adapter/`.

    With `config.task` a head is trained in place of answers (`classify.py`). With `config.show` the first rows are
    printed instead, and nothing is written.
    """
    if config.task is not None:
        return classify.run(config)
    if not config.show:
        return _train(config)
    tokenizer, _, examples, _ = open_examples(config)
    packed = PackedExamples(examples.spans, config.row_tokens, config.seed)
    say(f"finetune: {examples.words}")
    print_rows(first_rows(examples, packed, tokenizer, config.show))
    return config.out


def open_examples(config: FinetuneConfig) -> tuple[Tokenizer, Sequence[int], Examples, Examples | None]:
    """The tokenizer to save, its end tokens, the examples to train on and those to evaluate on."""
    if config.task_tokens:
        tokenizer = open_task_tokenizer(config)
        return tokenizer, tokenizer.stop_ids, *read_task_spans(config, tokenizer)
    chat = open_chat(config)
    return chat.tokenizer, chat.end_ids, *read_examples_of(config, chat)


def open_chat(config: FinetuneConfig) -> Chat:
    """The chat format to train on; raises `TrineError` where a row is longer than the model's context."""
    tokenizer, context = open_tokenizer(config.model, config.adapter)
    if config.row_tokens > context:
        raise TrineError(f"row_tokens={config.row_tokens} is longer than the model's context, {context}")
    if config.chat_template is None:
        return format_to_learn(tokenizer)
    try:
        return format_to_learn(tokenizer.with_chat_template(read_text(config.chat_template)))
    except TrineError as error:
        raise TrineError(f"chat_template={config.chat_template}: {error}") from error
