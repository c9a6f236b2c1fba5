"""Training rows as people read them: token by token, what is trained and what is not, and where packed examples begin.

The faults of fine-tuning are silent: a wrong mask, or an end of the turn that is never trained, show only here.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.text import Text

from trine.data.packing import PackedExamples
from trine.records import TokenSpan
from trine.runtime.files import write_jsonl
from trine.runtime.launch import launch
from trine.stages.finetuning.examples import Examples
from trine.tokenizer.tokenizer import Tokenizer

ROWS = "rows.jsonl"
KEPT_ROWS = 3
TRAINED, CONTEXT, BOUNDARY = "bold green", "dim", "yellow"


@dataclass(frozen=True)
class ShownExample:
    """One example of a row: where it comes from, its tokens as text, and whether each is trained."""

    place: str
    tokens: tuple[str, ...]
    trained: tuple[bool, ...]


@dataclass(frozen=True)
class ShownRow:
    """Row number `row` (from 1) of the `of` rows of the first epoch, and how many tokens it has room for."""

    row: int
    of: int
    room: int
    examples: tuple[ShownExample, ...]

    @property
    def words(self) -> str:
        filled = sum(len(example.tokens) for example in self.examples)
        trained = sum(sum(example.trained) for example in self.examples)
        count = len(self.examples)
        return (
            f"row {self.row} of {self.of}: {count} example{'s' * (count > 1)}, {filled} of {self.room} tokens filled, "
            f"{trained} trained"
        )


def first_rows(examples: Examples, packed: PackedExamples, tokenizer: Tokenizer, count: int) -> list[ShownRow]:
    """The first rows that training reads, at most an epoch of them."""

    def shown(item: int) -> ShownExample:
        return shown_example(examples.places[item], examples.spans[item], tokenizer)

    rows = range(min(count, packed.rows_per_epoch))
    return [
        ShownRow(row + 1, packed.rows_per_epoch, packed.row_tokens, tuple(shown(item) for item in packed.row(row)))
        for row in rows
    ]


def shown_example(place: str, span: TokenSpan, tokenizer: Tokenizer) -> ShownExample:
    """A span of tokens as it is shown, of which nothing predicts the first."""
    trained = (False, *span.trained[1:])
    return ShownExample(place, tuple(token_text(tokenizer, each) for each in span.ids), trained)


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    r"""A token's own text; bytes that are no characters by themselves as \xe6."""
    return tokenizer.token_bytes[token_id].decode("utf-8", "backslashreplace")


def write_rows(path: Path, examples: Examples, packed: PackedExamples, tokenizer: Tokenizer) -> None:
    """Write the first rows as JSON Lines, for the report."""
    write_jsonl(path, [asdict(row) for row in first_rows(examples, packed, tokenizer, KEPT_ROWS)])


def print_rows(rows: Sequence[ShownRow]) -> None:
    """Print rows on standard output: trained tokens in colour, or, where there is no colour, in ⟦ ⟧.

    Of several processes only the main one prints.
    """
    if launch().rank:
        return
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, markup=False)
    coloured = console.color_system is not None
    trained = "in this colour" if coloured else "in ⟦ ⟧"
    console.print(
        Text.assemble("Trained tokens are ", (trained, TRAINED), "; tokens are divided by |, ↵ is a line break.")
    )
    for row in rows:
        console.print(Text(f"\n{row.words}", style="bold"))
        for example in row.examples:
            console.print(Text(f"── {example.place} ──", style=BOUNDARY))
            console.print(_text(example, coloured))


def _text(example: ShownExample, coloured: bool) -> Text:
    text = Text()
    for token, trained, divided in _with_dividers(example):
        shown = token.replace("\n", "↵\n")
        text.append(shown if coloured or not trained else f"⟦{shown}⟧", style=TRAINED if trained else CONTEXT)
        text.append("|" if divided else "", style=CONTEXT)
    return text


def _with_dividers(example: ShownExample) -> Iterator[tuple[str, bool, bool]]:
    """(token, whether it is trained, whether a divider follows): none after a line break or the last token."""
    pairs = list(zip(example.tokens, example.trained, strict=True))
    for (token, trained), _ in pairwise(pairs):
        yield token, trained, not token.endswith("\n")
    yield (*pairs[-1], False)
