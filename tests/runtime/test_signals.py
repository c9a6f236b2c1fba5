"""The first signal is a request, the second an order."""

import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from trine.runtime import signals
from trine.runtime.signals import SAME_SIGNAL_SECONDS, Interrupted, StopRequest


@pytest.fixture
def request_to_stop() -> Iterator[StopRequest]:
    """Installed, so that signals raised in the test come to it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    request = StopRequest()
    request.install()
    yield request
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_happens_without_a_signal() -> None:
    StopRequest().check()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_to_be_looked_for(request_to_stop: StopRequest, number: signal.Signals) -> None:
    signal.raise_signal(number)
    assert request_to_stop.received == number
    with pytest.raises(Interrupted, match=f"stopped by {number.name}") as caught:
        request_to_stop.check()
    assert caught.value.signal_number == number


def test_the_second_signal_stops_at_once(request_to_stop: StopRequest) -> None:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGINT"):
        signal.raise_signal(signal.SIGINT)


def test_a_termination_forwarded_at_once_is_the_same_one(
    request_to_stop: StopRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch system tells the whole group, and torchrun tells it on; seconds later it is an order again."""
    now = [1000.0]
    monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: now[0]))
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    now[0] += SAME_SIGNAL_SECONDS
    with pytest.raises(Interrupted, match="SIGTERM"):
        signal.raise_signal(signal.SIGTERM)


def test_what_another_process_told_is_no_first_signal(request_to_stop: StopRequest) -> None:
    """It asks for the same, and a signal that arrives after it is this process's first."""
    request_to_stop.receive(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM"):
        request_to_stop.check()
    with pytest.raises(Interrupted, match="SIGINT"):
        signal.raise_signal(signal.SIGINT)


def test_a_signal_of_ones_own_stays_when_another_process_tells_one(request_to_stop: StopRequest) -> None:
    signal.raise_signal(signal.SIGINT)
    request_to_stop.receive(signal.SIGTERM)
    assert request_to_stop.received == signal.SIGINT
