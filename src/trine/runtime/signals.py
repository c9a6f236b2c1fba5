"""Graceful shutdown: Ctrl-C and SIGTERM ask the running loop to save and stop; a second one stops at once."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# torchrun and batch systems signal a whole process group and also forward the signal: a repetition within this time is
# the same signal.
SAME_SIGNAL_SECONDS = 5.0


class Interrupted(Exception):  # noqa: N818  (a request to stop, not an error)
    """The run was stopped by `signal_number`, its state saved; the exit status is 128 + `signal_number`."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class StopRequest:
    """Remembers the first signal; the training loop checks it between steps."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """No signal has come."""
        self.received: int | None = None
        self._remote = False
        self._since = 0.0

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        forwarded = number == signal.SIGTERM and number == self.received and now - self._since < SAME_SIGNAL_SECONDS
        if self.received is not None and not self._remote and not forwarded:
            raise Interrupted(number)
        self.received, self._remote, self._since = number, False, now

    def receive(self, number: int) -> None:
        """Record a signal that another process of the run received; the same one may still arrive here."""
        if self.received is None:
            self.received, self._remote = number, True

    def check(self) -> None:
        """Raise `Interrupted` if a signal has arrived; call it where no work is left half-done."""
        if self.received is not None:
            raise Interrupted(self.received)


stop_request = StopRequest()


@contextmanager
def saving_first() -> Iterator[None]:
    """Inside a program that is not Trine's own: a signal lets what runs here save and stop, then has its usual effect.

    So Ctrl-C ends in a KeyboardInterrupt after the save. In another thread than the main one, which alone
    receives signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop_request.forget()
    stop_request.install()
    try:
        yield
        stop_request.check()
    except Interrupted as interruption:
        _restore(before)
        signal.raise_signal(interruption.signal_number)
        raise
    finally:
        _restore(before)
        stop_request.forget()


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
