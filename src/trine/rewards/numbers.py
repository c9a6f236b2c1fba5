"""Numbers as people write them in answers: 1,000 and 1000.0 are the same number, $ is no part of it.

GSM8K's form (Cobbe et al. 2021) ends an answer with `#### 42`.
"""

import re
from fractions import Fraction

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?|-?\$?\.\d+")


def marked_number(text: str) -> Fraction | None:
    """The number behind the last ####."""
    marked = text.rpartition("####")
    return first_number(marked[2]) if marked[1] else None


def last_number(text: str) -> Fraction | None:
    """The number behind the last ####, or without one the last number there is."""
    if "####" in text:
        return marked_number(text)
    found = _NUMBER.findall(text)
    return _value(found[-1]) if found else None


def first_number(text: str) -> Fraction | None:
    found = _NUMBER.search(text)
    return _value(found[0]) if found else None


def _value(written: str) -> Fraction:
    return Fraction(written.replace(",", "").replace("$", ""))
