"""Ctrl-C and SIGTERM while a training runs: they are put off until a checkpoint is written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn


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
    """Put off SIGINT and SIGTERM while the block runs.

    The previous handlers come back at the end. If the block raises `StoppedError`, they receive the signal then, so
    that a training ends as every other command does. A second signal is passed on at once.

    Yields:
        The request, which the block has to look at.

    Raises:
        KeyboardInterrupt: the previous handler of the signal ignores it.
    """
    request = StopRequest()
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def pass_on(number: int) -> NoReturn:
        restore()
        signal.raise_signal(number)
        raise KeyboardInterrupt

    def handle(number: int, frame: Any) -> None:
        if request.signal is not None:
            pass_on(number)
        request.signal = number

    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            previous[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread: others handle the signals
        previous.clear()
    try:
        yield request
    except StoppedError as stopped:
        pass_on(stopped.number)
    finally:
        restore()
