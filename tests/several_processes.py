"""Run a function in several processes that know each other as `torchrun`'s do, quickly: from a fork server."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from typing import Any

LONGEST_WAIT = 120
PRELOADED = [
    "torch",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint.hf_storage",
    "trine.stages.pretraining.pretrain",
]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What `torchrun` sets, where the first process serves the store."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    names = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
    return {name: str(number) for name, number in numbers.items()} | names


def in_processes(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of `size` processes; an error comes back as (its class, words)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    port = free_port()
    started = []
    for rank in range(size):
        ours, theirs = context.Pipe()
        environment = rank_environment(rank, size, port)
        process = context.Process(target=_child, args=(theirs, environment, function, arguments), daemon=True)
        process.start()
        theirs.close()
        started.append((process, ours))
    return [_result(process, pipe) for process, pipe in started]


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
