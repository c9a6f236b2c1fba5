"""Step 2: fine-tune on prompts and answers (Radford et al. 2018; Ouyang et al. 2022), packed several to a row.

The loss is the cross-entropy of the answer's tokens; `prompt_weight` adds GPT-1's auxiliary language-modelling loss
on the prompt's. Packed examples do not see each other.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trine.catalog.adapters import finish_lora
from trine.config.finetuning import FinetuneConfig
from trine.data.files import read_examples
from trine.data.packing import fit_rows, pack
from trine.data.rows import Batch
from trine.model.folder import save_model
from trine.model.lora import merge_lora
from trine.records import Example, Term, TokenSpan
from trine.runtime.distributed import World
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.runtime.seeds import generator_for
from trine.stages.finetuning import classify
from trine.stages.finetuning.task_tokens import open_grown, task_spans
from trine.stages.language_modelling import LanguageModelLoss, loss_sum, shared_loss_sum
from trine.tokenizer.chat_format import Chat, format_to_learn
from trine.training.loop import StepObjective
from trine.training.parallel import Parallel
from trine.training.stage_run import StageRun, stage_run


class PackedExamples:
    """Rows of examples in a seeded order: each epoch packs and orders them anew."""

    def __init__(self, spans: list[TokenSpan], row_tokens: int, seed: int) -> None:
        self.spans, self.row_tokens, self.seed = spans, row_tokens, seed
        self.rows_per_epoch = len(self._fit(0))
        self._epoch, self._rows = -1, [[0]]

    @property
    def padding_share(self) -> float:
        """Share of an epoch's places that no token fills."""
        return 1 - sum(len(span.ids) for span in self.spans) / (self.rows_per_epoch * self.row_tokens)

    def _fit(self, epoch: int) -> list[list[int]]:
        """Every epoch's rows have the same count: fitting depends on lengths; ties and row order on the epoch."""
        order = generator_for(self.seed, "epoch", epoch).permutation(len(self.spans))
        rows = fit_rows([len(self.spans[int(index)].ids) for index in order], self.row_tokens)
        shuffled = generator_for(self.seed, "rows", epoch).permutation(len(rows))
        return [[int(order[item]) for item in rows[int(row)]] for row in shuffled]

    def row(self, index: int) -> list[int]:
        """Row number `index` of the endless sequence."""
        epoch, place = divmod(index, self.rows_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._fit(epoch)
        return self._rows[place]


class FinetuneObjective(StepObjective):
    """Cross-entropy of answers, in nats per answer token. Of several processes each trains its share of the rows."""

    name = "finetune"

    def __init__(
        self, parallel: Parallel, packed: PackedExamples, held_out: list[TokenSpan], config: FinetuneConfig
    ) -> None:
        """`parallel.module` is a `LanguageModelLoss`, wrapped for several processes or not."""
        assert parallel.module is not None
        self.module, self.world = parallel.module, parallel.world
        self.packed, self.held_out, self.config = packed, held_out, config
        self.first, self.rows = self.world.share(config.batch_size, "batch_size")

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
        if not self.held_out:
            return {}
        rows = fit_rows([len(span.ids) for span in self.held_out], self.config.row_tokens)
        nats, count = shared_loss_sum(self.module, self._pack(self.held_out, rows, 0.0), self.world)
        return {"held_out_cross_entropy": nats / max(count, 1.0)}


def render(examples: list[Example], chat: Chat, row_tokens: int, place: Path) -> list[TokenSpan]:
    """Examples as token spans; raises `TrineError` naming the first that is longer than a row."""
    spans = []
    for number, example in enumerate(examples, 1):
        span = chat.example(example.prompt, example.response)
        if len(span.ids) > row_tokens:
            raise TrineError(
                f"{place}:{number}: the example has {len(span.ids)} tokens, more than row_tokens={row_tokens}; "
                "shorten it or raise row_tokens"
            )
        spans.append(span)
    if not spans:
        raise TrineError(f"{place} holds no examples")
    return spans


def run(config: FinetuneConfig) -> Path:
    """Fine-tune on answers, or with `task` a head."""
    return classify.run(config) if config.task is not None else _train(config)


@stage_run("model", "adapter", "examples", "held_out")
def _train(config: FinetuneConfig, stage: StageRun) -> dict[str, Any]:
    """Fine-tune; write `model/` in Hugging Face form, LoRA adapters merged in, and those as `adapter/`."""
    if config.task_tokens:
        model, tokenizer = open_grown(config, stage, config.task_tokens)
        ends = tokenizer.stop_ids
        spans, held_out = _read(config, partial(task_spans, tokenizer=tokenizer, config=config), model.config.context)
    else:
        model, tokenizer = stage.open_trainable(config)
        chat = format_to_learn(tokenizer)
        tokenizer, ends = chat.tokenizer, chat.end_ids
        spans, held_out = _read(config, partial(chat_spans, chat=chat, config=config), model.config.context)
    packed = PackedExamples(spans, config.row_tokens, config.seed)
    steps = max(1, round(config.epochs * packed.rows_per_epoch / config.batch_size))
    padding = f"{packed.padding_share:.1%} padding"
    say(f"finetune: {len(spans)} examples in {packed.rows_per_epoch} rows ({padding}), {steps} steps")
    parallel = Parallel(World(device=stage.hardware.device), LanguageModelLoss(model))
    objective = FinetuneObjective(parallel, packed, held_out, config)
    results = stage.train(config, objective, model, model.config, steps)
    if config.task_tokens:
        merge_lora(model)  # an adapter alone has no rows for the new tokens
    else:
        finish_lora(model, stage.path / "adapter", config.model, config.adapter)
    stage.write_model(
        "model",
        tokenizer,
        lambda folder: save_model(model, folder, eos_token_id=list(ends), pad_token_id=tokenizer.pad),
    )
    return results | {"examples": len(spans), "padding_share": packed.padding_share}


def chat_spans(path: Path, chat: Chat, config: FinetuneConfig) -> list[TokenSpan]:
    """The examples of `path` by the model's chat format."""
    return render(read_examples(path), chat, config.row_tokens, path)


def _read(
    config: FinetuneConfig, spans: Callable[[Path], list[TokenSpan]], context: int
) -> tuple[list[TokenSpan], list[TokenSpan]]:
    """Examples to train on and held-out ones, as token spans."""
    if config.row_tokens > context:
        raise TrineError(f"row_tokens={config.row_tokens} is longer than the model's context, {context}")
    return spans(config.examples), spans(config.held_out) if config.held_out else []
