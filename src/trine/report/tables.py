"""Tables and numbers as text. The same table serves the page and the terminal."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 100
WIDEST_CELL = 48
ABSENT = "–"


@dataclass(frozen=True)
class Table:
    """Rows of text under columns. `brief` tables are shown in the terminal too.

    `title` names the table where the page folds it; an `open` one is not folded. `prose` says that the last column is
    text: it is aligned left, and wrapped where the terminal ends.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str = ""
    brief: bool = True
    prose: bool = False
    title: str = "Figures"
    open: bool = False

    def text(self, width: int = WIDTH) -> str:
        """Aligned text of at most `width` columns: the first column left, numbers right."""
        lines = [self.columns, *self.rows]
        last = len(self.columns) - 1
        widths = [min(WIDEST_CELL, max(len(line[i]) for line in lines)) for i in range(last)]
        room = max(8, width - sum(widths) - 2 * last)
        widths.append(min(room, max(len(line[last]) for line in lines)))
        rendered = [self._line(line, widths) for line in self.rows]
        if self.headed:
            rendered = [self._line(self.columns, widths), "-" * min(width, sum(widths) + 2 * last), *rendered]
        return "\n".join(part[:width].rstrip() for line in rendered for part in line.split("\n"))

    @property
    def headed(self) -> bool:
        return any(self.columns)

    def _line(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        fitted = [shortened(cell, width) for cell, width in zip(cells, widths, strict=True)]
        padded = [fitted[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(fitted[1:], widths[1:], strict=True)]
        if not self.prose:
            return "  ".join(padded)
        first, *more = textwrap.wrap(printable(cells[-1]), widths[-1]) or [""]
        indent = " " * (sum(widths[:-1]) + 2 * (len(widths) - 1))
        return "\n".join(["  ".join([*padded[:-1], first]), *(indent + part for part in more)])


def printable(text: str) -> str:
    """`text` on one line, without control characters."""
    return "".join(character if character.isprintable() else " " for character in text)


def shortened(text: str, width: int) -> str:
    """`text` on one line of at most `width` characters."""
    line = printable(text)
    return line if len(line) <= width else line[: width - 1] + "…"


def number(value: float | None, digits: int = 3) -> str:
    """`value` with a fixed count of decimals, or a dash where there is none."""
    return f"{value:,.{digits}f}" if value is not None and math.isfinite(value) else ABSENT


def signed(value: float | None, digits: int = 2) -> str:
    return f"{value:+.{digits}f}" if value is not None and math.isfinite(value) else ABSENT


def percent(share: float | None, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}%" if share is not None and math.isfinite(share) else ABSENT


def share_of(share: float | None, count: int) -> str:
    """A share with its standard error over `count` samples."""
    if share is None or not math.isfinite(share) or count < 1:
        return ABSENT
    return f"{percent(share)} ± {100 * math.sqrt(share * (1 - share) / count):.1f}"


def whole(value: float | None) -> str:
    """1234567 as 1,234,567."""
    return number(value, 0)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ABSENT
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
