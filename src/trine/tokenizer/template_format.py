"""The chat format of an imported model, by its own chat template.

The ids of a prompt are those of `apply_chat_template` in `transformers`. As in `ChatFormat`, prompt and answer are
encoded separately, and the model is trained on the answer and its end token: everything that the template writes after
the generation prompt, up to that token. Only the template writes special tokens; their names in a message are plain
text.

The end token is the one that the template writes behind an answer, whoever it gives it to: where a turn is closed by
the marker of the next one (`<|user|>` in GLM's), that marker ends an answer. Where there is neither, it is the end of
text.
"""

import re
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

    def conversation(self, messages: Sequence[Message], answers: Sequence[int]) -> list[TokenSpan]:
        """See `Chat.conversation`. The ids are those of the template's text of the whole conversation.

        Only where a token would lie across the beginning of a trained answer, there it is divided, since generation
        begins there. Raises `TrineError` where the template does not write an answer as it is.
        """
        joined = self._joined(messages, answers)
        if joined is not None:
            return [joined]
        return [
            self._joined(messages, [place]) or self.example(messages[:place], messages[place].content)
            for place in answers
        ]

    def _joined(self, messages: Sequence[Message], answers: Sequence[int]) -> TokenSpan | None:
        """One span, or None where the template's text up to an answer is no beginning of its text of the whole."""
        whole = self._render(messages[: answers[-1] + 1], generation_prompt=False)
        ids, trained, read = list[int](), list[bool](), ""
        for place in answers:
            opened = self._render(messages[:place], generation_prompt=True)
            last = place == answers[-1]
            answered = whole if last else self._render(messages[: place + 1], generation_prompt=False)
            written = self._until_end(answered.removeprefix(opened))
            begins = whole.startswith(opened + written) and answered.startswith(opened) and opened.startswith(read)
            if not begins or not (last or whole.startswith(self._end, len(opened + written))):
                return None
            self._check_written(messages[place], written)
            for text, learned in ((opened.removeprefix(read), False), (written + self._end, True)):
                found = self._encode_after(self._encoder.last_piece(read), text) if read else self._encoder.encode(text)
                ids, trained = ids + found, trained + [learned] * len(found)
                read += text
        return TokenSpan(tuple(ids), tuple(trained))

    def _until_end(self, answered: str) -> str:
        """What stands before the end token; all of it where it is still to come."""
        return answered[: answered.rindex(self._end)] if self._end in answered else answered

    def _check_written(self, answer: Message, written: str) -> None:
        """The answer itself has to be trained; blanks around it and thinking before it may be written differently."""
        text = answer.content.rpartition("</think>")[2].strip()
        if text not in written:
            raise TrineError(
                f"the chat template of {self.tokenizer.files.template_place} does not write the answer {text:.40} as "
                f"it is, but {written.strip():.60}: the model would not be trained to give this answer"
            )

    def text(self, response_ids: Sequence[int]) -> str:
        """The text of an answer, without special tokens and what the template adds around it."""
        stream = self.stream()
        return (stream.push(response_ids) + stream.finish()).removesuffix(self._trail)

    def stream(self) -> TextStream:
        """A streaming version of `text`, for ids that arrive a few at a time."""
        return TextStream(self.tokenizer, skip=self._encoder.unsealed(self._lead))

    def written(self, messages: Sequence[Message], *, opened: bool) -> str:
        """The template's text of a conversation as people see it; `opened` begins an answer."""
        return self._template.render(messages, generation_prompt=opened)

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
        answer = self._answer = random_digits()
        opened, answered = self._opened_and_answered(answer)
        before, found, after = answered.rpartition(answer)
        if not found:
            raise TrineError(
                f"the chat template of {self.tokenizer.files.template_place} does not write the assistant's message as "
                "it is, so a model cannot learn to answer by it"
            )
        end = self._encoder.sealed(after)
        marker = None if end else self._next_marker(after)
        self._last_of_prompt = self._encoder.last_piece(opened)
        self._lead = before.removeprefix(opened) if before.startswith(opened) else ""
        self._trail = after[: end.start()] if end else after
        end = end or marker
        self._end = end[0] if end else self._encoder.seal(self.tokenizer.name_of(self.tokenizer.end_of_text))
        self.end_id = int(end[1]) if end else self.tokenizer.end_of_text

    def _next_marker(self, after: str) -> re.Match[str] | None:
        """The special token with which the next turn begins, right `after` an answer; BOS ends nothing."""
        turns = [
            Message("user", self._question), Message("assistant", self._answer), Message("user", self._question[::-1]),
            Message("assistant", self._answer),
        ]  # fmt: skip
        try:
            rendered = self._render(turns, generation_prompt=False)
        except TrineError:  # of one exchange only
            return None
        between = rendered.partition(self._answer)[2].partition(self._question[::-1])[0]
        marker = self._encoder.sealed(between)
        if marker is None or between[: marker.start()] != after or int(marker[1]) == self.tokenizer.bos_id:
            return None
        return marker

    def _opened_and_answered(self, answer: str) -> tuple[str, str]:
        """A question without and with its answer. (Rendered at the same time: templates may contain the time.)"""
        question = Message("user", self._question)
        answered = self._render([question, Message("assistant", answer)], generation_prompt=False)
        return self._render([question], generation_prompt=True), answered

    def _written(self, text: str) -> str:
        """What the template writes between the generation prompt and the end token of answer `text`."""
        opened, answered = self._opened_and_answered(text)
        return self._until_end(answered.removeprefix(opened)) if answered.startswith(opened) else text + self._trail

    def _encode_after_prompt(self, written: str) -> list[int]:
        return self._encode_after(self._last_of_prompt, written)

    def _encode_after(self, last: str, written: str) -> list[int]:
        """Ids of `written` behind a text that ends with `last`: without the space that Llama-2 and similar vocabularies
        add before a text."""
        before, both = self._encoder.encode(last), self._encoder.encode(last + written)
        return both[len(before) :] if both[: len(before)] == before else self._encoder.encode(written)
