"""Linux's calls that Python has no functions for: namespaces, mounts, capabilities, and what a process may regain."""

import ctypes
import os

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
_MOUNT_SETATTR = 442  # the same number on every architecture, as of all calls since Linux 5.1
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def call(function: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | ctypes.Structure | None) -> int:
    """A function of the C library that returns -1 on error. Raises OSError, also where there is no such function."""
    try:
        result: int = getattr(_libc, function)(*(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments))
    except AttributeError:
        raise OSError(f"this system has no {function}") from None
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    call("unshare", flags)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    def encoded(text: str | None) -> bytes | None:
        return None if text is None else os.fsencode(text)

    call("mount", encoded(source), encoded(target), encoded(kind), flags, encoded(data))


def bind_read_only(source: str, target: str) -> None:
    """`source` and all that is mounted below it, at `target`, where nothing can be written. Linux 5.12."""
    mount(source, target, None, MS_BIND | MS_REC)
    attributes = (ctypes.c_uint64 * 4)(MS_RDONLY | MS_NOSUID, 0, 0, 0)
    call("syscall", _MOUNT_SETATTR, _AT_FDCWD, os.fsencode(target), _AT_RECURSIVE, ctypes.byref(attributes), 32)  # type: ignore[arg-type]


def pivot_root(new_root: str) -> None:
    """Make `new_root` "/" of this mount namespace, and what was there unreachable."""
    os.chdir(new_root)
    call("syscall", _PIVOT_ROOT[os.uname().machine], b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up what root, or the first process of a user namespace, may do more than others, for good."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))  # type: ignore[arg-type]
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
