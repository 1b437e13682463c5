"""Seconds spent in each named step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class StepTimer:
    """Adds up wall-clock seconds under the names of the steps."""

    def __init__(self) -> None:
        """Start with no step."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the body of a `with` statement and add it to the step of that name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """The seconds so far; the timer starts again from nothing."""
        seconds, self.seconds = self.seconds, {}
        return seconds


def add_seconds(*parts: Mapping[str, float]) -> dict[str, float]:
    """Seconds of the same steps added up, in the order in which the steps are met."""
    total: dict[str, float] = {}
    for part in parts:
        for step, value in part.items():
            total[step] = total.get(step, 0.0) + value
    return total
