"""Filtering of documents by licence.

A licence is an SPDX expression (SPDX specification 2.3, annex D): `MIT`, `GPL-2.0+`, `MIT OR (Apache-2.0 AND ISC)`,
`GPL-2.0-only WITH Classpath-exception-2.0`. An OR allows a choice, an AND requires both sides; an
exception only adds permissions, so the licence before WITH decides. Names are case-insensitive.
"""

import re
from collections.abc import Iterable, Iterator

from trine.config.corpus import FilterConfig
from trine.records import Document
from trine.runtime.errors import TrineError

HEAD_CHARACTERS = 4096
_SPDX_LINE = re.compile(r"SPDX-License-Identifier:[ \t]*([^\r\n]*)")
_TOKEN = re.compile(r"\(|\)|[A-Za-z0-9.:+-]+")
_UNKNOWN = {"", "unknown", "none", "noassertion", "other"}


def may_keep(document: Document, config: FilterConfig) -> bool:
    """Whether `config.licenses` allow the document; `config.unknown_license` decides if it states none."""
    expression = document.license.strip() or stated_license(document.text)
    answer = None if expression.lower() in _UNKNOWN else allows(expression, config.licenses)
    return config.unknown_license == "keep" if answer is None else answer


def stated_license(text: str) -> str:
    """The SPDX expression in the head of a text, empty if there is none; several lines are joined by AND."""
    found = [line.strip(" \t*/#-<>\"'") for line in _SPDX_LINE.findall(text[:HEAD_CHARACTERS])]
    return found[0] if len(found) == 1 else " AND ".join(f"({line})" for line in found)


def allows(expression: str, licenses: Iterable[str]) -> bool | None:
    """Whether `expression` can be satisfied with the licences in `licenses`; None if it is not an SPDX expression."""
    if _TOKEN.sub("", expression).strip():
        return None
    tokens = iter(_TOKEN.findall(expression))
    allowed = {_canonical(name) for name in licenses}
    try:
        answer, rest = _either(tokens, allowed)
    except (StopIteration, TrineError, RecursionError):
        return None
    return answer if rest is None else None


def _either(tokens: Iterator[str], allowed: set[str]) -> tuple[bool, str | None]:
    """An OR of ANDs: the answer, and the token after it."""
    answer, token = _both(tokens, allowed)
    while token is not None and token.upper() == "OR":
        other, token = _both(tokens, allowed)
        answer = answer or other
    return answer, token


def _both(tokens: Iterator[str], allowed: set[str]) -> tuple[bool, str | None]:
    answer, token = _one(tokens, allowed)
    while token is not None and token.upper() == "AND":
        other, token = _one(tokens, allowed)
        answer = answer and other
    return answer, token


def _one(tokens: Iterator[str], allowed: set[str]) -> tuple[bool, str | None]:
    name = next(tokens)
    if name == "(":
        answer, closing = _either(tokens, allowed)
        if closing != ")":
            raise TrineError("unbalanced")
        return answer, next(tokens, None)
    if name == ")" or name.upper() in {"AND", "OR", "WITH"}:
        raise TrineError("misplaced")
    token = next(tokens, None)
    if token is not None and token.upper() == "WITH":
        next(tokens)
        token = next(tokens, None)
    return _named(name, allowed), token


def _named(name: str, allowed: set[str]) -> bool:
    return not {_canonical(name), _canonical(name).removesuffix("-or-later")}.isdisjoint(allowed)


def _canonical(name: str) -> str:
    """SPDX's newer spelling: `GPL-2.0+` is `GPL-2.0-or-later`, and `GPL-2.0-only` is what `GPL-2.0` was."""
    name = name.lower().removesuffix("-only")
    return name.removesuffix("+") + "-or-later" if name.endswith("+") else name
