# ruff: noqa: E501, PTH (programs under test stand on one line each, and do what paths do without Path)
"""Programs that try to harm the machine, or to outlive their run. All end within their limits, in any isolation."""

import os
import time
from pathlib import Path

import psutil
import pytest

from tests.sandbox.conftest import run


def test_an_endless_loop_ends_by_processor_time(isolation: str) -> None:
    verdict = run("def f(x):\n while True: pass", cpu_seconds=1)
    assert (verdict.passed, verdict.outcome) == (False, "cpu")
    assert "1 s of processor time" in verdict.message


def test_an_endless_loop_while_loading_that_ignores_signals_ends_too(offered: None) -> None:
    code = "import signal\nfor n in range(1, 65):\n try: signal.signal(n, signal.SIG_IGN)\n except (OSError, ValueError): pass\nwhile 1: pass"
    assert run(code, cpu_seconds=1).outcome == "cpu"


def test_sleeping_ends_by_the_clock(isolation: str) -> None:
    started = time.monotonic()
    verdict = run("import time\ndef f(x): time.sleep(1000)", seconds=0.3)
    assert (verdict.outcome, verdict.message) == ("time", "not done after 0.3 s")
    assert time.monotonic() - started < 10


def test_memory_is_limited(isolation: str) -> None:
    for code in ("def f(x): return len(bytearray(100 << 30))", "def f(x):\n a = [0]\n while True: a += a"):
        verdict = run(code, memory="200MB")
        assert not verdict.passed
        assert "MemoryError" in verdict.message
        assert verdict.memory < 250e6


def test_memory_of_other_kinds_is_limited_too(isolation: str) -> None:
    """Anonymous files, System V segments, and files in memory are no way around."""
    code = """
import ctypes, os, mmap
def f(x):
    done = 0
    for attempt in (lambda: os.memfd_create("a"), lambda: mmap.mmap(-1, 1 << 33)):
        try: attempt(); done += 1
        except (OSError, ValueError): pass
    libc = ctypes.CDLL(None)
    return done + (libc.shmget(0, 1 << 20, 0o1600) != -1)
"""
    assert run(code, "assert f(1) == 0").passed


def test_a_flood_of_output_ends_the_run(isolation: str) -> None:
    verdict = run("def f(x):\n while True: print('x' * 10000)", output="100KB")
    assert verdict.outcome == "output"
    assert len(verdict.output) == 100_000
    assert run("import os\nwhile True: os.write(2, b'y' * 65536)", output="100KB").outcome == "output"


def test_output_within_its_limit_is_kept(isolation: str) -> None:
    verdict = run("import sys\ndef f(x):\n print('hello', x)\n print('了', file=sys.stderr)\n return 4")
    assert verdict.passed
    assert verdict.output == "hello 2\n了\n"


FORKS = {
    "fork": "import os\ndef f(x):\n while True: os.fork()",
    "bomb": "import os\ndef f(x):\n for n in range(1000):\n  try: os.fork()\n  except OSError: pass",
    "subprocess": "import subprocess\ndef f(x): return subprocess.run(['/bin/sh', '-c', 'echo 4']).returncode + 4",
    "multiprocessing": "import multiprocessing\ndef f(x): return multiprocessing.Pool(4).map(abs, [4])[0]",
    "posix_spawn": "import os\ndef f(x): return os.posix_spawn('/bin/true', ['true'], {}) and 4",
    "syscall": "import ctypes\ndef f(x):\n libc = ctypes.CDLL(None)\n return 4 if max(libc.syscall(n, 17, 0, 0, 0, 0) for n in (56, 57, 58)) > 0 else 0",
}


@pytest.mark.parametrize("name", FORKS)
def test_no_process_can_be_started(name: str, isolation: str) -> None:
    before = len(psutil.pids())
    assert not run(FORKS[name], cpu_seconds=1, seconds=20).passed
    assert len(psutil.pids()) < before + 200


def test_a_fork_bomb_where_processes_are_allowed_ends_with_its_run(offered: None) -> None:
    needs_namespaces()
    verdict = run(
        "import os\ndef f(x):\n while True:\n  try: os.fork()\n  except OSError: pass",
        processes=8,
        cpu_seconds=1,
        seconds=1,
    )
    assert not verdict.passed


def test_processes_work_where_they_are_allowed(offered: None) -> None:
    needs_namespaces()
    code = "import os\ndef f(x):\n if os.fork() == 0: os._exit(3)\n return os.waitstatus_to_exitcode(os.wait()[1])"
    assert run(code, "assert f(1) == 3", processes=4).passed


SURVIVOR = """
import os, signal, time
def f(x):
    if os.fork() == 0:
        os.setsid()
        for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            os.closerange(0, 64)
            MARK = bytearray(b'{mark}')
            time.sleep(1000)
        os._exit(0)
    return 4
"""


def test_a_child_that_forks_twice_into_a_session_of_its_own_does_not_survive(offered: None) -> None:
    needs_namespaces()
    before = set(psutil.pids())
    verdict = run(SURVIVOR, processes=8)
    assert verdict.passed  # it answers as it should: what matters is what is left of it
    assert not left_over(before)


def test_such_a_child_does_not_survive_without_isolation_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trine.sandbox.running.STRONGEST", "none")
    before = set(psutil.pids())
    assert run(SURVIVOR, isolation="none").passed
    assert not left_over(before)


