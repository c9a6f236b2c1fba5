"""Fine-tuning with new special tokens: a model whose vocabulary has grown, and texts with task tokens as rows."""

from collections.abc import Sequence
from pathlib import Path

from trine.catalog.adapters import begin_lora
from trine.config.finetuning import FinetuneConfig
from trine.data.task_texts import read_task_texts
from trine.model.growth import grow_vocabulary, train_rows
from trine.model.transformer import Transformer
from trine.records import TokenSpan
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.tokenizer.growth import with_special_tokens
from trine.tokenizer.task_format import task_span
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.stage_run import StageRun


def open_grown(config: FinetuneConfig, stage: StageRun, names: Sequence[str]) -> tuple[Transformer, Tokenizer]:
    """The model to train and its tokenizer, both with the special tokens `names`.

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
    if config.lora.rank:
        train_named_rows(model, tokenizer, names)
    return model, tokenizer


def train_named_rows(model: Transformer, tokenizer: Tokenizer, names: Sequence[str]) -> None:
    """Let a frozen `model` learn the rows of `names`, in the embeddings and in the output table where it has one."""
    rows = [tokenizer.special[name] for name in names]
    train_rows(model.embedding.weight, rows)
    if not model.config.tied_embeddings:
        train_rows(model.head.weight, rows)


def task_spans(path: Path, tokenizer: Tokenizer, config: FinetuneConfig) -> list[TokenSpan]:
    """The records of `path` as token spans; raises `TrineError` naming the first that is longer than a row."""
    texts = read_task_texts(path, config.task_tokens)
    if not texts:
        raise TrineError(f"{path} holds no examples")
    spans = [task_span(tokenizer, text) for text in texts]
    for number, span in enumerate(spans, 1):
        if len(span.ids) > config.row_tokens:
            raise TrineError(
                f"{path}, record {number}: it has {len(span.ids)} tokens, more than row_tokens={config.row_tokens}; "
                "shorten it or raise row_tokens"
            )
    return spans
