"""The one chat and task format (ChatML) that fine-tuning, reward, PPO, evaluation and chat share.

    <|im_start|>user\\n{question}<|im_end|>\\n<|im_start|>assistant\\n{answer}<|im_end|>\\n

What the model is trained to write is the answer and its end token, and nothing else. Prompt and answer are
encoded apart, so that the ids of a prompt are the same whether an answer follows or is to be sampled.
"""

from collections.abc import Sequence

from trine.records import Message, TokenSpan
from trine.tokenizer.bpe import Tokenizer


class ChatFormat:
    """Renders conversations to token ids for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._newline = tokenizer.encode("\n")
        self._answer_opening = [tokenizer.turn_start, *tokenizer.encode("assistant\n")]

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        return self.tokenizer.turn_end

    @property
    def end_ids(self) -> tuple[int, int]:
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

    def _turn(self, message: Message) -> list[int]:
        if message.role == "assistant":
            return [*self._answer_opening, *self.response_ids(message.content), *self._newline]
        tokenizer = self.tokenizer
        body = tokenizer.encode(f"{message.role}\n{message.content}")
        return [tokenizer.turn_start, *body, tokenizer.turn_end, *self._newline]
