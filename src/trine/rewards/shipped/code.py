"""Is it Python, and does it do what its tests ask."""

import json
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from trine.config.base import Config, PositiveFloat, PositiveInt, Word
from trine.data.functions import join_function, parses
from trine.sandbox.running import run_tests_batch

_FENCED = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_HEAD = re.compile(r"^\s*(?:async\s+def|def|class)\s", re.MULTILINE)


class Parses(Config):
    """1 for an answer that is Python, else 0.

    How it is cheated: by `pass`, a comment or a single word, which parse too.
    """

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [
            float(bool(response.strip()) and parses(code_of(prompt, response)))
            for prompt, response in zip(prompts, responses, strict=True)
        ]


class Tests(Config):
    """1 for code that passes the tests of its prompt's record, else 0; run in the sandbox (docs/sandbox.md).

    The field holds Python, or a list of it. How it is cheated: by code that returns what the tests expect of the very
    arguments that they use, and does nothing else; keep some tests for evaluation alone.
    """

    field: Word = "tests"
    """field of the records that holds the tests; a record where it is null has none, and the reward does not apply"""
    share: bool = False
    """score the share of the tests that are passed, where there is a list"""
    seconds: PositiveFloat = 10.0
    """time limit of each answer with all its tests"""
    at_once: PositiveInt = 2
    """answers tested at a time"""

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.field,)

    def score(self, prompts: Sequence[str], responses: Sequence[str], **columns: Any) -> list[float | None]:
        tests = [_sources(given) for given in columns[self.field]]
        places = [place for place, given in enumerate(tests) if given]
        pairs = [(code_of(prompts[place], responses[place]), tests[place] or []) for place in places]
        verdicts = run_tests_batch(pairs, {"seconds": self.seconds}, workers=self.at_once)
        scores: list[float | None] = [None] * len(responses)
        for place, verdict in zip(places, verdicts, strict=True):
            scores[place] = sum(verdict.tests) / len(verdict.tests) if self.share else float(verdict.passed)
        return scores


def _sources(given: Any) -> list[str] | None:
    """The tests of a record: Python, a list of it, or such a list as JSON text."""
    if isinstance(given, str) and given.lstrip().startswith("["):
        given = json.loads(given)
    return [given] if isinstance(given, str) else given


def code_of(prompt: str, response: str) -> str:
    """The program in an answer: its last fenced block of Python; else the whole of it, behind a prompt that begins it.

    >>> code_of("Double x.", "Here it is:\\n```python\\nx = 2 * x\\n```\\nDone.")
    'x = 2 * x\\n'
    >>> code_of("def double(x):", "return 2 * x")
    'def double(x):\\n    return 2 * x\\n'
    """
    blocks = [
        text for language, text in _FENCED.findall(response) if language.lower() in ("", "python", "py", "python3")
    ]
    if blocks:
        return textwrap.dedent(blocks[-1])
    alone = textwrap.dedent(response)
    whole = join_function(prompt, alone)
    return whole if _HEAD.search(prompt) and not _HEAD.match(alone) and _begins(prompt) else alone


def _begins(prompt: str) -> bool:
    """Whether the prompt is the head of a function or class, which `pass` completes."""
    return parses(join_function(prompt, "pass"))
