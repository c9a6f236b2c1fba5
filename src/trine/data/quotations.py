"""Quotations of CSV that are not closed, or closed by accident only: an error instead of a field of many rows."""

import csv
from collections.abc import Iterable, Iterator, Sequence

MIN_LINES = 4


class QuotedLines:
    """The lines of a CSV file, counted, for `csv.reader`; `opened` is the line where the open quotation began, or 0.

    Quotation marks are doubled inside a quotation, so that an odd number of them in a line opens or closes one. Other
    marks (`5" pipe`) mislead this at most up to the end of their row.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.number = self.opened = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        if line.count('"') % 2:
            self.opened = 0 if self.opened else self.number
        return line

    def begin_row(self) -> int:
        """The number of the line that the next row begins with; no quotation is open there."""
        self.opened = 0
        return self.number + 1


def swallowed_rows(row: Sequence[str], delimiter: str) -> int:
    """How many rows a field of `row` has swallowed, as far as can be told: a quotation that an accident closed.

    Every line of the field after its first would be a row by itself, with as many fields as `row`: at least four such
    lines, or fewer where all begin with a number, as `row` does. (A text whose lines all look like rows of its own
    table would be refused too; it can be given as JSON Lines or Parquet.)
    """
    if len(row) < 2:
        return 0
    for field in row:
        lines = [line for line in field.splitlines()[1:] if line.strip()]
        if lines and all(_fields(line, delimiter) == len(row) for line in lines):
            numbered = row[0].strip().isdigit() and all(line.split(delimiter, 1)[0].strip().isdigit() for line in lines)
            if numbered or len(lines) >= MIN_LINES:
                return len(lines)
    return 0


def _fields(line: str, delimiter: str) -> int:
    return len(next(csv.reader([line], delimiter=delimiter), []))
