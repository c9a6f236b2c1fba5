"""What a recipe is given from outside: `inputs: {reviews: null}`, `@reviews` in its stages, --set reviews=FILE."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from trine.pipeline.recipe_file import Entry
from trine.runtime.errors import TrineError

OURS = "trine:"


def with_inputs(
    inputs: Mapping[str, str | None], entries: list[Entry], overrides: Sequence[str] | Mapping[str, Any], place: str
) -> tuple[list[Entry], Sequence[str] | Mapping[str, Any]]:
    """(the stages with what stands for the recipe's inputs, the overrides that are left).

    Raises `TrineError` naming the first input that has no value.
    """
    written = (
        dict(overrides) if isinstance(overrides, Mapping) else dict(each.partition("=")[::2] for each in overrides)
    )
    given = {name: str(written[name]) for name in inputs if name in written}
    values = {name: given.get(name, default) for name, default in inputs.items()}
    missing = next((name for name, value in values.items() if not value), None)
    if missing is not None:
        raise TrineError(f"{place} needs --set {missing}=..., a file or a name; its first lines say of what form")
    found = {f"@{name}": _place(str(value)) for name, value in values.items()}
    stages = [entry.model_copy(update={"config": _replaced(entry.config, found)}) for entry in entries]
    if isinstance(overrides, Mapping):
        return stages, {key: value for key, value in overrides.items() if key not in inputs}
    return stages, [each for each in overrides if each.partition("=")[0] not in inputs]


def _replaced(value: Any, found: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _replaced(each, found) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, found) for each in value]
    return _with_place(value, found) if isinstance(value, str) else value


def _with_place(value: str, found: Mapping[str, str]) -> str:
    """`@name`, or a path below it: `@quickstart/reward` where the input is a folder of runs."""
    name, slash, rest = value.partition("/")
    return f"{found[name]}{slash}{rest}" if name in found else value


def _place(value: str) -> str:
    """The path of a file that comes with Trine; any other value as it is."""
    if not value.startswith(OURS):
        return value
    return str(files("trine.pipeline").joinpath("examples", value.removeprefix(OURS)))
