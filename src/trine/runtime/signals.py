"""Graceful shutdown: Ctrl-C and SIGTERM ask the running loop to save and stop; a second one stops at once."""

import signal
import time
from types import FrameType

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
