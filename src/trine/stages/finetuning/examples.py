"""Conversations as token spans that fit a row: rendered by the chat format, and cut, dropped or refused if too long.

An answer is trained with its end token or not at all: cut conversations lose their oldest exchanges, never the end of
an answer, since a model that is not shown where answers end does not learn to stop. Each thing that is not trained as
it stands is counted by its reason.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trine.catalog.locating import is_hub_data_set
from trine.config.finetuning import FinetuneConfig
from trine.data.conversations import Conversations, conversations_of, forms_in_words, read_conversations
from trine.data.data_sets import data_set_records
from trine.data.sources import is_held_out
from trine.records import Conversation, TokenSpan
from trine.runtime.errors import TrineError
from trine.runtime.progress import progress_bar
from trine.tokenizer.chat_format import Chat, text_span

TOO_LONG = "longer than row_tokens"
LAST_TOO_LONG = "last exchange longer than row_tokens"
CUT = "oldest exchanges left out"


@dataclass(frozen=True)
class Examples:
    """Token spans, where each comes from (file:line), and the account of them for `done.json`.

    The account has `records` and `forms` that were read; and of the examples they gave, how many were `kept` whole,
    `cut` and `dropped`, the last two by reason.
    """

    spans: list[TokenSpan]
    places: list[str]
    account: dict[str, Any]

    @property
    def words(self) -> str:
        """What became of the records, for a person."""
        account = self.account
        forms = forms_in_words(account["forms"])
        cut, dropped = (f", {what} {_counted(account[what])}" if account[what] else "" for what in ("cut", "dropped"))
        return f"{account['records']} records of {forms}: {account['kept']} examples kept whole{cut}{dropped}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} ({name})" for name, count in counts.items())


class Renderer:
    """Turns conversations into spans of at most `row_tokens`, one or more each; `account` counts what became of them.

    Example::

        renderer = Renderer(chat, row_tokens=1024, train="all", too_long="cut")
        examples = renderer.examples(read_conversations(Path("chat.jsonl")))
    """

    def __init__(
        self, chat: Chat, row_tokens: int, train: Literal["all", "last"], too_long: Literal["stop", "cut", "drop"]
    ) -> None:
        self.chat, self.row_tokens, self.train, self.too_long = chat, row_tokens, train, too_long

    def examples(self, conversations: Conversations) -> Examples:
        """Raises `TrineError` naming the record that cannot be rendered, or is too long where that is an error."""
        spans: list[TokenSpan] = []
        places: list[str] = []
        cut, dropped = Counter[str](), Counter[str]()
        with progress_bar("encoding", len(conversations.items)) as bar:
            for conversation in conversations.items:
                for span, group in self._rendered(conversation):
                    fitting, why = self._fitting(conversation, span, group)
                    if fitting is None:
                        dropped[why] += 1
                        continue
                    cut.update([why] if why else [])
                    spans.append(fitting)
                    places.append(conversation.place)
                bar.advance_or_stop()
        account = {"records": len(conversations.items), "forms": dict(conversations.forms)}
        kept = {"kept": len(spans) - cut.total(), "cut": dict(cut), "dropped": dict(dropped)}
        return Examples(spans, places, account | kept)

    def _rendered(self, conversation: Conversation) -> list[tuple[TokenSpan, Sequence[int]]]:
        """Spans, each with the places of the messages that are trained in it."""
        if conversation.text:
            return [(text_span(self.chat.tokenizer, conversation.text, ended=conversation.ended), ())]
        answers = conversation.answers[-1:] if self.train == "last" else conversation.answers
        try:
            spans = self.chat.conversation(conversation.messages, answers)
        except TrineError as error:
            raise TrineError(f"{conversation.place}: {error}") from error
        groups: Iterable[Sequence[int]] = [answers] if len(spans) == 1 else [[place] for place in answers]
        found = list(zip(spans, groups, strict=True))
        if not all(any(span.trained[1:]) for span, _ in found):
            raise TrineError(
                f"{conversation.place}: no token of the record is trained; give it an answer, or leave it out"
            )
        return found

    def _fitting(
        self, conversation: Conversation, span: TokenSpan, group: Sequence[int]
    ) -> tuple[TokenSpan | None, str]:
        """The span to train on, if any, and why it is not `span`."""
        if len(span.ids) <= self.row_tokens:
            return span, ""
        if self.too_long == "stop":
            raise TrineError(
                f"{conversation.place}: the example has {len(span.ids)} tokens, more than "
                f"row_tokens={self.row_tokens}; shorten it or raise row_tokens, or leave out what is too "
                "long: too_long=cut or too_long=drop"
            )
        if self.too_long == "drop":
            return None, TOO_LONG
        shorter = self._cut(conversation, group)
        return (None, LAST_TOO_LONG if group else TOO_LONG) if shorter is None else (shorter, CUT)

    def _cut(self, conversation: Conversation, group: Sequence[int]) -> TokenSpan | None:
        """The conversation from the first of its user's turns on from where it fits, behind its system message."""
        messages = conversation.messages
        system = messages[:1] if messages and messages[0].role == "system" else ()
        begins = [place for place in range(max(group, default=0)) if messages[place].role == "user"]

        def shortened(begin: int) -> TokenSpan:
            kept = [place - begin + len(system) for place in group if place > begin]
            return self.chat.conversation([*system, *messages[begin:]], kept)[-1]

        first = bisect_left(begins, True, key=lambda begin: len(shortened(begin).ids) <= self.row_tokens)
        return shortened(begins[first]) if first < len(begins) else None


def read_examples_of(config: FinetuneConfig, chat: Chat) -> tuple[Examples, Examples | None]:
    """The examples to train on and those to evaluate on, as a stage's config names them."""
    found = _read(config.examples, config, config.dataset.split)
    held_out = _read(config.held_out, config, config.dataset.held_out_split) if config.held_out else None
    if config.held_out_share and held_out is None:
        found, held_out = _divided(found, config)
    renderer = Renderer(chat, config.row_tokens, config.train, config.too_long)
    examples = renderer.examples(found)
    if not examples.spans:
        raise TrineError(
            f"{config.examples}: every example is longer than row_tokens={config.row_tokens} and was dropped; raise it"
        )
    return examples, renderer.examples(held_out) if held_out else None


def _read(source: Path, config: FinetuneConfig, split: str) -> Conversations:
    if is_hub_data_set(source):
        return conversations_of(data_set_records(str(source), config.dataset.configuration, split), str(source))
    return read_conversations(source)


def _divided(found: Conversations, config: FinetuneConfig) -> tuple[Conversations, Conversations]:
    """(to train on, to evaluate on)."""
    parts: tuple[list[Conversation], list[Conversation]] = ([], [])
    for conversation in found.items:
        parts[is_held_out(conversation.group, config.held_out_share)].append(conversation)
    if not parts[0]:
        raise TrineError(f"held_out_share={config.held_out_share} leaves none of {config.examples} to train on")
    return Conversations(tuple(parts[0]), found.forms), Conversations(tuple(parts[1]), found.forms)
