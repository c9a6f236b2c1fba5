"""Seccomp: which calls of the kernel a process may still make, as a program in the kernel's filter language (BPF).

There is no socket, so no network; no new process, unless several are allowed; no other program in this one's place; no
reading of other processes' memory; no memory that limits do not count (memfd, System V); and none of the calls that
change the system or of the new ones in which faults are found. What is refused fails with an error number, which
Python raises as OSError. Both tables: Linux's own, by architecture.
"""

import ctypes
import errno
import os
import struct

from trine.sandbox.inside.kernel import PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, call

_EVERYWHERE = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438,
    "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
_NUMBERS = {
    "x86_64": {
        "socket": 41, "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "semget": 64, "msgget": 68,
        "shmget": 29, "ptrace": 101, "syslog": 103, "rt_sigqueueinfo": 129, "personality": 135, "pivot_root": 155,
        "chroot": 161, "acct": 163, "mount": 165, "umount2": 166, "swapon": 167, "reboot": 169, "init_module": 175,
        "delete_module": 176, "quotactl": 179, "tkill": 200, "tgkill": 234, "mq_open": 240, "kexec_load": 246,
        "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "rt_tgsigqueueinfo": 297,
        "perf_event_open": 298, "prlimit64": 302, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308,
        "process_vm_readv": 310, "process_vm_writev": 311, "finit_module": 313, "memfd_create": 319,
        "kexec_file_load": 320, "bpf": 321, "execveat": 322, "userfaultfd": 323,
    },
    "aarch64": {
        "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "quotactl": 60, "acct": 89, "personality": 92,
        "unshare": 97, "kexec_load": 104, "init_module": 105, "delete_module": 106, "syslog": 116, "ptrace": 117,
        "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "reboot": 142, "mq_open": 180,
        "msgget": 186, "semget": 190, "shmget": 194, "socket": 198, "add_key": 217, "request_key": 218,
        "keyctl": 219, "clone": 220, "execve": 221, "swapon": 224, "rt_tgsigqueueinfo": 240,
        "perf_event_open": 241, "prlimit64": 261, "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268,
        "process_vm_readv": 270, "process_vm_writev": 271, "finit_module": 273, "memfd_create": 279, "bpf": 280,
        "execveat": 281, "userfaultfd": 282, "kexec_file_load": 294,
    },
}  # fmt: skip
_ATTRIBUTES = {
    "x86_64": {
        "truncate": 76, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "utime": 132,
        "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198,
        "fremovexattr": 199, "utimes": 235, "fchownat": 260, "futimesat": 261, "fchmodat": 268, "utimensat": 280,
    },
    "aarch64": {
        "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
        "truncate": 45, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "utimensat": 88,
    },
}  # fmt: skip
"""Changes of a file that need no open file, which Landlock does not see"""
_ATTRIBUTES_EVERYWHERE = {"fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "file_setattr": 469}
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000  # x86_64's second set of numbers, of which none is needed
_NEW_NAMESPACES = 0x7E020000
_CLONE_THREAD = 0x10000
_SIGNALS = ("kill", "tgkill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "prlimit64")
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = (
    0,
    4,
    16,
)  # offsets in struct seccomp_data; both architectures are little-endian

Step = tuple[int, int, int, int]
"""operation, instructions to skip where the condition holds, where it does not, operand"""


def available() -> bool:
    """Whether this kernel has filters, and this module the numbers of its calls."""
    try:  # filter mode without a filter: EFAULT where it is supported, EINVAL where it is not
        call("prctl", PR_SET_SECCOMP, 2, None, 0, 0)
    except OSError as error:
        return error.errno == errno.EFAULT and os.uname().machine in _NUMBERS
    return False


def restrict(*, new_processes: bool, files_and_signals: bool) -> None:
    """Put this process, and all that come of it, behind the filter; there is no way back.

    `files_and_signals`: it may change files it has, and signal other processes, since it sees its own only.
    """
    program = b"".join(struct.pack("<HBBI", *step) for step in _program(new_processes, files_and_signals))
    buffer = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = Program(len(program) // 8, ctypes.addressof(buffer))
    call("prctl", PR_SET_SECCOMP, 2, ctypes.byref(header), 0, 0)  # type: ignore[arg-type]


def _program(new_processes: bool, files_and_signals: bool) -> list[Step]:
    machine = os.uname().machine
    numbers = _EVERYWHERE | _NUMBERS[machine]
    if not files_and_signals:
        numbers |= _ATTRIBUTES[machine] | _ATTRIBUTES_EVERYWHERE
    steps: list[Step] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        steps += [(_JUMP_GREATER_EQUAL, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    # clone3 keeps its flags in memory, where no filter can see them; C libraries then take clone.
    steps += _refuse(numbers.pop("clone3"), errno.ENOSYS)
    steps += _clone(numbers.pop("clone"), new_processes)
    for name in ("fork", "vfork"):
        if name in numbers:
            number = numbers.pop(name)
            steps += [] if new_processes else _refuse(number, errno.EAGAIN)
    for name in _SIGNALS:
        number = numbers.pop(name)
        if not files_and_signals or name == "prlimit64":
            steps += _to_itself_only(number)
    for number in numbers.values():
        steps += _refuse(number, errno.EPERM)
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


def _refuse(number: int, error: int) -> list[Step]:
    return [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | error)]


def _clone(number: int, new_processes: bool) -> list[Step]:
    """Threads, and processes where they are allowed; neither with namespaces of their own."""
    kind: list[Step] = (
        [] if new_processes else [(_JUMP_ANY_BIT, 1, 0, _CLONE_THREAD), (_RETURN, 0, 0, _ERRNO | errno.EAGAIN)]
    )
    body: list[Step] = [
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_ANY_BIT, 0, 1, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        *kind,
        (_RETURN, 0, 0, _ALLOW),
    ]
    return [(_JUMP_EQUAL, 0, len(body), number), *body]


def _to_itself_only(number: int) -> list[Step]:
    """A call whose first argument is a process: this one, or 0, which means this one too (its group, of kill)."""
    body: list[Step] = [
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_EQUAL, 2, 0, os.getpid()),
        (_JUMP_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return [(_JUMP_EQUAL, 0, len(body), number), *body]
