"""Judgements as token ids: preference pairs for the losses of pairs, single answers with a label for KTO.

An answer is never cut, so that it keeps its end token; a prompt may be, from its beginning. Each record that is not
trained as it stands is counted by its reason.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trine.records import Answer, Judgement, Message
from trine.runtime.errors import TrineError
from trine.runtime.progress import progress_bar
from trine.tokenizer.chat_format import Chat
from trine.tokenizer.text_format import TextFormat

CUT = "beginning of the prompt left out"
TOO_LONG = "longer than max_tokens"
ANSWER_TOO_LONG = "answer and last turn longer than max_tokens"
SAME = "both answers the same"
NO_WEIGHT = "weight 0"
Kind = Literal["pairs", "labels"]
Ids = tuple[int, ...]


@dataclass(frozen=True)
class Item:
    """What is learned from at a time: a prompt with the chosen and the rejected answer, or with one answer.

    Answers have their end tokens. `desirable`: of one answer, whether it is a good one. `weight`: how much it counts.
    """

    prompt: Ids
    answers: tuple[Ids, ...]
    desirable: bool = True
    weight: float = 1.0

    @property
    def tokens(self) -> int:
        return len(self.prompt) + sum(map(len, self.answers))


@dataclass(frozen=True)
class Items:
    """The items of a file, and what became of its records: how many there are; of their items, kept, cut, dropped."""

    items: list[Item]
    account: dict[str, Any]

    @property
    def words(self) -> str:
        account = self.account
        counted = {what: account[what] for what in ("cut", "dropped") if account[what]}
        rest = "".join(
            f", {what} {', '.join(f'{count} ({why})' for why, count in reasons.items())}"
            for what, reasons in counted.items()
        )
        return f"{account['records']} records: {account['kept']} kept whole{rest}"


class ItemWriter:
    """Turns judgements into items of at most `max_tokens` tokens, prompt and longer answer together.

    Example::

        writer = ItemWriter(chat_format(tokenizer), max_tokens=64, too_long="drop", kind="pairs")
        prompt = (Message("user", "What is 2 + 2?"),)
        pair = Judgement.pair(prompt, Answer(prompt, "4"), Answer(prompt, "5"))
        items = writer.items([pair], Path("pairs.jsonl")).items
    """

    def __init__(
        self, form: Chat | TextFormat, max_tokens: int, too_long: Literal["stop", "cut", "drop"], kind: Kind
    ) -> None:
        self.form, self.max_tokens, self.too_long, self.kind = form, max_tokens, too_long, kind

    def items(self, judgements: Sequence[Judgement], source: Path) -> Items:
        """Raises `TrineError` naming the record that cannot be used, or is too long where that is an error."""
        items: list[Item] = []
        cut, dropped = Counter[str](), Counter[str]()
        with progress_bar("encoding", len(judgements)) as bar:
            for number, judgement in enumerate(judgements, 1):
                if not judgement.weight:
                    dropped[NO_WEIGHT] += 1
                    continue
                for answers, desirable in self._answers(judgement, f"{source}: record {number}"):
                    item, why = self._item(judgement, answers, desirable, f"{source}: record {number}")
                    if item is not None:
                        items.append(item)
                    (cut if item is not None else dropped).update([why] if why else [])
                bar.advance_or_stop()
        if not items:
            raise TrineError(f"{source}: nothing to learn from: {dict(dropped) or 'it holds no records'}")
        counts = {"kept": len(items) - cut.total(), "cut": dict(cut), "dropped": dict(dropped)}
        return Items(items, {"records": len(judgements), **counts})

    def _answers(self, judgement: Judgement, place: str) -> Iterator[tuple[tuple[Answer, ...], bool]]:
        """The answers of each item of a judgement, and whether they are good, which says something of a label alone."""
        ranking = [[judgement.answers[index] for index in group] for group in judgement.ranking or ()]
        if self.kind == "labels" and judgement.label is not None:
            yield judgement.answers, judgement.label
        elif not ranking:
            raise TrineError(f"{place} is no preference of one answer over another; {_for_whom(judgement)}")
        elif self.kind == "labels":
            yield from (((answer,), group is ranking[0]) for group in (ranking[0], ranking[-1]) for answer in group)
        else:
            yield from (
                ((better, worse), True)
                for index, group in enumerate(ranking)
                for better in group
                for lower in ranking[index + 1 :]
                for worse in lower
            )

    def _item(
        self, judgement: Judgement, answers: tuple[Answer, ...], desirable: bool, place: str
    ) -> tuple[Item | None, str]:
        """The item, if any, and why it is not the whole of the record."""
        ids = [tuple(self.form.response_ids(answer.response, ended=answer.ended)) for answer in answers]
        if len(ids) == 2 and ids[0] == ids[1]:
            return None, SAME
        room = self.max_tokens - max(map(len, ids))
        prompt = self._prompt(judgement.prompt, answers[0], place)
        needed = 1 if prompt else 2  # without a prompt an answer's first token is not predicted
        if min(map(len, ids)) < needed:
            raise TrineError(f"{place}: an answer is empty, without an end; leave the record out")
        if len(prompt) <= room:
            return Item(tuple(prompt), tuple(ids), desirable, judgement.weight), ""
        if self.too_long == "stop":
            raise TrineError(
                f"{place} has {len(prompt) + max(map(len, ids))} tokens, more than max_tokens={self.max_tokens}; "
                "shorten it, or leave out what is too long: too_long=cut or too_long=drop"
            )
        shorter = self._shortened(judgement.prompt, answers[0], room) if self.too_long == "cut" else None
        if shorter is None:
            return None, ANSWER_TOO_LONG if self.too_long == "cut" else TOO_LONG
        return Item(tuple(shorter), tuple(ids), desirable, judgement.weight), CUT

    def _prompt(self, messages: tuple[Message, ...], answer: Answer, place: str) -> list[int]:
        if isinstance(self.form, TextFormat):
            if answer.query is None:
                raise TrineError(f"{place}: the prompt is a conversation, and form is text: give form=chat")
            return self.form.query_ids(answer.query)
        if answer.query is not None:
            raise TrineError(f"{place}: the prompt is plain text, and form is chat: give form=text")
        return self.form.prompt_ids(messages)

    def _shortened(self, messages: tuple[Message, ...], answer: Answer, room: int) -> list[int] | None:
        """The prompt from the first of its user's turns on from where it fits, behind its system message; of a text its
        end. None where nothing fits."""
        if isinstance(self.form, TextFormat):
            ids, text = self.form.query_ids(answer.query or ""), self.form.tokenizer.encode(answer.query or "")
            given = len(ids) - len(text)
            return ids[:given] + text[-(room - given) :] if room > given else None
        system = messages[:1] if messages[0].role == "system" else ()
        for begin, message in enumerate(messages):
            if begin and message.role == "user":
                shorter = self.form.prompt_ids([*system, *messages[begin:]])
                if len(shorter) <= room:
                    return shorter
        return None


def _for_whom(judgement: Judgement) -> str:
    if judgement.label is not None:
        return "labels are learned from by loss=kto"
    return "scores are learned from by trine reward"
