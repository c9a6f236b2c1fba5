"""Is it the answer, in the form that was asked for."""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import regex
from pydantic import field_validator

from trine.config.base import Config, PositiveFloat, Word
from trine.rewards.numbers import last_number, marked_number
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json
from trine.runtime.json_values import parse_json


class ExactAnswer(Config):
    """1 for an answer that ends in `#### 42`, as GSM8K has it (Cobbe et al. 2021), with its record's number; else 0.

    1,000 and 1000.0 are one number; a record whose answer is no number wants the same text behind ####. How it is
    cheated: by any way to the number. What stands before it is not read, so that nonsense before the right number
    scores 1, and where few numbers come into question a random one often does.
    """

    field: Word = "answer"
    """field of the records that holds the answer: a number, or a text that ends in `#### number`"""
    marked: bool = True
    """only a number behind #### counts; false: without one, the last number of the response does"""

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.field,)

    def score(self, prompts: Sequence[str], responses: Sequence[str], **columns: Any) -> list[float | None]:
        return [
            None if expected is None else float(self._is_right(response, str(expected)))
            for response, expected in zip(responses, columns[self.field], strict=True)
        ]

    def _is_right(self, response: str, expected: str) -> bool:
        number = last_number(expected)
        if number is not None:
            return (marked_number if self.marked else last_number)(response) == number
        _, mark, said = response.rpartition("####")
        return bool(mark or not self.marked) and said.strip() == expected.rpartition("####")[2].strip()


class Regex(Config):
    """1 for an answer in which the regular expression is found, else 0.

    How it is cheated: by the form without the content. What a group may match is matched by anything, so that
    `<answer>.+</answer>` is satisfied by <answer>?</answer>.
    """

    takes_text: ClassVar[bool] = True
    pattern: str
    """regular expression (of the package `regex`); begin it with (?s) for . to match line ends, ^ and $ to match all"""
    seconds: PositiveFloat = 1.0
    """time limit of one answer; some expressions take exponential time"""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return pattern

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        pattern = regex.compile(self.pattern)
        return [float(pattern.search(response, timeout=self.seconds) is not None) for response in responses]


class JsonSchema(Config):
    """1 for an answer that is JSON and valid by a schema, else 0; a fenced block of JSON counts as the answer.

    How it is cheated: by the smallest valid value. Empty texts and lists, and whatever is not required left out, are
    valid unless the schema says otherwise (minLength, minItems, required, enum). Needs the extra `rewards`.
    """

    takes_text: ClassVar[bool] = True
    file: Path | None = None
    """file of the JSON schema, for every answer; what it refers to has to be in it. null: each record has its own"""
    field: Word = "schema"
    """without a file: field of the records that holds the schema, as an object or as its text"""

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.file else (self.field,)

    def score(self, prompts: Sequence[str], responses: Sequence[str], **columns: Any) -> list[float | None]:
        if self.file:
            return [float(_validator_of_file(self.file)(response)) for response in responses]
        return [
            None if schema is None else float(_validator(_as_text(schema), f"field {self.field!r}")(response))
            for response, schema in zip(responses, columns[self.field], strict=True)
        ]


def _as_text(schema: Any) -> str:
    return schema if isinstance(schema, str) else json.dumps(schema, sort_keys=True)


@functools.cache
def _validator_of_file(file: Path) -> Callable[[str], bool]:
    return _validator(json.dumps(read_json(file)), str(file))


@functools.lru_cache(maxsize=4096)
def _validator(text: str, place: str) -> Callable[[str], bool]:
    """A function of a text: whether it is valid by the schema that `text` writes."""
    try:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import validator_for
        from referencing import Registry
    except ImportError:
        raise TrineError("json_schema needs jsonschema, which is not installed: pip install 'trine[rewards]'") from None
    try:
        schema = parse_json(text)
        cls = validator_for(schema)
        cls.check_schema(schema)
    except (SchemaError, ValueError) as error:
        raise TrineError(f"{place} is no JSON schema: {getattr(error, 'message', error)}") from None
    validator = cls(schema, registry=Registry())  # an empty registry: nothing is fetched

    def check(text: str) -> bool:
        try:
            value = parse_json(_inner(text))
            json.dumps(value, allow_nan=False)
        except ValueError:
            return False
        return bool(validator.is_valid(value))

    return check


def _inner(text: str) -> str:
    """What stands in the text's only fenced block, or all of it."""
    parts = text.split("```")
    return parts[1].removeprefix("json") if len(parts) == 3 else text