def test_files_outside_cannot_be_seen_or_written(isolation: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("4")
    tmp_path.chmod(0o777)
    secret.chmod(0o666)
    reads = "def f(x):\n with open({!r}) as file: return int(file.read())"
    assert not run(reads.format(str(secret))).passed
    for target in (secret, tmp_path / "new", Path("/new"), Path("/usr/lib/new"), Path(os.__file__)):
        writes = f"def f(x):\n with open({str(target)!r}, 'a') as file: file.write('x')\n return 4"
        assert not run(writes).passed, target
    code = """
import os
def f(path):
    done = []
    for attempt in (lambda: os.chmod(path, 0), lambda: os.utime(path, (1, 1)), lambda: os.truncate(path, 0),
                    lambda: os.unlink(path), lambda: os.rename(path, path + "x"), lambda: os.symlink(path, path + "y"),
                    lambda: os.link(path, path + "z"), lambda: os.mkdir(path + "d"), lambda: os.rmdir(os.path.dirname(path)),
                    lambda: os.setxattr(path, "user.a", b"b"), lambda: os.chown(path, 1, 1), lambda: os.mkfifo(path + "f")):
        try: attempt(); done.append(attempt.__code__.co_names)
        except OSError: pass
    return done
"""
    verdict = run(code, f"assert f({str(secret)!r}) == [], f({str(secret)!r})")
    assert verdict.passed, verdict.message
    assert secret.read_text() == "4"
    assert (secret.stat().st_mode & 0o777, [path.name for path in tmp_path.iterdir()]) == (0o666, ["secret"])


def test_benchmarks_that_are_installed_cannot_be_read(isolation: str) -> None:
    import numpy as np

    paths = [
        np.__file__,
        "/etc/passwd",
        "/proc/self/environ",
        "/proc/1/cmdline",
        "/home",
        str(Path(__file__).resolve()),
    ]
    code = """
import os
def f(paths):
    seen = []
    for path in paths:
        try: seen += [path] if (os.listdir(path) if os.path.isdir(path) else open(path).read(1)) else []
        except OSError: pass
    return seen
"""
    verdict = run(code, f"assert f({paths!r}) == [], f({paths!r})")
    assert verdict.passed, verdict.message


def test_the_folder_is_empty_and_its_own(offered: None) -> None:
    needs_namespaces()
    code = """
import os
def f(x):
    before = os.listdir()
    with open("note", "w") as file: file.write("x" * x)
    return before
"""
    for _ in range(2):
        assert run(code, "assert f(10) == []").passed
    assert (
        "No space left" in run(code, "f(20_000_000)", files="1MB").message
        or "too large" in run(code, "f(20_000_000)", files="1MB").message
    )
    many = "def f(x):\n for n in range(x):\n  with open(str(n), 'w') as file: file.write('y' * 100_000)"
    assert "No space left" in run(many, "f(1000)", files="1MB").message


def test_there_is_no_network(isolation: str) -> None:
    code = """
import socket
def f(x):
    done = 0
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            try: socket.socket(family, kind); done += 1
            except OSError: pass
    return done
"""
    assert run(code, "assert f(1) == 0").passed


def test_the_environment_is_empty(isolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "4")
    code = "import ctypes, os\ndef f(x):\n libc = ctypes.CDLL(None)\n libc.getenv.restype = ctypes.c_char_p\n return [dict(os.environ), libc.getenv(b'SECRET_TOKEN'), libc.getenv(b'PATH')]"
    assert run(code, "assert f(1) == [{}, None, None]").passed


def test_other_processes_can_be_neither_read_nor_signalled(isolation: str) -> None:
    code = """
import ctypes, os, signal
def f(pids):
    done = 0
    libc = ctypes.CDLL(None, use_errno=True)
    for pid in [*pids, os.getppid()]:
        for attempt in (lambda: os.kill(pid, 0) or 1, lambda: libc.ptrace(16, pid, 0, 0) == 0,
                        lambda: libc.process_vm_readv(pid, 0, 0, 0, 0, 0) == 0, lambda: os.pidfd_open(pid) > 0):
            try: done += pid not in (0, os.getpid()) and bool(attempt())
            except OSError: pass
    return done
"""
    verdict = run(code, f"assert f([{os.getpid()}]) == 0, f([{os.getpid()}])")
    assert verdict.passed, verdict.message


def test_it_is_nobody_without_rights(isolation: str) -> None:
    code = """
import ctypes, os
def f(x):
    done = []
    libc = ctypes.CDLL(None)
    attempts = {"setuid": lambda: os.setuid(1) or True, "chroot": lambda: os.chroot("/") or True,
                "mount": lambda: libc.mount(b"x", b"/tmp", b"tmpfs", 0, 0) == 0, "unshare": lambda: libc.unshare(0x10000000) == 0,
                "nice": lambda: os.nice(-5) < 0, "mknod": lambda: os.mknod("d", 0o60600, 8) or True}
    for name, attempt in attempts.items():
        try: done += [name] if attempt() else []
        except OSError: pass
    return done
"""
    verdict = run(code, "assert f(1) == [], f(1)")
    assert verdict.passed, verdict.message


def needs_namespaces() -> None:
    from trine.sandbox.running import isolation_offered

    if isolation_offered() != "namespaces":
        pytest.skip("this kernel offers no namespaces")


def left_over(before: set[int]) -> list[psutil.Process]:
    """Processes that have come since and sleep in a session of their own, as the survivor would."""
    found = []
    for pid in set(psutil.pids()) - before:
        try:
            process = psutil.Process(pid)
            if process.ppid() in (0, 1) and "zygote" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found
