"""A side's end of the wire: one JSON request per line on standard input, one JSON reply per line on standard output.

A side is a process that loads its model, says hello, and then does the work it is asked for, timing itself. Between
requests it blocks on its input and so costs nothing. Standard library only: peers run in environments of their own.
"""

import json
import os
import random
import sys
import traceback
from collections.abc import Callable
from typing import Any

Reply = dict[str, Any]
"""`seconds` and `tokens` of one run, and further figures of a side."""


def options() -> dict[str, Any]:
    """The options that the coordinator passed to this side."""
    return dict(json.loads(sys.argv[1]))


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(hello: dict[str, Any], *works: Callable[..., Reply]) -> None:
    """Answer requests for `works`, by name, until the input ends. What libraries print goes to standard error."""
    named = {work.__name__: work for work in works}
    wire = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    wire.write(json.dumps(hello) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = named[request["work"]](**request["arguments"])
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        wire.write(json.dumps(reply) + "\n")


def random_prompts(count: int, tokens: int, vocab_size: int, seed: int) -> list[list[int]]:
    """`count` prompts of `tokens` random ids; the same for every side, given the seed."""
    generator = random.Random(seed)
    return [[generator.randrange(vocab_size) for _ in range(tokens)] for _ in range(count)]
