"""Plain text that a model goes on with: what `chat_format` is for conversations, for a model without any.

    {query}{response}<|endoftext|>

Query and response are encoded apart, so that the ids of a query are the same in training and in generation; what is
written ends with the end of text, as a document does. `form: chat | text` chooses between the two.
"""

from collections.abc import Sequence

from trine.records import Form
from trine.tokenizer.chat_format import Chat, chat_format
from trine.tokenizer.text_stream import TextStream
from trine.tokenizer.tokenizer import Tokenizer


class TextFormat:
    """Converts a text and what continues it to token ids and back.

    Example::

        form = TextFormat(tokenizer)
        ids = form.query_ids("The cat sat")
        text = form.text(form.response_ids(" on the mat."))
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @property
    def end_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.end_of_text

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The stop tokens: the end of text, and the EOS ids in the model's configs."""
        return self.tokenizer.stop_ids

    def query_ids(self, query: str) -> list[int]:
        """Ids of a text to go on with, behind BOS where the model has one."""
        return self.tokenizer.prompt_ids(query)

    def response_ids(self, text: str, *, ended: bool = True) -> list[int]:
        """Ids of what continues a text; with the end token if `ended`."""
        return self.tokenizer.encode(text) + ([self.end_id] if ended else [])

    def text(self, response_ids: Sequence[int]) -> str:
        """What continues a text, blanks at its beginning too, without special tokens."""
        return self.tokenizer.decode(response_ids, skip="")

    def stream(self) -> TextStream:
        """A streaming version of `text`, for ids that arrive a few at a time."""
        return TextStream(self.tokenizer, skip="")


def answer_format(tokenizer: Tokenizer, form: Form) -> Chat | TextFormat:
    """How queries and answers of `form` are written; raises `TrineError` for chat without a chat template."""
    return chat_format(tokenizer) if form == "chat" else TextFormat(tokenizer)
