"""`src/trine/__init__.pyi`: what type checkers and editors know of `import trine`, written from the registry.

python -m trine.api.stub      # after a config or a stage has changed; a test compares
"""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

import trine
from trine.api.names import COMMANDS, NAMES, function_name
from trine.config.base import Config, ModelName
from trine.config.registry import STAGES, command_config_class

STUB = Path(trine.__path__[0]) / "__init__.pyi"
_RETURNS = {"run": "RecipeResult", "quickstart": "RecipeResult", "write_report": "Report"}
_MODEL_NAME = get_args(ModelName)[1]
_CONTAINERS: dict[Any, str] = {Literal: "Literal", tuple: "Sequence", dict: "Mapping"}


def stub() -> str:
    """The stub's text, as `ruff format` leaves it."""
    functions: list[tuple[str, type[Config], str]] = [
        (function_name(name), stage.config_class(), "Result") for name, stage in STAGES.items()
    ]
    functions += [(name, command_config_class(command), _RETURNS[name]) for name, (command, _) in COMMANDS.items()]
    configs = {cls for _, owner, _ in functions for cls in _configs(owner)}
    references = [(f"{cls.__module__}:{cls.__name__}", cls.__name__) for cls in configs]
    references += [(reference, name) for name, reference in NAMES.items()]
    imports = sorted((module, name) for reference, name in references for module in [reference.partition(":")[0]])
    lines = [
        "# Written by `python -m trine.api.stub`; a test compares.",
        "import os",
        "from collections.abc import Mapping, Sequence",
        "from typing import Any, Literal",
        "",
        *(f"from {module} import {name} as {name}" for module, name in imports),
        "",
        "_Path = str | os.PathLike[str]",
        "",
        "__version__: str",
    ]
    for name, cls, returned in functions:
        lines += ["", *_function(name, cls, returned)]
    return "\n".join(lines) + "\n"


def _function(name: str, cls: type[Config], returned: str) -> Iterator[str]:
    yield f"def {name}("
    fields = cls.model_fields.items()
    for field_name, field in fields:
        if field.is_required():
            yield f"    {field_name}: {_type(field)},"
    yield "    *,"
    for field_name, field in fields:
        if not field.is_required():
            yield f"    {field_name}: {_type(field)} = ...,"
    yield f") -> {returned}:"
    yield f'    """{(cls.__doc__ or "").strip().splitlines()[0]}"""'


def _type(field: FieldInfo) -> str:
    return "_Path" if _MODEL_NAME in field.metadata else _written(field.annotation)


def _written(kind: Any) -> str:
    """A config's type as what a caller may pass for it: lists for tuples, mappings for configs, any path."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return "_Path" if _MODEL_NAME in inner else _written(inner[0])
    if origin in (Union, types.UnionType):
        return " | ".join(_written(each) for each in inner)
    if origin in _CONTAINERS:
        shown = [_quoted(each) if origin is Literal else _written(each) for each in inner if each is not Ellipsis]
        return f"{_CONTAINERS[origin]}[{', '.join(shown)}]"
    if isinstance(kind, type) and issubclass(kind, Config):
        return f"{kind.__name__} | Mapping[str, Any]"
    return {Path: "_Path", type(None): "None"}.get(kind) or kind.__name__


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _configs(owner: type[Config]) -> Iterator[type[Config]]:
    """The configs that `owner`'s arguments name."""
    for field in owner.model_fields.values():
        for each in (field.annotation, *get_args(field.annotation)):
            kind = get_args(each)[0] if get_origin(each) is Annotated else each
            if isinstance(kind, type) and issubclass(kind, Config):
                yield kind


if __name__ == "__main__":
    STUB.write_text(stub(), "utf-8")
