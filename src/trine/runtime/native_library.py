"""C++ kernels, compiled at first use by the user's own compiler and cached.

Compiling takes a few seconds, once: the file name of a library is a digest of its sources, compiler, options and
processor. Without a compiler, or with TRINE_NATIVE=0, no library is loaded and PyTorch's own operations are used.
"""

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from trine.runtime.files import sha256_of, sync_folder
from trine.runtime.progress import say

OPTIONS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-pthread",
    "-shared",
    "-fPIC",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-w",
)


@dataclass(frozen=True)
class NativeSource:
    """The files of a library: the first is compiled, the others are its headers.

    `task` and `loss` are for the message without a compiler: what the library does, and the effect of its absence.
    """

    name: str
    files: tuple[Path, ...]
    task: str
    loss: str


def load_native(source: NativeSource) -> ctypes.CDLL | None:
    """The library, compiled if not cached; None if it cannot be built (a message says so) or TRINE_NATIVE=0."""
    if os.environ.get("TRINE_NATIVE", "1") == "0":
        return None
    found = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not found:
        say(f"no C++ compiler was found: {source.loss}; install g++ to change that")
        return None
    try:
        return _load(source, shlex.split(found))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: the user has no home folder
        reason = getattr(error, "stderr", None) or error
        say(f"{found} could not build {source.task}; {source.loss}: {reason}")
        return None


def _load(source: NativeSource, compiler: list[str]) -> ctypes.CDLL:
    path = _build(source, compiler)
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # the cached file is damaged
        path.unlink(missing_ok=True)
        return ctypes.CDLL(str(_build(source, compiler)))


def _build(source: NativeSource, compiler: list[str]) -> Path:
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    contents = [file.read_bytes() for file in source.files]
    path = _cache_folder() / f"{source.name}-{sha256_of(*contents, version, ' '.join(OPTIONS), _processor())[:24]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            library = Path(temporary) / path.name
            folders = dict.fromkeys(f"-I{file.parent}" for file in source.files)
            command = [*compiler, *OPTIONS, *folders, str(source.files[0]), "-o", str(library)]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            with open(library, "rb") as file:
                os.fsync(file.fileno())
            library.replace(path)
            sync_folder(path.parent)
    return path


def _cache_folder() -> Path:
    """A cache folder that only the user can write to, since code loaded from it is executed."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    root = root if root.is_absolute() else Path.home() / ".cache"
    folder = root / "trine" / "native"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if hasattr(os, "getuid") and (folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022):
        raise OSError(f"{folder} can be written by other users; make it your own (chmod 700)")
    return folder


def _processor() -> str:
    """The processor's name and features, on which -march=native depends."""
    keys = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(keys)}) or lines[:1])
