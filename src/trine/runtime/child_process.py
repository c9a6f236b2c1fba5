"""Python programs of Trine's own in processes of their own: what may take too long, or too much, can be ended there.

The signals of a terminal reach the parent only, which decides; a child ends when its input does, so that none outlives
a killed parent.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO


def start_child(
    module: str,
    *arguments: str,
    output: IO[bytes] | int = subprocess.PIPE,
    options: Sequence[str] = ("-P",),
    environment: Mapping[str, str] | None = None,
    folder: str | None = None,
    descriptors: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start `python -m module arguments`, which imports what this process would; its input is a pipe.

    `environment` replaces this process's, `folder` its working folder; `descriptors` are left open in it.
    """
    if environment is None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, *options, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=output,
        stderr=subprocess.DEVNULL, env=environment, cwd=folder, pass_fds=descriptors, start_new_session=True,
    )  # fmt: skip


def limit_resource(name: str, amount: int) -> None:
    """Set a limit of this process (`RLIMIT_AS`) for good. Systems that lack it go without; a lower one stays."""
    with suppress(AttributeError, ValueError, OSError):
        resource.setrlimit(getattr(resource, name), (amount, amount))


def end_child(child: "subprocess.Popen[bytes]") -> None:
    """Kill the child, if it still runs, and close its pipes."""
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None and not pipe.closed:
            with suppress(BrokenPipeError):  # what was written and not read yet
                pipe.close()
