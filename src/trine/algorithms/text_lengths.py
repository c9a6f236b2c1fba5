"""Lengths of texts in words, for scripts that write blanks between them and for those that do not."""

import re
from itertools import islice

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")


def word_count(text: str) -> int:
    """Words between blanks; a Chinese or Japanese character is one.

    >>> word_count("not bad, 真的")
    4
    """
    return sum(1 for _ in _WORD.finditer(text))


def first_words(text: str, count: int) -> str:
    """`text` up to the end of its `count`-th word; all of it where it has no more.

    >>> first_words("a long story, told twice", 3)
    'a long story,'
    """
    ends = [word.end() for word in islice(_WORD.finditer(text), count + 1)]
    return text if len(ends) <= count else text[: ends[count - 1]] if count else ""
