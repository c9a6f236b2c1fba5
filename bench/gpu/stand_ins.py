"""A PyTorch image lacks some of Trine's dependencies; none of what is measured there does work in them.

Configs are pydantic classes: `BaseModel` here has their fields, defaults and names, and reads and checks nothing. Of
other packages only the import has to succeed. What is installed is left alone.
"""

import importlib.util
import inspect
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import MagicMock

REPLACED = (
    "pydantic", "pydantic_core", "annotated_types", "tiktoken", "regex", "gguf", "pyarrow", "rich", "yaml", "jinja2",
    "gymnasium", "PIL", "threadpoolctl", "psutil", "prompt_toolkit", "matplotlib", "hypothesis",
)  # fmt: skip


class BaseModel:
    """A config by its class alone: annotated names, defaults from the class, values as they are given."""

    def __init__(self, **values: Any) -> None:
        fields = {name for cls in type(self).__mro__[:-1] for name in inspect.get_annotations(cls)}
        for name, value in values.items():
            if name not in fields:
                raise TypeError(f"{type(self).__name__} has no field {name}")
            setattr(self, name, value)

    def model_copy(self, update: dict[str, Any]) -> "BaseModel":
        copy = type(self)(**self.__dict__)
        copy.__dict__.update(update)
        return copy


def _unchanged(*_arguments: Any, **_options: Any) -> Any:
    """A decorator that leaves a method as it is: nothing calls validators here."""
    return lambda method: method


class _Placeholder(ModuleType):
    """A module of which any name can be imported, and nothing is expected."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=f"{self.__name__}.{name}")


class _Finder(MetaPathFinder, Loader):
    """Finds the packages that are missing, and whatever is imported below them."""

    def __init__(self, missing: set[str]) -> None:
        self.missing = missing

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self.missing else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module: Any = _Placeholder(spec.name)
        if spec.name == "pydantic":
            module.BaseModel, module.ValidationError = BaseModel, ValueError
            module.ConfigDict = dict
            module.model_validator = module.field_validator = _unchanged
        return module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def standing_in() -> list[str]:
    """What is missing and was replaced."""
    return sorted(name for finder in sys.meta_path if isinstance(finder, _Finder) for name in finder.missing)


def install() -> None:
    """Put stand-ins in the place of what is missing; once."""
    absent = {name for name in REPLACED if not _is_installed(name)}
    if absent:
        sys.meta_path.insert(0, _Finder(absent))


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
