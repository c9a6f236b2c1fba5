"""The allocator's switches exist in glibc only, and elsewhere nothing happens."""

import platform
import subprocess
import sys

import pytest

from trine.runtime.allocator import keep_freed_memory


def test_elsewhere_than_in_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_blocks_come_back_without_new_pages() -> None:
    """In a process of its own: the switches cannot be taken back."""
    script = """
import resource, sys
from trine.runtime.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def touch():
    block = bytearray(64 << 20)
    del block
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", script, mode], capture_output=True, check=True).stdout)
        for mode in ("keep", "plain")
    }
    assert faults["keep"] < 100 or faults["keep"] < faults["plain"] / 10
