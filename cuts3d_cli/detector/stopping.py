"""Ctrl-C, SIGTERM and SIGHUP while a training runs: they are put off until a checkpoint is written."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from cuts3d_cli import interrupts

ONE_REQUEST = 1.0
"""Seconds in which several signals are one request: `timeout` and the end of a terminal send theirs twice."""


@dataclass
class StopRequest:
    """What a signal asks of a training.

    Attributes:
        signal: the number of the signal; None until one arrives.
    """

    signal: int | None = None


class StoppedError(Exception):
    """A training stops for a signal, after its checkpoint is written. `stop_signals` turns it into that signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Put off signals that ask the process to end while the block runs.

    The previous handlers come back at the end. If the block raises `StoppedError`, they receive the signal then, so
    that a training ends as every other command does. A second signal, after `ONE_REQUEST`, is passed on at once.

    Yields:
        The request, which the block has to look at.

    Raises:
        KeyboardInterrupt, SystemExit: the previous handler of the signal ignores it.
    """
    request = StopRequest()
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def pass_on(number: int) -> NoReturn:
        restore()
        signal.raise_signal(number)
        interrupts.end(number)

    first = 0.0

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        if request.signal is None:
            request.signal, first = number, time.monotonic()
        elif time.monotonic() - first > ONE_REQUEST:
            pass_on(number)

    try:
        for number in interrupts.ending_signals():
            previous[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread: others handle the signals
        previous.clear()
    try:
        yield request
    except StoppedError as stopped:
        pass_on(stopped.number)
    finally:
        restore()
