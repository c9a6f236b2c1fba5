"""Chat formats: `chat_format(tokenizer)` is used by fine-tuning, reward models, PPO, evaluation and chat.

Trine's own models use ChatML (this module), imported models their own chat template (`template_format.py`).

    <|im_start|>user\\n{question}<|im_end|>\\n<|im_start|>assistant\\n{answer}<|im_end|>\\n

The model is trained on the answer and its end token only. Prompt and answer are encoded separately, so that the ids of
a prompt are the same in training and in generation.
"""

import json
from collections.abc import Sequence
from typing import Protocol

from trine.records import Message, TokenSpan
from trine.tokenizer.bpe import CHATML_TEMPLATE, SPECIAL_TOKENS, TURN_END, TURN_START
from trine.tokenizer.template_checks import check_learnable
from trine.tokenizer.template_format import TemplateFormat
from trine.tokenizer.text_stream import TextStream
from trine.tokenizer.tokenizer import Tokenizer

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + END + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


class Chat(Protocol):
    """Converts conversations to token ids and answers back to text.

    Example::

        chat = chat_format(tokenizer)
        ids = chat.prompt_ids([Message("user", "What is 2 + 2?")])
        text = chat.text(chat.response_ids("4"))
    """

    tokenizer: Tokenizer

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        ...

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The stop tokens: the end of the answer and the end of text."""
        ...

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the conversation with the generation prompt of the assistant."""
        ...

    def response_ids(self, text: str, *, ended: bool = True) -> list[int]:
        """Ids of an answer; with the end token if `ended`."""
        ...

    def example(self, messages: Sequence[Message], response: str, *, ended: bool = True) -> TokenSpan:
        """A prompt with its answer, of which only the answer is trained on."""
        ...

    def conversation(self, messages: Sequence[Message], answers: Sequence[int]) -> list[TokenSpan]:
        """The conversation up to the last of `answers` (places in `messages`), which are trained, with their ends.

        One span; or one per answer, where the chat template writes earlier turns differently once others follow.
        """
        ...

    def text(self, response_ids: Sequence[int]) -> str:
        """The text of an answer, without special tokens."""
        ...

    def stream(self) -> TextStream:
        """A streaming version of `text`, for ids that arrive a few at a time."""
        ...


def chat_format(tokenizer: Tokenizer) -> Chat:
    """The chat format of the model of `tokenizer`; raises `TrineError` if it has no chat template."""
    own = tokenizer.chat_template == CHATML_TEMPLATE and set(SPECIAL_TOKENS) <= tokenizer.special.keys()
    return ChatFormat(tokenizer) if own else TemplateFormat(tokenizer)


def format_to_learn(tokenizer: Tokenizer) -> Chat:
    """`chat_format` for fine-tuning: a model without chat template gets a plain one.

    Its roles are ordinary text, so no new embeddings are needed, and each message ends with the end of text, so that a
    message cannot start a turn. Save the `tokenizer` of the result with the model. Raises `TrineError` where the chat
    template is one that a model cannot learn to answer by.
    """
    if tokenizer.chat_template is not None:
        chat = chat_format(tokenizer)
        if isinstance(chat, TemplateFormat):
            check_learnable(chat)
        return chat
    end = json.dumps(tokenizer.name_of(tokenizer.end_of_text))
    return TemplateFormat(tokenizer.with_chat_template(PLAIN_TEMPLATE.replace("END", end)))


def text_span(tokenizer: Tokenizer, text: str, *, ended: bool = True) -> TokenSpan:
    """A plain text and, if it `ended`, the end of text, all of it trained but BOS, where the model has one."""
    asked = tokenizer.prompt_ids(text)
    given = len(asked) - len(tokenizer.encode(text))
    ids = [*asked, tokenizer.end_of_text] if ended else asked
    return TokenSpan(tuple(ids), (False,) * given + (True,) * (len(ids) - given))


class ChatFormat:
    """ChatML with the reserved tokens of Trine's own tokenizers; see `Chat`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._turn_start, self._turn_end = tokenizer.special[TURN_START], tokenizer.special[TURN_END]
        self._newline = tokenizer.encode("\n")
        self._generation_prompt = [self._turn_start, *tokenizer.encode("assistant\n")]

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        return self._turn_end

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The stop tokens: the end of the answer and the end of text."""
        return self.end_id, self.tokenizer.end_of_text

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the conversation with the generation prompt of the assistant."""
        ids: list[int] = []
        for message in messages:
            ids += self._turn(message)
        return ids + self._generation_prompt

    def response_ids(self, text: str, *, ended: bool = True) -> list[int]:
        """Ids of an answer; with the end token if `ended`."""
        return self.tokenizer.encode(text) + ([self.end_id] if ended else [])

    def example(self, messages: Sequence[Message], response: str, *, ended: bool = True) -> TokenSpan:
        """A prompt with its answer, of which only the answer is trained on."""
        prompt, answer = self.prompt_ids(messages), self.response_ids(response, ended=ended)
        return TokenSpan(tuple(prompt + answer), (False,) * len(prompt) + (True,) * len(answer))

    def conversation(self, messages: Sequence[Message], answers: Sequence[int]) -> list[TokenSpan]:
        """See `Chat.conversation`; in this format earlier turns never change, so it is one span."""
        ids, trained = list[int](), list[bool]()
        for place, message in enumerate(messages[: answers[-1] + 1]):
            if place in answers:
                answer = self.response_ids(message.content)
                ids += [*self._generation_prompt, *answer, *self._newline]
                trained += [False] * len(self._generation_prompt) + [True] * len(answer) + [False] * len(self._newline)
            else:
                turn = self._turn(message)
                ids, trained = ids + turn, trained + [False] * len(turn)
        size = len(ids) - len(self._newline)
        return [TokenSpan(tuple(ids[:size]), tuple(trained[:size]))]

    def text(self, response_ids: Sequence[int]) -> str:
        """The text of an answer, without reserved tokens."""
        return self.tokenizer.decode(response_ids)

    def stream(self) -> TextStream:
        """A streaming version of `text`, for ids that arrive a few at a time."""
        return TextStream(self.tokenizer)

    def _turn(self, message: Message) -> list[int]:
        if message.role == "assistant":
            return [*self._generation_prompt, *self.response_ids(message.content), *self._newline]
        body = self.tokenizer.encode(f"{message.role}\n{message.content}")
        return [self._turn_start, *body, self._turn_end, *self._newline]
