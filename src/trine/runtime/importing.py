"""Modules that a user names, as in package.module:name: what is installed, or a file in the working directory."""

import os
import sys
from importlib import import_module as _import
from types import ModuleType
from typing import Any

from trine.runtime.errors import TrineError
from trine.runtime.foreign import FOREIGN_ERRORS, told


def search_working_directory() -> None:
    """Let imports find the working directory's modules, after everything installed: nothing there shadows a package.

    `python -m trine` puts that folder first by itself; the command `trine` would not search it at all.
    """
    try:
        folder = os.getcwd()  # noqa: PTH109  (pathlib would double the time of `trine --help`)
    except OSError:  # it was removed
        return
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)


def import_module(name: str) -> ModuleType:
    """The module called `name`, installed or in the working directory."""
    search_working_directory()
    return _import(name)


def import_named(name: str, what: str) -> Any:
    """What `package.module:name` stands for; a `TrineError` calls it `what`."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except FOREIGN_ERRORS as error:  # the module is the user's: importing it may raise anything
        raise TrineError(f"{what} {name!r} cannot be imported: {told(error)}; write package.module:function") from None
