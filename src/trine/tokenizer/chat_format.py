"""The chat and task format that fine-tuning, reward, PPO, evaluation and chat share: `chat_format(tokenizer)`.

Trine's own models speak ChatML, here; imported models speak by their own template (`template_format.py`).

    <|im_start|>user\\n{question}<|im_end|>\\n<|im_start|>assistant\\n{answer}<|im_end|>\\n

What the model is trained to write is the answer and its end token, and nothing else. Prompt and answer are
encoded apart, so that the ids of a prompt are the same whether an answer follows or is to be sampled.
"""

import json
from collections.abc import Sequence
from typing import Protocol

from trine.records import Message, TokenSpan
from trine.tokenizer.bpe import CHATML_TEMPLATE, SPECIAL_TOKENS, TURN_END, TURN_START
from trine.tokenizer.template_format import TemplateFormat
from trine.tokenizer.text_stream import TextStream
from trine.tokenizer.tokenizer import Tokenizer

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + END + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


class Chat(Protocol):
    """Conversations to token ids and answers back to text, for one tokenizer."""

    tokenizer: Tokenizer

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        ...

    @property
    def end_ids(self) -> tuple[int, ...]:
        """What ends sampling: the end of the answer, or of the text."""
        ...

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the conversation so far, opened for the assistant to speak."""
        ...

    def response_ids(self, text: str, *, ended: bool = True) -> list[int]:
        """Ids of an answer; `ended` adds the end token."""
        ...

    def example(self, messages: Sequence[Message], response: str, *, ended: bool = True) -> TokenSpan:
        """A prompt with its answer, the answer being what is trained."""
        ...

    def text(self, response_ids: Sequence[int]) -> str:
        """The answer's text, special tokens left out."""
        ...

    def stream(self) -> TextStream:
        """`text` for ids that arrive a few at a time."""
        ...


def chat_format(tokenizer: Tokenizer) -> Chat:
    """The format that the model of `tokenizer` speaks; a `TrineError` when it comes without a chat template."""
    own = tokenizer.chat_template == CHATML_TEMPLATE and tokenizer.special.keys() == set(SPECIAL_TOKENS)
    return ChatFormat(tokenizer) if own else TemplateFormat(tokenizer)


def format_to_learn(tokenizer: Tokenizer) -> Chat:
    """`chat_format` for a model that is about to be fine-tuned: one without template is given a plain one to learn.

    Its roles are ordinary text, so no embedding is new, and every message is closed by the end of text: no message
    can open a turn. Save `tokenizer` of the result beside the model.
    """
    if tokenizer.chat_template is not None:
        return chat_format(tokenizer)
    end = json.dumps(tokenizer.name_of(tokenizer.end_of_text))
    return TemplateFormat(tokenizer.with_chat_template(PLAIN_TEMPLATE.replace("END", end)))


class ChatFormat:
    """ChatML with the reserved tokens of Trine's own tokenizers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._turn_start, self._turn_end = tokenizer.special[TURN_START], tokenizer.special[TURN_END]
        self._newline = tokenizer.encode("\n")
        self._answer_opening = [self._turn_start, *tokenizer.encode("assistant\n")]

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        return self._turn_end

    @property
    def end_ids(self) -> tuple[int, ...]:
        """What ends sampling: the end of the answer, or of the text."""
        return self.end_id, self.tokenizer.end_of_text

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the conversation so far, opened for the assistant to speak."""
        ids: list[int] = []
        for message in messages:
            ids += self._turn(message)
        return ids + self._answer_opening

    def response_ids(self, text: str, *, ended: bool = True) -> list[int]:
        """Ids of an answer; `ended` adds the end token."""
        return self.tokenizer.encode(text) + ([self.end_id] if ended else [])

    def example(self, messages: Sequence[Message], response: str, *, ended: bool = True) -> TokenSpan:
        """A prompt with its answer, the answer being what is trained."""
        prompt, answer = self.prompt_ids(messages), self.response_ids(response, ended=ended)
        return TokenSpan(tuple(prompt + answer), (False,) * len(prompt) + (True,) * len(answer))

    def text(self, response_ids: Sequence[int]) -> str:
        """The answer's text, reserved tokens left out."""
        return self.tokenizer.decode(response_ids)

    def stream(self) -> TextStream:
        """`text` for ids that arrive a few at a time."""
        return TextStream(self.tokenizer)

    def _turn(self, message: Message) -> list[int]:
        if message.role == "assistant":
            return [*self._answer_opening, *self.response_ids(message.content), *self._newline]
        body = self.tokenizer.encode(f"{message.role}\n{message.content}")
        return [self._turn_start, *body, self._turn_end, *self._newline]
