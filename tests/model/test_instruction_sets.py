"""The kernels of lesser processors, on this one: the same tests of equality with the plain formulas."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from trine.model.training_library import training_library
from trine.runtime.native_library import ARCHITECTURE

EQUALITY = ("tests/model/test_training_kernels.py", "tests/engine/test_native.py")
ROOT = Path(__file__).parents[2]


def lesser_instruction_sets() -> list[str]:
    """What this processor executes beside its own, in the compiler's words: AVX2 below AVX-512, SSE2 below all."""
    if platform.machine() not in ("x86_64", "AMD64") or training_library() is None:
        return []
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return ["x86-64"]
    return [*(["x86-64-v3"] if "avx512f" in flags else []), "x86-64"]


@pytest.mark.parametrize("architecture", lesser_instruction_sets())
def test_kernels_of_lesser_processors_compute_what_the_formulas_compute(architecture: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "not one"]
    done = subprocess.run(
        [*command, *EQUALITY], cwd=ROOT, env=os.environ | {ARCHITECTURE: architecture}, capture_output=True, text=True,
        check=False, timeout=500, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
