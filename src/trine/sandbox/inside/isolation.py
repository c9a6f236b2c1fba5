"""What a kernel offers to shut a process in, found out by trying, and how a process of the sandbox shuts itself in.

- `namespaces`: it sees no file but Python's library and an empty folder, no process but its own, no network.
- `landlock`: it can open no file but Python's library, make no socket, send no signal to others, start no process.
- `none`: limits alone. Whoever wants that has to say so.
"""

import os
import resource
import signal
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trine.runtime.child_process import limit_resource
from trine.sandbox.inside import filters, kernel, landlock

FOLDER = "/tmp"
"""The code's own empty folder, in namespaces"""
NOBODY = 65534
MAX_THREADS = 32
_MAX_FILES = 64
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_SHARED_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")


@dataclass(frozen=True)
class Isolation:
    """Its name, whether root's runs go on as nobody, and Landlock's rules where it is that."""

    name: str
    as_nobody: bool = True
    rules: int = -1


def isolate(mount_point: str, wanted: str) -> Isolation:
    """Prepare this process, from which those of every run are forked; at most as strong as `wanted`."""
    if sys.platform != "linux" or not filters.available() or wanted == "none":
        return Isolation("none", _nobody_finds_the_library())
    if wanted == "namespaces":
        with suppress(OSError):
            _enter_namespaces(mount_point)
            return Isolation("namespaces")
    as_nobody = _nobody_finds_the_library()
    if not landlock.version():
        return Isolation("none", as_nobody)
    files = [*_without_packages(_libraries()), *_existing(_DEVICES)]
    return Isolation("landlock", as_nobody, landlock.rules(files, [mount_point, *_libraries()]))


# Namespaces


def _enter_namespaces(mount_point: str) -> None:
    """Raises OSError where the kernel, or a container, does not allow it."""
    user, group = os.geteuid(), os.getegid()
    flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    if user == 0:
        kernel.unshare(flags)
    else:
        kernel.unshare(flags | kernel.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    _build_root(mount_point)
    kernel.pivot_root(mount_point)
    kernel.mount(None, "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID)


def _build_root(root: str) -> None:
    """Python's library and the shared libraries, read-only and without the packages installed there; three devices."""
    kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for folder in ("/dev", FOLDER):
        Path(root + folder).mkdir()
    for device in _existing(_DEVICES):
        Path(root + device).touch()
        kernel.mount(device, root + device, None, kernel.MS_BIND)
    for path in _libraries():
        if Path(path).is_symlink():
            Path(root + path).symlink_to(Path(path).readlink())
        else:
            Path(root + path).mkdir(parents=True, exist_ok=True)
            kernel.bind_read_only(path, root + path)
    for packages in _installed_packages():
        if Path(root + packages).is_dir():
            kernel.mount("tmpfs", root + packages, "tmpfs", kernel.MS_RDONLY, "size=4k,mode=755")


def _libraries() -> list[str]:
    """Folders that the standard library is imported from, without those inside another one."""
    paths = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    paths |= {os.path.realpath(f"{sys.base_prefix}/lib")}
    paths = set(_existing({*paths, *_SHARED_LIBRARIES}))
    return sorted(path for path in paths if not any(path.startswith(f"{other}/") for other in paths))


def _existing(paths: Iterable[str]) -> list[str]:
    return [path for path in paths if Path(path).exists()]


def _installed_packages() -> Iterator[str]:
    """Folders of packages inside those of the standard library: a benchmark installed there holds its own answers."""
    for path in {os.path.realpath(library) for library in _libraries()}:
        for pattern in ("site-packages", "dist-packages", "python*/site-packages", "python*/dist-packages"):
            yield from map(str, Path(path).glob(pattern))


def _without_packages(paths: Iterable[str]) -> Iterator[str]:
    """The paths, or what is in them: rules of Landlock can only allow, so a folder with packages is named in parts."""
    packages = set(_installed_packages())
    for path in paths:
        inside = [package for package in packages if package.startswith(f"{os.path.realpath(path)}/")]
        if inside:
            children = (entry.path for entry in os.scandir(os.path.realpath(path)))
            yield from _without_packages(child for child in children if child not in packages)
        elif Path(path).exists():
            yield path


# One process of a run


def make_own_folder(bytes_: int) -> None:
    """An empty folder that goes with this process and its children, and processes that see no others."""
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWPID)
    kernel.mount("tmpfs", FOLDER, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"size={bytes_},nr_inodes=1024,mode=777")


def confine(isolation: Isolation, limits: dict[str, Any], *, processes: int) -> None:
    """Take from this process, for good, all that code under test does not need."""
    _limit(limits)
    if isolation.as_nobody:
        _become_nobody()
    if isolation.name == "namespaces":
        with suppress(OSError):  # in a user namespace of its own its processes are counted apart from the user's others
            kernel.unshare(kernel.CLONE_NEWUSER)
        most = processes if processes > 1 else MAX_THREADS
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    if isolation.name != "none":
        kernel.drop_capabilities()
    if sys.platform == "linux":
        kernel.call("prctl", kernel.PR_SET_DUMPABLE, 0, 0, 0, 0)
        kernel.call("prctl", kernel.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if isolation.name == "landlock":
        landlock.restrict(isolation.rules)
    if isolation.name != "none":
        filters.restrict(new_processes=processes > 1, files_and_signals=isolation.name == "namespaces")


def _limit(limits: dict[str, Any]) -> None:
    wanted = {
        "RLIMIT_AS": limits["memory"],
        "RLIMIT_CPU": limits["cpu_seconds"],
        "RLIMIT_FSIZE": limits["file_bytes"],
        "RLIMIT_NOFILE": _MAX_FILES,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }
    for name, value in wanted.items():
        limit_resource(name, value)


def _become_nobody() -> None:
    """Of root, whom limits of processes do not hold and whose files code could write."""
    if os.geteuid() != 0:
        return
    with suppress(OSError):  # a container of one user
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def _nobody_finds_the_library() -> bool:
    """A Python below /root is root's alone; then root's runs keep their user, without the rights that make it root."""
    child = os.fork()
    if child == 0:
        _become_nobody()
        os._exit(not all(os.access(path, os.X_OK) for path in _libraries()))
    return os.waitpid(child, 0)[1] == 0
