"""Whether the code that a run calls is still the same: the source of a function's or class's module.

Only what the user wrote is read, not installed packages, whose versions are a matter of the environment. What the
module imports in turn, files it reads and services it asks are not seen.
"""

import inspect
import sys
import sysconfig
from functools import partial
from pathlib import Path
from types import ModuleType

from trine.runtime.files import sha256_of, sha256_of_file


def source_digest(name: str, *defined: object) -> str:
    """Hash of `name` and of the user's own source files that the objects (modules, classes, functions) stand in."""
    return sha256_of(name, *sorted(map(sha256_of_file, own_files(*defined))))


def own_files(*defined: object) -> set[Path]:
    """The source files of the objects that neither belong to Python nor to an installed package."""
    return {file for each in defined if (file := _source_file(each)) is not None and not _is_installed(file)}


def _source_file(defined: object) -> Path | None:
    """The file of a module, or of the module that an object or its class was defined in."""
    if not isinstance(defined, ModuleType):
        while isinstance(defined, partial):
            defined = defined.func
        code = inspect.unwrap(defined) if callable(defined) else defined
        name = getattr(code, "__module__", None) or type(code).__module__
        defined = sys.modules.get(str(name), defined)
    place = getattr(defined, "__file__", None)
    return Path(place) if place and Path(place).is_file() else None


def _is_installed(file: Path) -> bool:
    """Whether it belongs to Python or to an installed package."""
    paths = sysconfig.get_paths()
    homes = (Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return any(file.resolve().is_relative_to(home) for home in homes)
