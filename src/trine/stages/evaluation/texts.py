"""Tasks on plain texts: bits per byte, and the next line.

Bits per byte reads a whole text, whatever its length: longer ones than the context in windows that move on by half of
it, so that every token but the first ones is predicted from at least that much. The first token is predicted from BOS,
or without one from the end of a text before.

The next line (as CodeXGLUE and RepoBench have it) is written greedily after all lines before it that fit, the line
break included, since many tokenizers join it with the indentation behind it.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trine.algorithms.text_likelihood import bits_per_byte
from trine.algorithms.text_similarity import edit_similarity
from trine.config.tasks import BitsPerByteConfig, NextLineConfig, TaskConfig
from trine.engine.sampling import Sampling
from trine.runtime.errors import TrineError
from trine.runtime.seeds import generator_for
from trine.stages.evaluation.records import Template, chosen, read_records
from trine.stages.evaluation.task import ItemResult, Metric, Subject, TaskRun

Pair = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Text:
    """One text and the record it is of."""

    item: str
    text: str


def read_texts(name: str, config: TaskConfig, template: str, seed: int) -> list[Text]:
    """The texts of a task that are asked."""
    filled = Template(template, f"{name}: text")
    records = chosen(read_records(Path(str(config.records)), config.where, place=name), config.max_items, seed, name)
    return [Text(record.place, filled.fill(record)) for record in records]


def make_bits_per_byte(name: str, config: BitsPerByteConfig, seed: int) -> "BitsPerByte":
    """The task of a file of kind `bits_per_byte`."""
    return BitsPerByte(name, read_texts(name, config, config.text, seed))


class BitsPerByte:
    """All bits over all bytes of UTF-8: texts weigh as long as they are."""

    metrics = (Metric("bits_per_byte", "mean", "lower", weight="bytes"),)

    def __init__(self, name: str, texts: Sequence[Text]) -> None:
        self.name, self.texts = name, [text for text in texts if text.text]
        self.empty = len(texts) - len(self.texts)
        if not self.texts:
            raise TrineError(f"{name}: all texts are empty")

    def evaluate(self, subject: Subject) -> TaskRun:
        pairs = [list(windows(subject, each.text)) for each in self.texts]
        found = iter(subject.log_probs([pair for each in pairs for pair in each]))
        items = []
        for text, parts in zip(self.texts, pairs, strict=True):
            nats = -math.fsum(value for _ in parts for value in next(found))
            size = len(text.text.encode("utf-8"))
            about = {"nats": nats, "bytes": size, "tokens": sum(len(response) for _, response in parts)}
            value = (bits_per_byte(nats, size),)
            items.append(ItemResult(text.item, {"bits_per_byte": value}, (about,), {"bytes": float(size)}))
        return TaskRun(items, {"empty texts, left out": self.empty} if self.empty else {})


def windows(subject: Subject, text: str) -> Iterator[Pair]:
    """The ids of a text, each once, in pieces, each with what stands before it as far as it fits."""
    bos = subject.tokenizer.bos_id
    ids = [subject.tokenizer.end_of_text if bos is None else bos, *subject.tokenizer.encode(text)]
    context = subject.context
    start, step = 1, context
    while start < len(ids):
        end = min(start + step, len(ids))
        yield ids[max(0, end - 1 - context) : start], ids[start:end]
        start, step = end, max(1, context // 2)


@dataclass(frozen=True)
class Line:
    """A line that is asked for, and the lines before it."""

    item: str
    before: tuple[str, ...]
    line: str


def make_next_line(name: str, config: NextLineConfig, seed: int) -> "NextLine":
    """The task of a file of kind `next_line`."""
    texts = read_texts(name, config, config.text, seed)
    lines = [line for text in texts if (line := choose_line(name, text, config.min_lines, seed)) is not None]
    if not lines:
        raise TrineError(f"{name}: no text has a line behind min_lines={config.min_lines} others")
    return NextLine(name, lines, config.max_new_tokens, len(texts) - len(lines))


def choose_line(name: str, text: Text, min_lines: int, seed: int) -> Line | None:
    """One line of a text, not blank and with enough before it, at random by the seed; None where there is none."""
    lines = text.text.split("\n")
    possible = [number for number in range(min_lines, len(lines)) if lines[number].strip() and "".join(lines[:number])]
    if not possible:
        return None
    number = possible[int(generator_for(seed, "line", name, text.item).integers(len(possible)))]
    return Line(text.item, tuple(lines[:number]), lines[number].rstrip())


class NextLine:
    """Share of lines that are written exactly (white space at their end aside), and how alike the others are."""

    metrics = (Metric("exact", "share"), Metric("edit_similarity", "mean"))

    def __init__(self, name: str, lines: Sequence[Line], max_new_tokens: int, short: int) -> None:
        self.name, self.lines, self.max_new_tokens, self.short = name, lines, max_new_tokens, short

    def evaluate(self, subject: Subject) -> TaskRun:
        counts = Counter({"texts without such a line, left out": self.short})
        lines = [each for each in self.lines if self._is_short(subject, each, counts)]
        prompts = [self._prompt_ids(subject, line, counts) for line in lines]
        rollouts = subject.generate(prompts, Sampling(self.max_new_tokens, 0.0))
        items = []
        for line, rollout in zip(lines, rollouts, strict=True):
            written = next_line(subject.text(rollout))
            worth = {"exact": float(written == line.line), "edit_similarity": edit_similarity(written, line.line)}
            about = {"text": written, "expected": line.line}
            items.append(ItemResult(line.item, {name: (value,) for name, value in worth.items()}, (about,)))
        return TaskRun(items, {name: count for name, count in counts.items() if count})

    def _is_short(self, subject: Subject, line: Line, counts: Counter[str]) -> bool:
        """Whether the budget holds the line and the breaks around it."""
        fits = len(subject.tokenizer.encode(f"\n{line.line}\n")) <= self.max_new_tokens
        counts["lines longer than max_new_tokens, left out"] += not fits
        return fits

    def _prompt_ids(self, subject: Subject, line: Line, counts: Counter[str]) -> list[int]:
        """The lines before, without the first of them where not all fit."""
        room = subject.context - self.max_new_tokens
        for start in range(len(line.before)):
            ids = subject.prompt_ids("\n".join(line.before[start:]))
            if len(ids) <= room and ids:
                counts["prompts without the first lines, which did not fit"] += start > 0
                return ids
        raise TrineError(f"{self.name}: {line.item}: not even the line before fits the context of {subject.name}")


def next_line(text: str) -> str:
    """The line that was written behind a line break; nothing where the model went on with the line before instead."""
    first, _, rest = text.partition("\n")
    return "" if first.strip() else rest.partition("\n")[0].rstrip()
