"""Judgements as token ids: preference pairs for the losses of pairs, single answers with a label for KTO.

An answer is never cut, so that it keeps its end token; a prompt may be, from its beginning. Each record that is not
trained as it stands is counted by its reason.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
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
TIE = "a tie, which loss=dpo alone learns from"
NO_WEIGHT = "weight 0"
Kind = Literal["pairs", "labels"]
Ids = tuple[int, ...]


@dataclass(frozen=True)
class Item:
    """What is learned from at a time: a prompt with the chosen and the rejected answer, or with one answer.

    Answers have their end tokens. `desirable`: of one answer, whether it is a good one. `weight`: how much it counts.
    `probability`: how likely it is that the chosen answer is the better one; 1/2 for a tie.
    """

    prompt: Ids
    answers: tuple[Ids, ...]
    desirable: bool = True
    weight: float = 1.0
    probability: float = 1.0

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

        writer = ItemWriter(chat_format(tokenizer), 64, "drop", "pairs")
        prompt = (Message("user", "What is 2 + 2?"),)
        pair = Judgement.pair(prompt, Answer(prompt, "4"), Answer(prompt, "5"))
        items = writer.items([pair], Path("pairs.jsonl")).items
    """

    def __init__(
        self,
        form: Chat | TextFormat,
        max_tokens: int,
        too_long: Literal["stop", "cut", "drop"],
        kind: Kind,
        *,
        soft: bool = False,
    ) -> None:
        """`soft`: the loss learns from pairs with a probability, and from ties."""
        self.form, self.max_tokens, self.too_long, self.kind, self.soft = form, max_tokens, too_long, kind, soft

    def items(self, judgements: Sequence[Judgement], source: Path) -> Items:
        """Raises `TrineError` naming the record that cannot be used, or is too long where that is an error."""
        items: list[Item] = []
        cut, dropped = Counter[str](), Counter[str]()
        with progress_bar("encoding", len(judgements)) as bar:
            for judgement in judgements:
                found = self._items(judgement)
                items += [item for item, _ in found if item is not None]
                for item, why in found:
                    (dropped if item is None else cut).update([why] if why else [])
                bar.advance_or_stop()
        if not items:
            raise TrineError(f"{source}: nothing to learn from: {dict(dropped) or 'it holds no records'}")
        counts = {"kept": len(items) - cut.total(), "cut": dict(cut), "dropped": dict(dropped)}
        return Items(items, {"records": len(judgements), **counts})

    def _items(self, judgement: Judgement) -> list[tuple[Item | None, str]]:
        """What a judgement gives: items, or None, and why it is not the whole of the record."""
        place = judgement.name
        if not judgement.weight:
            return [(None, NO_WEIGHT)]
        if judgement.probability is not None and not self.soft:
            raise TrineError(f"{place}: the pair has a probability, which loss=dpo alone learns from; leave it out")
        if judgement.label is not None and self.kind == "labels":
            return [self._item(judgement, judgement.answers, place, desirable=judgement.label)]
        if judgement.ranking is None:
            raise TrineError(f"{place} is no preference of one answer over another; {_for_whom(judgement)}")
        if self.kind == "labels":
            return self._labels_of(judgement, judgement.ranking, place)
        pairs = list(self._pairs_of(judgement, judgement.ranking))
        shared = replace(judgement, weight=judgement.weight / max(len(pairs), 1))  # all of them count as one pair
        found = [
            self._item(shared, (judgement.answers[better], judgement.answers[worse]), place, probability=probability)
            for better, worse, probability in pairs
        ]
        return found or [(None, TIE)]

    def _labels_of(
        self, judgement: Judgement, ranking: Sequence[Sequence[int]], place: str
    ) -> list[tuple[Item | None, str]]:
        """The best answers are good ones, the last are bad."""
        if len(ranking) < 2:
            return [(None, TIE)]
        return [
            self._item(judgement, (judgement.answers[index],), place, desirable=group is ranking[0])
            for group in (ranking[0], ranking[-1])
            for index in group
        ]

    def _pairs_of(self, judgement: Judgement, ranking: Sequence[Sequence[int]]) -> Iterator[tuple[int, int, float]]:
        """(better, worse, probability) of every two answers of different groups; of one, where ties are learned."""
        sure = 1.0 if judgement.probability is None else judgement.probability
        for index, group in enumerate(ranking):
            if self.soft:
                yield from ((first, second, 0.5) for first, second in combinations(group, 2))
            yield from ((better, worse, sure) for better in group for lower in ranking[index + 1 :] for worse in lower)

    def _item(
        self, judgement: Judgement, answers: tuple[Answer, ...], place: str, *, desirable: bool = True,
        probability: float = 1.0,
    ) -> tuple[Item | None, str]:  # fmt: skip
        ids = tuple(tuple(self.form.response_ids(answer.response, ended=answer.ended)) for answer in answers)
        if len(ids) == 2 and ids[0] == ids[1]:
            return None, SAME
        prompt, why = self._fitted(judgement, answers, place, max(map(len, ids)))
        if prompt is None:
            return None, why
        if min(map(len, ids)) < (1 if prompt else 2):  # without a prompt an answer's first token is not predicted
            raise TrineError(f"{place}: an answer is empty, without an end; leave the record out")
        return Item(tuple(prompt), ids, desirable, judgement.weight, probability), why

    def _fitted(
        self, judgement: Judgement, answers: tuple[Answer, ...], place: str, longest: int
    ) -> tuple[list[int] | None, str]:
        """The prompt, cut where it has to be and may be; None where nothing fits; and why it is not the whole."""
        prompt, room = self._prompt(judgement.prompt, answers[0], place), self.max_tokens - longest
        if len(prompt) <= room:
            return prompt, ""
        if self.too_long == "stop":
            raise TrineError(
                f"{place} has {len(prompt) + longest} tokens, more than max_tokens={self.max_tokens}; "
                "shorten it, or leave out what is too long: too_long=cut or too_long=drop"
            )
        shorter = self._shortened(judgement.prompt, answers[0], room) if self.too_long == "cut" else None
        if shorter is None:
            return None, ANSWER_TOO_LONG if self.too_long == "cut" else TOO_LONG
        return shorter, CUT

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
