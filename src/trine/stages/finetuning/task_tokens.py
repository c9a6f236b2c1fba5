"""Fine-tuning with new special tokens: a model whose vocabulary has grown, and texts with task tokens as rows."""

from collections.abc import Sequence

from trine.catalog.adapters import begin_lora
from trine.catalog.loading import open_tokenizer
from trine.config.finetuning import FinetuneConfig
from trine.data.sources import is_held_out
from trine.data.task_texts import read_task_texts
from trine.model.growth import grow_vocabulary, train_rows
from trine.model.transformer import Transformer
from trine.records import TaskText
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.stages.finetuning.examples import TOO_LONG, Examples
from trine.tokenizer.growth import with_special_tokens
from trine.tokenizer.task_format import task_span
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.stage_run import StageRun


def open_grown(config: FinetuneConfig, stage: StageRun, names: Sequence[str]) -> tuple[Transformer, Tokenizer]:
    """The model to train and its tokenizer, both with the special tokens `names`, if any.

    Tokens that the model has already keep what they have learned. With adapters, the rows of `names` are trained beside
    them, and no other row.
    """
    model, old = stage.open_model(config.model, config.adapter)
    tokenizer = with_special_tokens(old, names)
    new = [name for name in names if name not in old.special]
    if new:
        grow_vocabulary(model, old.vocab_size, len(new), config.seed)
        say(f"finetune: {len(new)} new tokens: {', '.join(new)}")
    begin_lora(model, config.lora, config.seed)
    if names and config.lora.rank:
        train_named_rows(model, tokenizer, names)
    return model, tokenizer


def train_named_rows(model: Transformer, tokenizer: Tokenizer, names: Sequence[str]) -> None:
    """Let a frozen `model` learn the rows of `names`, in the embeddings and in the output table where it has one."""
    rows = [tokenizer.special[name] for name in names]
    train_rows(model.embedding.weight, rows)
    if not model.config.tied_embeddings:
        train_rows(model.head.weight, rows)


def open_task_tokenizer(config: FinetuneConfig) -> Tokenizer:
    """The model's tokenizer with the task tokens; `TrineError` where a row is longer than the model's context."""
    tokenizer, context = open_tokenizer(config.model, config.adapter)
    if config.row_tokens > context:
        raise TrineError(f"row_tokens={config.row_tokens} is longer than the model's context, {context}")
    return with_special_tokens(tokenizer, config.task_tokens)


def read_task_spans(config: FinetuneConfig, tokenizer: Tokenizer) -> tuple[Examples, Examples | None]:
    """The texts to train on and those to evaluate on, as token spans."""
    texts = read_task_texts(config.examples, config.task_tokens)
    held_out = read_task_texts(config.held_out, config.task_tokens) if config.held_out else []
    if config.held_out_share and config.held_out is None:
        parts: tuple[list[TaskText], list[TaskText]] = ([], [])
        for text in texts:
            parts[is_held_out(text.parts[0][1], config.held_out_share)].append(text)
        texts, held_out = parts
    examples = _fitting(texts, tokenizer, config)
    if not examples.spans:
        raise TrineError(f"{config.examples} holds no examples to train on")
    return examples, _fitting(held_out, tokenizer, config) if held_out else None


def _fitting(texts: Sequence[TaskText], tokenizer: Tokenizer, config: FinetuneConfig) -> Examples:
    """Spans of at most a row; a text has nothing that could be cut, so one that is too long is dropped, or an error."""
    spans, places, dropped = [], [], 0
    for text in texts:
        span = task_span(tokenizer, text)
        if len(span.ids) <= config.row_tokens:
            spans.append(span)
            places.append(text.place)
        elif config.too_long == "stop":
            raise TrineError(
                f"{text.place}: the example has {len(span.ids)} tokens, more than row_tokens={config.row_tokens}; "
                "shorten it or raise row_tokens, or leave out what is too long: too_long=drop"
            )
        else:
            dropped += 1
    account = {"records": len(texts), "forms": {"texts with task tokens": len(texts)}, "kept": len(spans), "cut": {}}
    return Examples(spans, places, account | {"dropped": {TOO_LONG: dropped} if dropped else {}})
