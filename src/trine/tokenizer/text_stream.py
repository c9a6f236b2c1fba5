"""Streaming decoding of token ids. The pieces together equal the text of all ids.

A character may span several ids, so an incomplete one is held back; invalid bytes become U+FFFD. With byte fallback, a
run of byte entries is decoded as a whole, and gives one U+FFFD per byte if it is not UTF-8 (as in `tokenizers`), so a
run is held back until it ends.
"""

import codecs
from collections.abc import Iterable, Set
from typing import Protocol

from trine.tokenizer.spelling import Spelling


class TokenTable(Protocol):
    """What decoding needs of a tokenizer."""

    @property
    def token_bytes(self) -> list[bytes]: ...

    @property
    def byte_ids(self) -> Set[int]: ...

    @property
    def special_ids(self) -> Set[int]: ...

    @property
    def spelling(self) -> Spelling: ...


class TextStream:
    """Decodes token ids as they arrive; special ids are dropped unless `keep_special`, and so are unknown ids.

    Example::

        stream = TextStream(tokenizer)
        for token_ids in batches_of_ids:
            print(stream.push(token_ids), end="")
        print(stream.finish())

    `skip` is removed from the start of the text: by default the space that Llama-2 puts before every text.
    Pass "" for text that continues earlier text.
    """

    def __init__(self, tokenizer: TokenTable, *, keep_special: bool = False, skip: str | None = None) -> None:
        self._bytes, self._byte_ids = tokenizer.token_bytes, tokenizer.byte_ids
        self._hidden = frozenset() if keep_special else tokenizer.special_ids
        self._byte_level = tokenizer.spelling.byte_level
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._run = b""
        self._skip, self._held = tokenizer.spelling.leading if skip is None else skip, ""

    def push(self, ids: Iterable[int]) -> str:
        """The text that `ids` complete, which may be empty."""
        known = (i for i in ids if i not in self._hidden and 0 <= i < len(self._bytes))
        if self._byte_level:
            return self._after_skip(self._utf8.decode(b"".join(self._bytes[i] for i in known)))
        return self._after_skip("".join(self._fallback_text(token_id) for token_id in known))

    def finish(self) -> str:
        """The remaining text, an incomplete character as U+FFFD; ends the stream."""
        rest = self._after_skip(self._utf8.decode(b"", final=True) + self._end_run())
        held, self._held, self._skip = self._held, "", ""
        return rest + held

    def _fallback_text(self, token_id: int) -> str:
        if token_id in self._byte_ids:
            self._run += self._bytes[token_id]
            return ""
        return self._end_run() + self._bytes[token_id].decode()

    def _end_run(self) -> str:
        run, self._run = self._run, b""
        try:
            return run.decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(run)

    def _after_skip(self, text: str) -> str:
        if not self._skip:
            return text
        text = self._held + text
        if len(text) < len(self._skip) and self._skip.startswith(text):
            self._held = text
            return ""
        text = text.removeprefix(self._skip)
        self._skip = self._held = ""
        return text
