"""Conversations of an imported model, in the form its own chat template gives them.

A prompt's ids are those of `transformers`' apply_chat_template. As in `ChatFormat`, prompt and answer are encoded
apart, and what is trained is the answer and its end token: all that the template puts between the opened prompt and
that token. Special tokens come from the template alone; names of special tokens inside a message stay ordinary text.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trine.records import Message, TokenSpan
from trine.runtime.errors import TrineError
from trine.tokenizer.template import ChatTemplate
from trine.tokenizer.text_stream import TextStream
from trine.tokenizer.tokenizer import Tokenizer

_QUESTION, _ANSWER = "Question", "Answer"


class TemplateFormat:
    """Renders conversations to token ids by the template of `tokenizer`. `variables` go to the template as they are."""

    def __init__(self, tokenizer: Tokenizer, **variables: Any) -> None:
        if tokenizer.chat_template is None:
            raise TrineError(
                f"{tokenizer.files.place} comes without a chat template: this model only goes on from text. Use it "
                "without chat, or fine-tune it on conversations first"
            )
        self.tokenizer = tokenizer
        self._encoder = tokenizer.sealed_encoder
        named = {"eos_token": tokenizer.name_of(tokenizer.end_of_text), **tokenizer.files.named_tokens}
        self._template = ChatTemplate(tokenizer.chat_template, named | variables, tokenizer.files.place)
        self._learn_answer()

    @property
    def end_ids(self) -> tuple[int, ...]:
        """What ends sampling: the end of an answer, of a text, and what the model's own configs name."""
        return tuple(dict.fromkeys((self.end_id, *self.tokenizer.stop_ids)))

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the conversation so far, opened for the assistant to speak."""
        return self._encoder.encode(self._render(messages, opened=True))

    def response_ids(self, text: str, *, ended: bool = True) -> list[int]:
        """Ids of an answer as the template writes it behind an opened prompt; `ended` adds the end token."""
        written = self._written(text)
        return self._encode_behind_prompt(written + self._end if ended else written.removesuffix(self._trail))

    def example(self, messages: Sequence[Message], response: str, *, ended: bool = True) -> TokenSpan:
        """A prompt with its answer, the answer being what is trained."""
        prompt, answer = self.prompt_ids(messages), self.response_ids(response, ended=ended)
        return TokenSpan(tuple(prompt + answer), (False,) * len(prompt) + (True,) * len(answer))

    def text(self, response_ids: Sequence[int]) -> str:
        """The answer's text, without special tokens and without what the template itself puts around it."""
        stream = self.stream()
        return (stream.push(response_ids) + stream.finish()).removesuffix(self._trail)

    def stream(self) -> TextStream:
        """`text` for ids that arrive a few at a time."""
        return TextStream(self.tokenizer, skip=self._encoder.unsealed(self._lead))

    def _render(self, messages: Sequence[Message], *, opened: bool) -> str:
        """The conversation with the template's special tokens sealed and those that messages spell left as text."""
        rendered = self._template.render(messages, opened=opened)
        if not any(self._encoder.names_special(message.content) for message in messages):
            return self._encoder.seal(rendered)
        veiled = [replace(message, content=self._encoder.veil(message.content)) for message in messages]
        apart = self._template.render(veiled, opened=opened)
        if self._encoder.unveil(apart) != rendered:
            raise TrineError(
                "a message spells a special token, and the chat template rewrites messages that do, so that the two "
                f"cannot be told apart; take {self._names_in(messages)} out of it"
            )
        return self._encoder.unveil(self._encoder.seal(apart))

    def _names_in(self, messages: Sequence[Message]) -> str:
        contents = [message.content for message in messages]
        return ", ".join(name for name in self.tokenizer.special if any(name in content for content in contents))

    def _learn_answer(self) -> None:
        """What the template writes around an answer: `_lead`, `_trail`, and the token behind, `_end`."""
        opened, answered = self._opened_and_answered(_ANSWER)
        before, _, after = answered.rpartition(_ANSWER)
        end = self._encoder.sealed(after)
        self._last_of_prompt = self._encoder.last_piece(opened)
        self._lead = before.removeprefix(opened) if before.startswith(opened) else ""
        self._trail = after[: end.start()] if end else after
        self._end = end[0] if end else self._encoder.seal(self.tokenizer.name_of(self.tokenizer.end_of_text))
        self.end_id = int(end[1]) if end else self.tokenizer.end_of_text

    def _opened_and_answered(self, answer: str) -> tuple[str, str]:
        """One question with its answer to come, and with it there. (Rendered together: templates may tell the time.)"""
        question = Message("user", _QUESTION)
        answered = self._render([question, Message("assistant", answer)], opened=False)
        return self._render([question], opened=True), answered

    def _written(self, text: str) -> str:
        """What the template writes from the end of the opened prompt to the end token of answer `text`."""
        opened, answered = self._opened_and_answered(text)
        if not answered.startswith(opened):
            return text + self._trail
        written = answered.removeprefix(opened)
        return written[: written.rindex(self._end)] if self._end in written else written

    def _encode_behind_prompt(self, written: str) -> list[int]:
        """Ids of `written` on its own, but without what a vocabulary like Llama-2's puts before the start of a text."""
        last = self._last_of_prompt
        before, both = self._encoder.encode(last), self._encoder.encode(last + written)
        return both[len(before) :] if both[: len(before)] == before else self._encoder.encode(written)
