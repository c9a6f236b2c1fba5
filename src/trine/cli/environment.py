"""`trine env`: what a bug report needs. Names of people, machines and folders are left out, and so are secrets."""

import ctypes
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
import torch

from trine import __version__
from trine.runtime.device import available_cores, choose_hardware
from trine.runtime.errors import TrineError
from trine.runtime.launch import launch

# Vector instructions that the kernels and PyTorch make a difference by, as Linux names them.
INSTRUCTIONS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "sha_ni",
    "asimd", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip
# Their values are words and numbers; variables that may hold a path or a key are not shown.
SETTINGS = (
    "TRINE_DEVICE", "TRINE_PRECISION", "TRINE_NATIVE", "TRINE_NATIVE_ARCHITECTURE", "TRINE_PRODUCTS", "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY", "WORLD_SIZE",
)  # fmt: skip


def describe_environment() -> str:
    """Lines of `name: value`."""
    return "".join(f"{name + ':':<16}{value}\n" for name, value in _rows())


def _rows() -> Iterator[tuple[str, str]]:
    yield "trine", __version__
    yield "python", f"{platform.python_version()}, {platform.python_implementation()}"
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield "processor", _processor()
    yield "threads", f"{available_cores()} usable of {os.cpu_count()}, PyTorch uses {torch.get_num_threads()}"
    yield "memory", f"{psutil.virtual_memory().total / 2**30:.1f} GiB, {_free():.1f} GiB of it available"
    yield "compiler", _compiler()
    yield "kernels", _kernels()
    yield "libraries", _libraries()
    yield "fp32 products", _products()
    yield "torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}"
    yield "gpu", ", ".join(_gpus()) or "none"
    yield "takes", _hardware()
    yield "processes", str(launch().size)
    yield "settings", ", ".join(f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ) or "none"
    yield from _packages()


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return platform.processor() or "unknown"
    name = re.search(r"^(?:model name|CPU part)\s*:\s*(.+)$", text, re.M)
    features = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.M)
    flags = set(features[1].split()) if features else set()
    return (
        f"{name[1] if name else 'unknown'}; {' '.join(each for each in INSTRUCTIONS if each in flags) or 'no vectors'}"
    )


def _free() -> float:
    return float(psutil.virtual_memory().available) / 2**30


def _compiler() -> str:
    """The first line of what the compiler says of itself, without its folder."""
    found = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not found:
        return "none found; PyTorch's own operations are used"
    try:
        command = shlex.split(found)
        told = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return "the one named by CXX does not run"
    return re.sub(r"\S*/", "", told.splitlines()[0]) if told else "unknown"


def _kernels() -> str:
    from trine.engine.native.library import native_library
    from trine.model.training_library import training_library

    return f"decoding {_state(native_library)}, training {_state(training_library)}"


def _state(make: Callable[[], ctypes.CDLL | None]) -> str:
    library = make()
    return "not available" if library is None else f"compiled for {library.trine_instructions().decode()}"


def _libraries() -> str:
    """What PyTorch multiplies matrices with."""
    told = torch.__config__.show()
    names = {"MKL": r"MKL\) Version (\S+)|oneAPI Math Kernel Library Version (\S+)", "oneDNN": r"MKL-DNN (v\S+)"}
    found = {name: re.search(pattern, told) for name, pattern in names.items()}
    known = [f"{name} {next(filter(None, match.groups())).split('-')[0]}" for name, match in found.items() if match]
    return ", ".join(known) or "unknown"


def _products() -> str:
    """How many shapes each library has won on this machine."""
    from trine.model.products import measured_products

    fastest = Counter(measured_products().values())
    counts = ", ".join(f"{name} {count}" for name, count in fastest.most_common())
    return f"fastest of the shapes that have occurred: {counts}" if counts else "not measured yet"


def _gpus() -> Iterator[str]:
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        yield "Apple (mps)"


def _hardware() -> str:
    try:
        return choose_hardware().description
    except TrineError as error:
        return str(error)


def _packages() -> Iterator[tuple[str, str]]:
    """Versions of what Trine needs, and which extras are complete."""
    extras: dict[str, list[str]] = {}
    for written in requires("trine") or ():
        name = re.split(r"[^\w.-]", written, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", written)
        if name.lower() != "trine":
            extras.setdefault(extra[1] if extra else "", []).append(name)
    for group, names in sorted(extras.items()):
        found = ", ".join(f"{name} {_version(name)}" for name in names)
        yield (f"[{group}]" if group else "packages"), found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
