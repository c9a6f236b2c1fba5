"""JSON that others wrote, parsed with one care wherever it stands; what is wrong is said in words, as a `ValueError`.

A byte order mark is no part of the value, and names the encoding. Refused: a key that appears twice in an object
(parsers differ in which value they keep), nesting deeper than the interpreter can go, and integers of more than 4300
digits. NaN and Infinity, which Python and many others write, are numbers. A string may hold half of a surrogate pair
(`"\\ud800"`): it is given back as it stands, and whoever needs text asks `is_unicode`.
"""

import codecs
import json
from typing import Any

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
LONGEST_MARK = 4


def encoding_by_mark(head: bytes) -> str | None:
    """The encoding that a byte order mark at the beginning of `head` names, which also removes it; None without one."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)


def parse_json(data: bytes | str) -> Any:
    """The value; raises `ValueError` that says why there is none."""
    try:
        text = data.decode(encoding_by_mark(data) or "utf-8") if isinstance(data, bytes) else data
        return DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(json_reason(error)) from None


def json_reason(error: Exception) -> str:
    """Why text is no JSON, in words."""
    if isinstance(error, UnicodeDecodeError):
        return f"not {error.encoding.upper()}: {error.reason} at byte {error.start}"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if "integer string conversion" in str(error):
        return "a number has too many digits"
    return str(error)


def is_unicode(text: str) -> bool:
    """False for lone surrogates: halves of a pair that JSON escapes, or bytes of a file name that are no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.80} appears twice")
    return result


DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates)
