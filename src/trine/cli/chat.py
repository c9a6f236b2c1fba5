"""A conversation in the terminal. The oldest turns are dropped when the model's context is full."""

import sys
from collections.abc import Iterator, Sequence

from trine.catalog.writer import Writer
from trine.config.use import ChatConfig
from trine.records import Message
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed
from trine.tokenizer.chat_format import Chat, chat_format


def talk(config: ChatConfig) -> None:
    """Read a line, answer it while it is written, until the input ends. Ctrl-C stops an answer."""
    writer = Writer(config, rows=1)
    chat = chat_format(writer.tokenizer)
    budget = writer.chat_budget(config)
    opening = [] if config.system is None else [Message("system", config.system)]
    say("Write a line and press Enter; Ctrl-D leaves. \\n in a line stands for a line break.")
    turns: list[Message] = []
    for number, line in enumerate(_lines()):
        turns.append(Message("user", line.replace("\\n", "\n")))
        try:
            ids = _fitting(opening, turns, chat, writer.context - budget)
        except TrineError as error:
            say(f"error: {error}")
            turns.pop()
            continue
        sampling = writer.sampling(config, chat.end_ids, seed=derive_seed(config.seed, "chat", number), budget=budget)
        turns.append(Message("assistant", _print_answer(writer.pieces(ids, sampling, chat.stream()))))


def _print_answer(pieces: Iterator[str]) -> str:
    """Show the pieces as they come; their whole text, or as much as was wanted."""
    answer = ""
    try:
        for piece in pieces:
            answer += piece
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        say(" (stopped)")
    sys.stdout.write("\n")
    sys.stdout.flush()
    return answer


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
        if line.strip():
            yield line


def _fitting(opening: Sequence[Message], turns: Sequence[Message], chat: Chat, room: int) -> list[int]:
    """Prompt ids of the conversation, without as many of its oldest turns as do not fit."""
    for start in range(0, len(turns), 2):
        ids = chat.prompt_ids([*opening, *turns[start:]])
        if len(ids) <= room:
            return ids
    raise TrineError(f"the question has {len(ids)} tokens, more than the {room} the model's context leaves; shorten it")
