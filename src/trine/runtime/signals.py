"""Leave in order: Ctrl-C and SIGTERM ask the running loop to save and stop; a second one stops at once."""

import signal
import time
from types import FrameType

# torchrun and batch systems send a signal to whole groups and forward it too: what comes twice so soon was sent once.
SAME_SIGNAL_SECONDS = 5.0


class Interrupted(Exception):  # noqa: N818  (it is a request, not an error)
    """The run saved its state and stopped because of `signal_number`; the exit code is 128 + that."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class StopRequest:
    """Remembers the first signal; the training loop looks between steps."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._told = False
        self._since = 0.0

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        forwarded = number == signal.SIGTERM and number == self.received and now - self._since < SAME_SIGNAL_SECONDS
        if self.received is not None and not self._told and not forwarded:
            raise Interrupted(number)
        self.received, self._told, self._since = number, False, now

    def tell(self, number: int) -> None:
        """A signal that reached another process of the run; the same one may still be on its way to this one."""
        if self.received is None:
            self.received, self._told = number, True

    def check(self) -> None:
        """Raise `Interrupted` when a signal has come; call where nothing is left half-done."""
        if self.received is not None:
            raise Interrupted(self.received)


stop_request = StopRequest()
