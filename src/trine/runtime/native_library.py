"""C++ kernels, compiled at first use by the user's own compiler and kept.

Compiling takes a few seconds, once. A library's file name has two digests: of its sources, options and processor, and
of the compiler. Where a compiler is, that one's library is loaded, or built; where none is, as in many containers, any
library of the same sources and processor. They are looked for, and kept, in `TRINE_NATIVE_FOLDER` if that is set (a
folder to ship, with an image say), the user's cache folder, and a temporary folder of the user's: the first that can be
written to and lets libraries run. Without any, or with TRINE_NATIVE=0, PyTorch's own operations are used.

They are built for the processor at hand (-march=native; -mcpu=native on ARM). `TRINE_NATIVE_ARCHITECTURE` names another
that it can execute, in the compiler's words: `x86-64-v3` (AVX2), `x86-64` (SSE2). So kernels of lesser processors are
tested on better ones.
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

FOLDER, ARCHITECTURE = "TRINE_NATIVE_FOLDER", "TRINE_NATIVE_ARCHITECTURE"
OPTIONS = (
    "-O3",
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
    uses_openmp: bool = False  # where the compiler has it: to work with PyTorch's threads


def load_native(source: NativeSource) -> ctypes.CDLL | None:
    """The library, compiled if not kept; None if it cannot be had (a message says so) or TRINE_NATIVE=0."""
    if os.environ.get("TRINE_NATIVE", "1") == "0":
        return None
    try:
        compiler = _compiler()
        if compiler is not None:
            return _load_or_build(source, compiler)
        problem = f"no C++ compiler was found: {source.loss}; install g++ to change that"
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: the user has no home folder
        reason = getattr(error, "stderr", None) or error
        named = os.environ.get("CXX") or "the C++ compiler"
        problem = f"{named} could not build {source.task}; {source.loss}: {reason}"
    library = _built_elsewhere(source)
    if library is None:
        say(problem)
    return library


def kept_folder() -> Path | None:
    """The folder where what holds for this machine is kept: the first of the user's own that can be written to."""
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if _is_private(folder) and os.access(folder, os.W_OK):
            return folder
    return None


def processor_digest(*further: str) -> str:
    """16 hexadecimal digits for this processor, the one that kernels are built for, and what else counts."""
    return sha256_of(_processor(), *_options(), *further)[:16]


def _options() -> tuple[str, ...]:
    named = os.environ.get(ARCHITECTURE)
    if named:
        return (*OPTIONS, f"-march={named}")
    # Apple's clang knows no -march=native for its own processors.
    return (*OPTIONS, "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native")


def _compiler() -> list[str] | None:
    """The command of the compiler: CXX, a program with or without options, else the first of the usual names."""
    given = os.environ.get("CXX", "").strip()
    if not given:
        found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        return [found] if found else None
    if shutil.which(given):  # its path may hold blanks
        return [given]
    try:
        return shlex.split(given)
    except ValueError as error:
        raise OSError(f"CXX={given} is no command line ({error}); correct or unset it") from None


def _load_or_build(source: NativeSource, compiler: list[str]) -> ctypes.CDLL:
    told = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    name = f"{_prefix(source)}{sha256_of(told, *compiler[1:])[:8]}.so"
    kept = (_loaded(folder / name) for folder in _folders() if _is_private(folder))
    library = next((each for each in kept if isinstance(each, ctypes.CDLL)), None)
    if library is not None:
        return library
    with tempfile.TemporaryDirectory() as temporary:
        built = Path(temporary) / name
        _compile(source, compiler, built)
        return _keep(source, built)


def _compile(source: NativeSource, compiler: list[str], built: Path) -> None:
    folders = dict.fromkeys(f"-I{file.parent}" for file in source.files)
    for openmp in (("-fopenmp",), ()) if source.uses_openmp else ((),):
        command = [*compiler, *_options(), *openmp, *folders, str(source.files[0]), "-o", str(built)]
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            return
        except subprocess.CalledProcessError:
            if not openmp:
                raise


def _keep(source: NativeSource, built: Path) -> ctypes.CDLL:
    """Copy a library to the first folder that keeps it and lets it run, and load it from there."""
    problems: list[str] = []
    for folder in _folders():
        path = folder / built.name
        try:
            _place(built, path)
        except OSError as error:
            problems.append(str(error))
            continue
        library = _loaded(path)
        if isinstance(library, ctypes.CDLL):
            if problems:
                say(f"{source.task} is kept in {folder}: {problems[0]}; {FOLDER} names another folder")
            return library
        path.unlink(missing_ok=True)
        problems.append(f"{folder} does not let libraries run (is it mounted noexec?): {library}")
    raise OSError("; ".join(problems))


def _place(built: Path, path: Path) -> None:
    """Copy `built` to `path` in one step; `OSError` unless its folder is the user's own."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not _is_private(path.parent):
        raise OSError(f"{path.parent} can be written by other users; make it your own (chmod 700)")
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        aside = Path(temporary) / path.name
        shutil.copyfile(built, aside)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    sync_folder(path.parent)


def _built_elsewhere(source: NativeSource) -> ctypes.CDLL | None:
    """A library of these sources and this processor, whatever compiler built it."""
    prefix = _prefix(source)
    for folder in _folders():
        for path in sorted(folder.glob(f"{prefix}*.so")) if _is_private(folder) else ():
            library = _loaded(path)
            if isinstance(library, ctypes.CDLL):
                return library
    return None


def _prefix(source: NativeSource) -> str:
    contents = [file.read_bytes() for file in source.files]
    return f"{source.name}-{sha256_of(*contents, ' '.join(_options()), _processor())[:24]}-"


def _loaded(path: Path) -> ctypes.CDLL | OSError:
    """The library at `path`, or why it cannot be loaded."""
    if not path.exists():
        return FileNotFoundError(f"{path} does not exist")
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:  # damaged, or in a folder that lets no library run
        return error


def _folders() -> list[Path]:
    """Where libraries may be, in order."""
    named = os.environ.get(FOLDER)
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        cache = [(root if root.is_absolute() else Path.home() / ".cache") / "trine" / "native"]
    except RuntimeError:  # the user has no home folder
        cache = []
    user = os.getuid() if hasattr(os, "getuid") else ""
    return [*([Path(named).absolute()] if named else []), *cache, Path(tempfile.gettempdir()) / f"trine-native-{user}"]


def _is_private(folder: Path) -> bool:
    """Whether only the user or the system's owner can write to `folder`, since code loaded from it is executed."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    state = folder.stat()
    return not hasattr(os, "getuid") or (state.st_uid in (os.getuid(), 0) and not state.st_mode & 0o022)


def _processor() -> str:
    """The processor's name and features, on which -march=native depends."""
    keys = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(keys)}) or lines[:1])
