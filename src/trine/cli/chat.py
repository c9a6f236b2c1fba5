"""A conversation in the terminal.

The oldest turns are dropped when the model's context is full, and that is said. Ctrl-C stops an answer: the engine
runs in a thread of its own (`EngineWorker`), so an interrupt never cuts through one of its steps.
"""

import sys
from collections.abc import Generator
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from trine.catalog.writer import Writer
from trine.cli.answer_output import AnswerOutput
from trine.cli.chat_input import MessageInput, open_input
from trine.cli.conversation import Conversation
from trine.config.use import ChatConfig
from trine.records import Message, StopReason
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed
from trine.tokenizer.chat_format import chat_format

COMMANDS = {
    "/help": "this list",
    "/clear": "begin a new conversation; the system prompt stays",
    "/system TEXT": "set the system prompt (alone: show it; with -: remove it)",
    "/regenerate": "answer the last question again, with other random numbers",
    "/continue": "go on with the last answer, where it was cut or stopped",
    "/save FILE": "write the conversation as JSON; --conversation FILE loads it",
    "/exit": "leave (as Ctrl-D does)",
    "//TEXT": "send a message that begins with a slash",
}
Ending = StopReason | Literal["stopped"]


def talk(config: ChatConfig) -> None:
    """Answer message after message until the input ends.

    What cannot be sent is said, and the conversation goes on; where no person sees that, the exit code tells.
    """
    conversation = _opened(config)
    with open_input(history=config.history) as source:
        session = Session(config, Writer(config, rows=1), conversation)
        say(source.hint)
        refused = _converse(source, session)
        if refused and not source.attended:
            raise TrineError(f"{refused} of the messages could not be taken; the reasons stand above")


def _converse(source: MessageInput, session: "Session") -> int:
    """Until the input ends or /exit; how many messages could not be taken."""
    refused = 0
    while not session.over:
        try:
            message = source.read()
            if message is None:
                break
            session.take(message)
        except TrineError as error:
            say(f"error: {error}")
            refused += 1
        except KeyboardInterrupt:  # between two answers
            if not source.attended:
                raise
            say("(stopped)")
    return refused


def _opened(config: ChatConfig) -> Conversation:
    conversation = Conversation() if config.conversation is None else Conversation.load(config.conversation)
    if config.system is not None:
        conversation.system = config.system
    return conversation


class Session:
    """A conversation with a model: takes messages and commands, prints answers and what is to be said about them."""

    def __init__(self, config: ChatConfig, writer: Writer, conversation: Conversation) -> None:
        self.config, self.writer, self.conversation = config, writer, conversation
        self.chat = chat_format(writer.tokenizer)
        self.budget = writer.chat_budget(config)
        self.over = False
        self._output = AnswerOutput(sys.stdout)
        self._file, self._dropped, self._requests = config.conversation, 0, 0

    def take(self, message: str) -> None:
        """Answer a message, or do what a command says."""
        text = message.lstrip()
        if text.startswith("/") and not text.startswith("//"):
            word, *rest = text.split(maxsplit=1)
            self._command(word, rest[0].strip() if rest else "")
        elif text:
            self._ask(text[1:] if text.startswith("//") else message)

    def _command(self, word: str, rest: str) -> None:
        known = {
            "/help": self._help, "/clear": self._clear, "/system": self._system, "/regenerate": self._regenerate,
            "/continue": self._continue, "/save": self._save, "/exit": self._exit,
        }  # fmt: skip
        if word not in known:
            near = get_close_matches(word, known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise TrineError(f"no command {word:.40}; {hint}/help lists them; // begins a message with a slash")
        known[word](rest)

    def _help(self, _: str) -> None:
        for command, words in COMMANDS.items():
            say(f"{command:<14}{words}")
        say("Ctrl-C stops an answer; what is written of it stays in the conversation.")

    def _exit(self, _: str) -> None:
        self.over = True

    def _clear(self, _: str) -> None:
        self.conversation.messages, self._dropped = [], 0
        say("(a new conversation)")

    def _system(self, text: str) -> None:
        if text:
            self.conversation.system = None if text == "-" else text
        present = self.conversation.system
        say("(no system prompt)" if present is None else f"(system prompt: {present})")

    def _save(self, name: str) -> None:
        path = Path(name).expanduser() if name else self._file
        if path is None:
            raise TrineError("/save needs the name of a file: /save talk.json")
        if path.exists() and path != self._file:
            raise TrineError(f"{path} exists; choose another name")
        self.conversation.save(path)
        self._file = path
        say(f"({len(self.conversation.messages)} messages saved in {path})")

    def _ask(self, text: str) -> None:
        before = self.conversation.messages
        self.conversation.messages = [*before, Message("user", text)]
        try:
            self._answer(instead=before)
        except BaseException:
            self.conversation.messages = before
            raise

    def _regenerate(self, _: str) -> None:
        if not self.conversation.messages:
            raise TrineError("there is no question yet")
        self._answer(instead=self.conversation.messages)

    def _continue(self, _: str) -> None:
        if not self.conversation.answered:
            raise TrineError("there is no answer to go on with")
        self._answer(instead=self.conversation.messages, begun=self.conversation.messages[-1].content)

    def _answer(self, *, instead: list[Message], begun: str = "") -> None:
        """Answer the last question, or go on with the answer `begun`; where nothing is written, keep `instead`."""
        number, self._requests = self._requests, self._requests + 1
        begun_ids = self.chat.response_ids(begun, ended=False) if begun else []
        prompt = self.conversation.prompt(self.chat, self.writer.context - self.budget - len(begun_ids))
        self._tell_dropped(prompt.dropped)
        sampling = self.writer.sampling(
            self.config, self.chat.end_ids, seed=derive_seed(self.config.seed, "chat", number), budget=self.budget
        )
        stream = self.chat.stream()
        stream.push(begun_ids)
        ending = self._show(self.writer.pieces([*prompt.ids, *begun_ids], sampling, stream))
        text = self._output.text
        questions = self.conversation.messages[:-1] if self.conversation.answered else self.conversation.messages
        self.conversation.messages = [*questions, Message("assistant", begun + text)] if text else instead
        self._tell_ending(ending, text)

    def _show(self, pieces: Generator[str, None, StopReason]) -> Ending:
        try:
            return self._output.show(pieces)
        except KeyboardInterrupt:
            return "stopped"

    def _tell_dropped(self, dropped: int) -> None:
        if dropped > self._dropped:
            say(
                f"(the context of {self.writer.context:,} tokens is full: the model no longer sees the first {dropped} "
                f"turn{'s' if dropped > 1 else ''}; /save keeps all, /clear begins anew)"
            )
        self._dropped = dropped

    def _tell_ending(self, ending: Ending, text: str) -> None:
        if ending == "stopped":
            kept = (
                "what is written is kept; /regenerate answers anew, /continue goes on"
                if text
                else "nothing was written, so nothing changes"
            )
            say(f"(stopped: {kept})")
        elif ending == "length":
            raised = (
                "--max_new_tokens raises that"
                if self.budget == self.config.max_new_tokens
                else f"half of the model's context of {self.writer.context:,}"
            )
            say(f"(cut after {self.budget} tokens, {raised}; /continue goes on)")
