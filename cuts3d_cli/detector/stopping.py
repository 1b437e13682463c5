"""Ctrl-C and SIGTERM while a training runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Stop:
    """Whether a signal has asked for the end."""

    asked: bool = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Let the iteration at hand end on Ctrl-C or SIGTERM, so that a checkpoint can be written.

    A second signal ends the run at once. The handlers of before are back afterwards.
    """
    stop = Stop()
    before: dict[int, Any] = {}

    def handle(number: int, frame: Any) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            before[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread: signals are somebody else's
        before.clear()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
