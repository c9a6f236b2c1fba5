"""The first signal is a request, the second an order."""

import signal

import pytest

from trine.runtime.signals import SAME_SIGNAL_SECONDS, Interrupted, StopRequest


def test_nothing_happens_without_a_signal() -> None:
    StopRequest().check()


def test_the_first_signal_waits_to_be_looked_for() -> None:
    request = StopRequest()
    request._on_signal(signal.SIGTERM, None)
    with pytest.raises(Interrupted, match="stopped by SIGTERM") as caught:
        request.check()
    assert caught.value.signal_number == signal.SIGTERM


def test_the_second_signal_stops_at_once() -> None:
    request = StopRequest()
    request._on_signal(signal.SIGTERM, None)
    with pytest.raises(Interrupted, match="SIGINT"):
        request._on_signal(signal.SIGINT, None)


def test_a_termination_forwarded_at_once_is_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch system tells the whole group, and torchrun tells it on; seconds later it is an order again."""
    request = StopRequest()
    request._on_signal(signal.SIGTERM, None)
    request._on_signal(signal.SIGTERM, None)
    monkeypatch.setattr(request, "_since", request._since - SAME_SIGNAL_SECONDS)
    with pytest.raises(Interrupted, match="SIGTERM"):
        request._on_signal(signal.SIGTERM, None)


def test_what_another_process_told_is_no_first_signal() -> None:
    """It asks for the same, and a signal that arrives after it is this process's first."""
    request = StopRequest()
    request.receive(signal.SIGTERM)
    request._on_signal(signal.SIGTERM, None)
    with pytest.raises(Interrupted, match="SIGTERM"):
        request.check()
    with pytest.raises(Interrupted, match="SIGINT"):
        request._on_signal(signal.SIGINT, None)


def test_a_signal_of_ones_own_stays_when_another_process_tells_one() -> None:
    request = StopRequest()
    request._on_signal(signal.SIGINT, None)
    request.receive(signal.SIGTERM)
    assert request.received == signal.SIGINT


def test_installing_catches_real_signals() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    request = StopRequest()
    try:
        request.install()
        signal.raise_signal(signal.SIGINT)
        assert request.received == signal.SIGINT
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
