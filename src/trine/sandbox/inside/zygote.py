"""The process that those of all runs are forked from: isolated once, with what they need imported once.

It reads requests from a socket, each with the descriptors of a run, and forgets them: it never reads code or tests, so
there is nothing of another run, and no test, in the memory that the code's process gets of it.

    python -S -B -P -s -c "from trine.sandbox.inside.zygote import main; main()" SOCKET MOUNT_POINT ISOLATION
"""

import gc
import json
import os
import signal
import socket
import sys
from importlib import import_module

from trine.sandbox.inside.isolation import isolate
from trine.sandbox.inside.supervisor import Descriptors, supervise

_PRELOADED = (
    "bisect", "collections", "copy", "functools", "heapq", "itertools", "math", "operator", "random", "re", "string",
    "typing",
)  # fmt: skip
"""What solutions import most, so that each run finds it in memory"""
MAX_REQUEST = 65536


def main() -> None:
    """Serve until the runner is gone."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    isolation = isolate(sys.argv[2], sys.argv[3])
    # What is imported from here on is Python's library alone.
    sys.path.remove(os.environ["PYTHONPATH"])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors that have ended vanish
    for module in _PRELOADED:
        import_module(module)
    gc.collect()
    gc.freeze()
    connection.sendall(isolation.name.encode() + b"\n")
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, MAX_REQUEST, 4)
        if not request:
            return
        connection.sendall(b".")
        limits = json.loads(request)
        if os.fork() == 0:
            connection.close()
            supervise(Descriptors(*descriptors), limits, isolation)
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    main()
