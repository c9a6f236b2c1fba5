"""C++ compiled once, at first use, with the user's own compiler, and kept.

A few seconds at first use, nothing after: a library is kept under a name that is a digest of its sources, compiler,
options and processor. Without a compiler, or with TRINE_NATIVE=0, there is none, and PyTorch alone does the work.
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
    "-fopenmp",
    "-shared",
    "-fPIC",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-w",
)


@dataclass(frozen=True)
class NativeSource:
    """What is compiled: `files`, the first of them the one to compile, the others what it includes.

    `task` and `loss` say what the library is for and what is lost without it, to whoever has no compiler.
    """

    name: str
    files: tuple[Path, ...]
    task: str
    loss: str


def load_native(source: NativeSource) -> ctypes.CDLL | None:
    """The library, compiled if need be; None where that is not possible (said once) or not wanted."""
    if os.environ.get("TRINE_NATIVE", "1") == "0":
        return None
    found = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not found:
        say(f"no C++ compiler was found: {source.loss}; install g++ to change that")
        return None
    try:
        return _loaded(source, shlex.split(found))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: a user without a home
        reason = getattr(error, "stderr", None) or error
        say(f"{found} could not build {source.task}; {source.loss}: {reason}")
        return None


def _loaded(source: NativeSource, compiler: list[str]) -> ctypes.CDLL:
    path = _built(source, compiler)
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # what was kept is damaged
        path.unlink(missing_ok=True)
        return ctypes.CDLL(str(_built(source, compiler)))


def _built(source: NativeSource, compiler: list[str]) -> Path:
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    contents = [file.read_bytes() for file in source.files]
    path = _kept_in() / f"{source.name}-{sha256_of(*contents, version, ' '.join(OPTIONS), _processor())[:24]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as aside:
            made = Path(aside) / path.name
            folders = dict.fromkeys(f"-I{file.parent}" for file in source.files)
            command = [*compiler, *OPTIONS, *folders, str(source.files[0]), "-o", str(made)]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            with open(made, "rb") as file:
                os.fsync(file.fileno())
            made.replace(path)
            sync_folder(path.parent)
    return path


def _kept_in() -> Path:
    """A folder of the user's own: what is loaded from there runs."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    root = root if root.is_absolute() else Path.home() / ".cache"
    folder = root / "trine" / "native"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if hasattr(os, "getuid") and (folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022):
        raise OSError(f"{folder} can be written by other users; make it your own (chmod 700)")
    return folder


def _processor() -> str:
    """What -march=native will see: the processor's name and features."""
    keys = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(keys)}) or lines[:1])
