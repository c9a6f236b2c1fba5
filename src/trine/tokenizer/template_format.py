"""The chat format of an imported model, by its own chat template.

The ids of a prompt are those of `apply_chat_template` in `transformers`. As in `ChatFormat`, prompt and answer are
encoded separately, and the model is trained on the answer and its end token: everything that the template writes after
the generation prompt, up to that token. Only the template writes special tokens; their names in a message are plain
text.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trine.records import Message, TokenSpan
from trine.runtime.errors import TrineError
from trine.tokenizer.template import ChatTemplate, random_digits
from trine.tokenizer.text_stream import TextStream
from trine.tokenizer.tokenizer import Tokenizer


class TemplateFormat:
    """Converts conversations to token ids by the chat template of `tokenizer`; `variables` are passed to it."""

    def __init__(self, tokenizer: Tokenizer, **variables: Any) -> None:
        if tokenizer.chat_template is None:
            raise TrineError(
                f"{tokenizer.files.place} has no chat template: it is a base model, which only completes text. Use it "
                "without chat, or fine-tune it on conversations first"
            )
        self.tokenizer = tokenizer
        self._encoder = tokenizer.sealed_encoder
        named = {"eos_token": tokenizer.name_of(tokenizer.end_of_text), **tokenizer.files.named_tokens}
        self._question = random_digits()
        self._template = ChatTemplate(tokenizer.chat_template, named | variables, tokenizer.files.template_place)
        self._learn_answer()

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The stop tokens: the end of an answer, the end of text, and the EOS ids in the model's configs."""
        return tuple(dict.fromkeys((self.end_id, *self.tokenizer.stop_ids)))

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the conversation with the generation prompt of the assistant."""
        return self._encoder.encode(self._render(messages, generation_prompt=True))

    def response_ids(self, text: str, *, ended: bool = True) -> list[int]:
        """Ids of an answer as the template writes it after the generation prompt; with the end token if `ended`."""
        written = self._written(text)
        return self._encode_after_prompt(written + self._end if ended else written.removesuffix(self._trail))

    def example(self, messages: Sequence[Message], response: str, *, ended: bool = True) -> TokenSpan:
        """A prompt with its answer, of which only the answer is trained on."""
        prompt, answer = self.prompt_ids(messages), self.response_ids(response, ended=ended)
        return TokenSpan(tuple(prompt + answer), (False,) * len(prompt) + (True,) * len(answer))

    def text(self, response_ids: Sequence[int]) -> str:
        """The text of an answer, without special tokens and what the template adds around it."""
        stream = self.stream()
        return (stream.push(response_ids) + stream.finish()).removesuffix(self._trail)

    def stream(self) -> TextStream:
        """A streaming version of `text`, for ids that arrive a few at a time."""
        return TextStream(self.tokenizer, skip=self._encoder.unsealed(self._lead))

    def _render(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        """The conversation, with the template's special tokens sealed and their names in messages left as text."""
        rendered = self._template.render(messages, generation_prompt=generation_prompt)
        if not any(self._encoder.names_special(message.content) for message in messages):
            return self._encoder.seal(rendered)
        veiled = [replace(message, content=self._encoder.veil(message.content)) for message in messages]
        apart = self._template.render(veiled, generation_prompt=generation_prompt)
        if self._encoder.unveil(apart) != rendered:
            raise TrineError(
                "a message has the name of a special token, and the chat template modifies such messages, so both "
                f"cannot be distinguished; remove {self._names_in(messages)} from it"
            )
        return self._encoder.unveil(self._encoder.seal(apart))

    def _names_in(self, messages: Sequence[Message]) -> str:
        contents = [message.content for message in messages]
        return ", ".join(name for name in self.tokenizer.special if any(name in content for content in contents))

    def _learn_answer(self) -> None:
        """Find what the template writes around an answer: `_lead`, `_trail`, and the token after it, `_end`."""
        answer = random_digits()
        opened, answered = self._opened_and_answered(answer)
        before, found, after = answered.rpartition(answer)
        if not found:
            raise TrineError(
                f"the chat template of {self.tokenizer.files.template_place} does not write the assistant's message as "
                "it is, so a model cannot learn to answer by it"
            )
        end = self._encoder.sealed(after)
        self._last_of_prompt = self._encoder.last_piece(opened)
        self._lead = before.removeprefix(opened) if before.startswith(opened) else ""
        self._trail = after[: end.start()] if end else after
        self._end = end[0] if end else self._encoder.seal(self.tokenizer.name_of(self.tokenizer.end_of_text))
        self.end_id = int(end[1]) if end else self.tokenizer.end_of_text

    def _opened_and_answered(self, answer: str) -> tuple[str, str]:
        """A question without and with its answer. (Rendered at the same time: templates may contain the time.)"""
        question = Message("user", self._question)
        answered = self._render([question, Message("assistant", answer)], generation_prompt=False)
        return self._render([question], generation_prompt=True), answered

    def _written(self, text: str) -> str:
        """What the template writes between the generation prompt and the end token of answer `text`."""
        opened, answered = self._opened_and_answered(text)
        if not answered.startswith(opened):
            return text + self._trail
        written = answered.removeprefix(opened)
        return written[: written.rindex(self._end)] if self._end in written else written

    def _encode_after_prompt(self, written: str) -> list[int]:
        """Ids of `written` without the space that Llama-2 and similar vocabularies add before a text."""
        last = self._last_of_prompt
        before, both = self._encoder.encode(last), self._encoder.encode(last + written)
        return both[len(before) :] if both[: len(before)] == before else self._encoder.encode(written)
