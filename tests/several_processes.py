"""Processes that start quickly: forked from a server that has imported PyTorch and us, which takes 2 to 4 s otherwise.

`in_processes` runs a function in several that know each other as `torchrun`'s do, `TrineProcess` is `python -m trine`.
What a fresh interpreter would do differently, such as its own order of sets, is not tested by these.
"""

import multiprocessing
import os
import random
import runpy
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LONGEST_WAIT = 120
PRELOADED = [
    "torch",
    "torch._dynamo",  # PyTorch imports it for its first optimizer
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint.hf_storage",
    "trine.cli.arguments",
    "trine.cli.commands",
    "trine.stages.control.control",
    "trine.stages.pretraining.pretrain",
    "trine.stages.rl.ppo",
]


def preload() -> None:
    """Have the server import all this; to be called before anything starts it, also a stage with a pool of its own."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)


def _fork_server() -> Any:
    return multiprocessing.get_context("forkserver")


def free_port() -> int:
    """A port to listen on later: below those that the system gives to connections, which could take it meanwhile."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def rank_environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What `torchrun` sets, where the first process serves the store."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    names = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
    return {name: str(number) for name, number in numbers.items()} | names


class TrineProcess:
    """`python -m trine` with these arguments in `folder`, with one thread, as `subprocess.Popen` would start it."""

    def __init__(self, folder: Path, arguments: list[str], environment: dict[str, str] | None = None) -> None:
        file, self._output = tempfile.mkstemp(dir=folder, prefix=".output-")
        os.close(file)
        given = (folder, arguments, os.environ | (environment or {}), self._output)
        self._process = _fork_server().Process(target=_trine, args=given)
        self._process.start()
        self.pid = int(self._process.pid)

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def words(self, timeout: float = LONGEST_WAIT) -> str:
        """What it wrote, on both outputs, once it has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            self._process.kill()
            raise AssertionError(f"trine hangs: {Path(self._output).read_text()}")
        return Path(self._output).read_text()


def _trine(folder: Path, arguments: list[str], environment: dict[str, str], output: str) -> None:
    import torch

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(file, standard)
    torch.set_num_threads(1)
    sys.argv[1:] = arguments
    runpy.run_module("trine", run_name="__main__", alter_sys=True)


def in_a_process(function: Callable[..., Any], *arguments: Any, environment: dict[str, str]) -> Any:
    """What `function(*arguments)` returns in a process with these variables set besides."""
    return _result(*_started(environment, function, arguments))


def in_processes(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of `size` processes; an error comes back as (its class, words)."""
    port = free_port()
    started = [_started(rank_environment(rank, size, port), function, arguments) for rank in range(size)]
    return [_result(process, pipe) for process, pipe in started]


def _started(environment: dict[str, str], function: Callable[..., Any], arguments: Any) -> tuple[Any, Connection]:
    server = _fork_server()
    ours, theirs = server.Pipe()
    process = server.Process(target=_child, args=(theirs, environment, function, arguments), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _result(process: Any, pipe: Connection) -> Any:
    try:
        assert pipe.poll(LONGEST_WAIT), f"{process.name} hangs"
        result = pipe.recv()
    except EOFError:
        raise AssertionError(f"{process.name} ended without a word, {process.exitcode}") from None
    process.join(LONGEST_WAIT)
    if isinstance(result, str):
        raise AssertionError(result)
    return result[0]


def _child(pipe: Connection, environment: dict[str, str], function: Callable[..., Any], arguments: Any) -> None:
    import torch

    from trine.runtime.errors import TrineError
    from trine.runtime.signals import Interrupted

    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        pipe.send((function(*arguments),))
    except (TrineError, Interrupted) as error:
        pipe.send(((type(error).__name__, str(error)),))
    except BaseException:
        pipe.send(traceback.format_exc())
