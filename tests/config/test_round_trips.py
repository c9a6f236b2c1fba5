"""Every field of every config: a value written as an option, in YAML, or in Python is the same."""

import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from tests.config.generated import typed, value_of
from trine.cli.arguments import parse
from trine.config.base import Config
from trine.config.fields import ConfigField, config_fields, from_texts, nothing
from trine.config.loading import validated, with_override
from trine.config.registry import COMMANDS, STAGES, command_config_class
from trine.config.values import read
from trine.config.yaml_text import read_mapping, written

NAMES = [*STAGES, *COMMANDS]
# The values of `set` are read by the fields of the steps: tests/pipeline/test_overrides.py.
FIELDS = [(name, field) for name in NAMES for field in config_fields(command_config_class(name)) if field.name != "set"]
IDS = [f"{name}-{field.name}" for name, field in FIELDS]


def values_for(field: ConfigField, count: int) -> list[Any]:
    random_ = random.Random(field.name)
    return [value_of(field.kind, random_) for _ in range(count)]


def plain(value: Any) -> Any:
    """As `config.yaml` holds it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def field_value(field: ConfigField, given: Any) -> Any:
    """What the field alone makes of a value."""
    return TypeAdapter(field.kind).validate_python(read(field.kind, given))


@pytest.mark.parametrize("name, field", FIELDS, ids=IDS)
def test_a_value_is_the_same_however_it_is_written(name: str, field: ConfigField) -> None:
    """5.1, 5.2: an option, YAML and Python are read by the field's type, and so alike."""
    for value in values_for(field, 12):
        key = field.name.rpartition(".")[2]
        expected = field_value(field, value)
        from_yaml = read_mapping(written({key: plain(value)}), "here")[key]
        assert field_value(field, from_yaml) == expected, value
        given = nothing(field, "here") if value is None else from_texts(field, typed(field.kind, value), "here")
        assert field_value(field, given) == expected, value


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_command_line_is_the_config_that_python_makes(name: str) -> None:
    """5.1: values of all fields at once, on the command line, in YAML and in Python."""
    cls, checked = command_config_class(name), 0
    for seed in range(40):
        random_ = random.Random(seed)
        needed = {"evaluate": ("models", "tasks"), "reward": ("model", "labels")}.get(name, ())
        fields = [f for f in config_fields(cls) if f.required or f.name in needed or random_.random() < 0.1]
        fields = [field for field in fields if field.name != "set"]
        values = {field.name: value_of(field.kind, random_) for field in fields}
        nested: dict[str, Any] = {}
        for key, value in values.items():
            with_override(nested, key, plain(value))
        expected = config_or_none(cls, nested)
        if expected is not None:
            checked += 1
            assert parse(name, cls, options(fields, values))[0] == expected
            assert validated(cls, read_mapping(written(nested), "here"), "here") == expected
    assert checked > 3


def config_or_none(cls: type[Config], values: dict[str, Any]) -> Config | None:
    """None where the values contradict each other."""
    try:
        return cls.model_validate(values)
    except ValidationError:
        return None


def options(fields: list[ConfigField], values: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for field in fields:
        if values[field.name] is None:
            found.append(f"--no-{field.name}")
        else:
            found += [f"--{field.name}={text}" for text in typed(field.kind, values[field.name])]
    return found
