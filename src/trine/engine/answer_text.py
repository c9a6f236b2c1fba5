"""The text of an answer while it is written: whole characters only, and nothing of a stop string.

What could still become a stop string is held back; from a stop string on, nothing is shown.
"""

from collections.abc import Iterable, Sequence

from trine.tokenizer.text_stream import TextStream


class AnswerText:
    """Pieces of text from ids; together they are the answer up to the first of `stop_strings`."""

    def __init__(self, stream: TextStream, stop_strings: Sequence[str] = ()) -> None:
        self._stream, self._stops = stream, tuple(stop_strings)
        self._held, self._stopped = "", False

    def push(self, ids: Iterable[int]) -> str:
        """The text that `ids` make certain."""
        return self._release(self._stream.push(ids), final=False)

    def finish(self) -> str:
        """The rest."""
        return self._release(self._stream.finish(), final=True)

    def _release(self, text: str, *, final: bool) -> str:
        if self._stopped:
            return ""
        text = self._held + text
        starts = [start for start in map(text.find, self._stops) if start >= 0]
        if starts:
            self._stopped = True
            return text[: min(starts)]
        keep = 0 if final else self._unsafe(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _unsafe(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        lengths = (
            length
            for stop in self._stops
            for length in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:length])
        )
        return max(lengths, default=0)
