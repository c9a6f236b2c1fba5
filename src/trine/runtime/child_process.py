"""Python programs of Trine's own in processes of their own: what may take too long, or too much, can be ended there.

The signals of a terminal reach the parent only, which decides; a child ends when its input does, so that none outlives
a killed parent.
"""

import os
import subprocess
import sys
from contextlib import suppress
from typing import IO


def start_child(module: str, *arguments: str, output: IO[bytes] | int = subprocess.PIPE) -> "subprocess.Popen[bytes]":
    """Start `python -m module arguments`, which imports what this process would; its input is a pipe."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.PIPE, stdout=output, stderr=subprocess.DEVNULL, env=environment, start_new_session=True,
    )  # fmt: skip


def end_child(child: "subprocess.Popen[bytes]") -> None:
    """Kill the child, if it still runs, and close its pipes."""
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None and not pipe.closed:
            with suppress(BrokenPipeError):  # what was written and not read yet
                pipe.close()
