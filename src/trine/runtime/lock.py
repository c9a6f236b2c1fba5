"""A lock on a run folder: only one process may use it at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trine.runtime.errors import TrineError
from trine.runtime.files import disk_errors


@contextmanager
def folder_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock `folder`/.lock; the system releases it when the process ends, even by a signal.

    If another process holds the lock: wait for it with `wait`, otherwise raise `TrineError` naming that process.
    """
    import fcntl

    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+")  # noqa: SIM115  (closed below)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise TrineError(
                f"{folder} is in use by process {file.read().strip() or '?'}; wait for it or choose another folder"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
