"""Chat templates of imported models: untrusted Jinja source, run in Jinja's sandbox in a process with limits.

A template is a program: it can loop without end, raise 10 to the power of a billion, or write without end, and no
check of its source tells. So it runs in a child process (`template_process.py`), at most `SECONDS` of processor time a
conversation and `MAX_BYTES` of memory; what it does wrong ends there, as a `TrineError` that names it.
"""

import atexit
import json
import os
import secrets
import signal
import threading
from collections.abc import Mapping, Sequence
from subprocess import Popen
from typing import Any

from trine.records import Message
from trine.runtime.child_process import end_child, start_child
from trine.runtime.errors import TrineError

SECONDS = 5.0
MAX_BYTES = 1_000_000_000
# What a template may write besides the conversation itself.
MAX_CHARACTERS = 10_000_000


class ChatTemplate:
    """Renders conversations to text. `variables` are passed to the template: `bos_token`, `enable_thinking` ..."""

    def __init__(self, source: str, variables: Mapping[str, Any], place: str) -> None:
        self._source, self._variables, self._place = source, variables, place

    def render(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        """The conversation as text; `generation_prompt` begins an answer. Raises `TrineError` if the template fails."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        given = {"messages": turns, "tools": None, "documents": None, "add_generation_prompt": generation_prompt}
        limit = MAX_CHARACTERS + 10 * sum(len(message.content) for message in messages)
        result = _renderer().ask(
            {"source": self._source, "given": given | dict(self._variables), "seconds": SECONDS, "characters": limit}
        )
        if "text" not in result:
            raise TrineError(f"the chat template of {self._place} {result['error']}")
        return str(result["text"])


class _Renderer:
    """The process that renders, started at the first use and again after it was ended. Threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: Popen[bytes] | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the process answers to `request`, or an error if it ended instead."""
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            if self._child is None:
                self._child = start_child("trine.tokenizer.template_process", str(MAX_BYTES))
            child, self._child = self._child, None  # left behind when interrupted: its answer would be the next one's
            try:
                answer = _exchange(child, line)
            except BaseException:
                end_child(child)
                raise
            if answer is None:
                return {"error": _why_it_ended(child, request["seconds"])}
            self._child = child
            return answer

    def close(self) -> None:
        if self._child is not None:
            end_child(self._child)


def _exchange(child: "Popen[bytes]", line: bytes) -> dict[str, Any] | None:
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(line)
        child.stdin.flush()
        answer = child.stdout.readline()
    except BrokenPipeError:
        return None
    return json.loads(answer) if answer.endswith(b"\n") else None


def _why_it_ended(child: "Popen[bytes]", seconds: float) -> str:
    child.wait()
    code = child.returncode
    end_child(child)
    if code == -signal.SIGPROF:
        return f"was stopped: it took more than {seconds:g} seconds of processor time for one conversation"
    return f"broke the process that renders it (exit status {code})"


_renderers: dict[int, _Renderer] = {}


def _renderer() -> _Renderer:
    """This process's own: a forked one must not talk to its parent's."""
    if os.getpid() not in _renderers:
        _renderers[os.getpid()] = _Renderer()
        atexit.register(_renderers[os.getpid()].close)
    return _renderers[os.getpid()]


def random_digits() -> str:
    """Text that no template contains, and that no change of case, trimming or quoting alters."""
    return str(10**23 + secrets.randbelow(9 * 10**23))
