from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cuts3d_cli import interrupts
from cuts3d_cli.detector import stopping
from cuts3d_cli.detector.stopping import StoppedError, stop_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(Exception):
    pass


@pytest.fixture
def received() -> Iterator[list[int]]:
    """Signals that reach the handlers from before, which end the program by an exception."""
    found: list[int] = []

    def handle(number: int, frame: Any) -> None:
        found.append(number)
        raise Terminated

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_put_off_until_the_block_stops(received: list[int], number: signal.Signals):
    handlers = [signal.getsignal(each) for each in SIGNALS]

    def block() -> None:
        with stop_signals() as stop:
            assert stop.signal is None
            signal.raise_signal(number)
            assert (stop.signal, received) == (number, [])
            raise StoppedError(stop.signal)

    with pytest.raises(Terminated):
        block()
    assert received == [number]
    assert [signal.getsignal(each) for each in SIGNALS] == handlers


def test_a_second_signal_is_passed_on_at_once_but_not_the_echo_of_the_first(
    received: list[int], monkeypatch: pytest.MonkeyPatch
):
    def block() -> None:
        with stop_signals() as stop:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)
            assert (stop.signal, received) == (signal.SIGTERM, [])
            monkeypatch.setattr(stopping, "ONE_REQUEST", 0.0)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second signal was swallowed")

    with pytest.raises(Terminated):
        block()
    assert received == [signal.SIGINT]


def test_a_signal_that_the_block_did_not_look_at_is_not_passed_on(received: list[int]):
    with stop_signals():
        signal.raise_signal(signal.SIGTERM)
    assert received == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_stops_also_where_the_handler_from_before_ignores_the_signal(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(interrupts, "_state", interrupts._State())
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)) as ended, stop_signals():
            raise StoppedError(number)
        assert getattr(ended.value, "code", 130) == 128 + number
        assert interrupts.asked() == 128 + number
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_an_ignored_hangup_stays_ignored(received: list[int]):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.signal is None


def test_outside_of_the_main_thread_signals_are_left_alone(received: list[int]):
    handlers: list[Any] = []

    def work() -> None:
        with stop_signals() as stop:
            handlers.append((stop.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [(None, signal.getsignal(signal.SIGTERM))]
