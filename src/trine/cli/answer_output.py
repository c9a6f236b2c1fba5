"""Where answers go: standard output, piece by piece.

A terminal obeys control characters, and a model may write them, so there they are shown as pictures (U+2400 and on).
Files and pipes get the answer as it is.
"""

from collections.abc import Generator
from typing import TextIO

from trine.records import StopReason

PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
PICTURES |= {0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")


class AnswerOutput:
    """Writes answers to `stream`, harmless where that is a terminal. `text` is what the last answer has come to."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._terminal = stream, stream.isatty()
        self.text = ""

    def write(self, text: str) -> None:
        self._stream.write(text.translate(PICTURES) if self._terminal else text)
        self._stream.flush()

    def show(self, pieces: Generator[str, None, StopReason], opening: str = "") -> StopReason:
        """Write `opening` and the pieces as they come, then a line break; why the answer ended."""
        self.text, begun = "", False
        try:
            while True:
                piece = next(pieces)
                self.text += piece
                self.write(piece if begun else opening + piece)
                begun = True
        except StopIteration as end:
            if not begun:
                self.write(opening)
            begun = True
            reason: StopReason = end.value
            return reason
        finally:
            pieces.close()
            if begun:  # what is refused before the first piece leaves standard output empty
                self.write("\n")
