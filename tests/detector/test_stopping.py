from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cuts3d_cli.detector.stopping import StoppedError, stop_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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


def test_a_second_signal_is_passed_on_at_once(received: list[int]):
    def block() -> None:
        with stop_signals() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.signal == signal.SIGTERM
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second signal was swallowed")

    with pytest.raises(Terminated):
        block()
    assert received == [signal.SIGINT]


def test_a_signal_that_the_block_did_not_look_at_is_not_passed_on(received: list[int]):
    with stop_signals():
        signal.raise_signal(signal.SIGTERM)
    assert received == []


def test_a_training_stops_also_where_the_handler_from_before_ignores_the_signal():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), stop_signals():
            raise StoppedError(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_of_the_main_thread_signals_are_left_alone(received: list[int]):
    handlers: list[Any] = []

    def work() -> None:
        with stop_signals() as stop:
            handlers.append((stop.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [(None, signal.getsignal(signal.SIGTERM))]
