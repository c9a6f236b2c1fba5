"""Landlock: files a process may open, where the kernel offers no namespaces (an ordinary container, for instance).

Linux 5.13 has it, and most distributions and container engines allow it. https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from trine.sandbox.inside.kernel import PR_SET_NO_NEW_PRIVS, call

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE, _READ_FILE, _READ_FOLDER = 1, 4, 8
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights over files each version of the interface knows; what a version does not know it does not restrict."""
_TCP = 0b11  # bind and connect, since version 4
_SCOPES = 0b11  # abstract sockets and signals, since version 6


def version() -> int:
    """Of the kernel's interface; 0 where there is none."""
    try:
        return call("syscall", _CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


def rules(files: Iterable[str], listings: Iterable[str]) -> int:
    """A descriptor of rules: `files`, and what is below them, can be read, `listings` listed, nothing written."""
    known = version()
    rights = (1 << _FILE_RIGHTS.get(known, 16)) - 1
    fields = struct.pack("<QQQ", rights, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    ruleset = call("syscall", _CREATE_RULESET, ctypes.create_string_buffer(fields, 24), size, 0)
    for path in files:
        _add(ruleset, path, _EXECUTE | _READ_FILE | (_READ_FOLDER if Path(path).is_dir() else 0))
    for path in listings:
        _add(ruleset, path, _READ_FOLDER)
    return ruleset


def _add(ruleset: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("<Qi", rights, place)
        call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, ctypes.create_string_buffer(rule, 12), 0)
    finally:
        os.close(place)


def restrict(ruleset: int) -> None:
    """Put this process, and all that come of it, under the rules; there is no way back."""
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("syscall", _RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
