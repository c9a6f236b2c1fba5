"""The records of a task's file and the templates over them, each naming the record that it could not be filled with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trine.data.record_files import RecordForm, read_rows
from trine.runtime.errors import TrineError
from trine.runtime.seeds import generator_for

PACKAGE = "package:"
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
_ENVIRONMENT.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)  # plain text, not for HTML


@dataclass(frozen=True)
class Record:
    """One record with its place, `file:line`, by which messages and results name it."""

    place: str
    fields: Mapping[str, Any]


class Template:
    """A Jinja2 template over the fields of a record::

        Template("{{ a }} + {{ b }} =", "template").fill(Record("sums:1", {"a": 1, "b": 2}))  # "1 + 2 ="

    Raises `TrineError` naming `place` where it is no template, and the record where a field is missing.
    """

    def __init__(self, source: str, place: str) -> None:
        self.source, self.place = source, place
        try:
            self._template = _ENVIRONMENT.from_string(source)
        except TemplateError as error:
            raise TrineError(f"{place}: no Jinja2 template: {error}: {source!r:.80}") from None

    def fill(self, record: Record, **others: str) -> str:
        try:
            return self._template.render({**record.fields, **others})
        except Exception as error:  # templates call what fields offer, which may raise anything
            there = ", ".join(record.fields)
            raise TrineError(
                f"{record.place}: {self.place} {self.source!r:.80}: {error} (fields: {there:.200})"
            ) from None

    @cached_property
    def counts(self) -> "Counting":
        return Counting(self)


class Counting:
    """Whether a record counts: what the template gives is neither empty nor False, None or 0."""

    def __init__(self, template: Template) -> None:
        self.template = template

    def __call__(self, record: Record) -> bool:
        return self.template.fill(record).strip().lower() not in ("", "false", "none", "0", "0.0")


def find_records(name: str, folder: Path | None, place: str) -> Path:
    """The file that `records` or `pool` of a task names; `place` is the task, for messages."""
    if name.startswith(PACKAGE):
        package, _, path = name.removeprefix(PACKAGE).partition("/")
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise TrineError(f"{place}: {name} needs the package {package}, which is not installed")
        file = Path(next(iter(spec.submodule_search_locations))) / path
    else:
        file = Path(name).expanduser()
        file = file if folder is None else folder / file
    if not file.is_file():
        raise TrineError(f"{place}: {file} does not exist")
    return file


def read_records(path: Path, where: str | None = None, *, place: str = "where") -> list[Record]:
    """The records of a file that count. Raises `TrineError` at the first that cannot be read, and where none counts."""
    records = []
    for row in read_rows(path, RecordForm(())):
        if row.record is None:
            raise TrineError(f"{path}:{row.line}: {row.reason}")
        records.append(Record(f"{path.name}:{row.number}", row.record))
    if where is not None:
        records = list(filter(Template(where, place).counts, records))
    if not records:
        raise TrineError(f"{path} holds no records{' that count' if where is not None else ''} ({place})")
    return records


def chosen(records: Sequence[Record], count: int | None, seed: int, *labels: str) -> list[Record]:
    """At most `count` records at random, in their order; the same for the same seed."""
    if count is None or count >= len(records):
        return list(records)
    order = generator_for(seed, "items", *labels).permutation(len(records))
    return [records[index] for index in sorted(int(each) for each in order[:count])]
