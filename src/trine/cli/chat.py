"""A conversation in the terminal. The oldest turns are dropped when the model's context is full."""

import sys
from collections.abc import Iterator

from trine.config.use import ChatConfig
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.records import Message
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed
from trine.stages.opening import open_hardware, open_model
from trine.tokenizer.chat_format import ChatFormat


def talk(config: ChatConfig) -> None:
    """Read a line, answer it, until the input ends."""
    model, tokenizer = open_model(config.model, open_hardware(config.hardware))
    engine, chat = Engine(model, rows=1), ChatFormat(tokenizer)
    say("Write a line and press Enter; Ctrl-D leaves. \\n in a line stands for a line break.")
    turns: list[Message] = []
    for number, line in enumerate(_lines()):
        turns.append(Message("user", line.replace("\\n", "\n")))
        ids = _fitting(turns, chat, model.config.context - config.max_new_tokens)
        sampling = Sampling(
            config.max_new_tokens, config.temperature, derive_seed(config.seed, "chat", number), eos_ids=chat.end_ids
        )
        answer = chat.text(engine.generate([ids], sampling)[0].response_ids)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
        turns.append(Message("assistant", answer))


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
        if line.strip():
            yield line


def _fitting(turns: list[Message], chat: ChatFormat, room: int) -> list[int]:
    """Prompt ids of the conversation, without as many of its oldest turns as do not fit."""
    for start in range(0, len(turns), 2):
        ids = chat.prompt_ids(turns[start:])
        if len(ids) <= room:
            return ids
    raise TrineError(f"the question has {len(ids)} tokens, more than the {room} the model's context leaves; shorten it")
