"""How fast samples are finished, and how long the rest will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 60.0
"""How far back finished samples count: longer than the time that a batch takes on a CPU, so that samples which are
finished together do not look fast."""


class Pace:
    """Counts finished samples and tells their rate over a window of time.

    The window reaches from the last finished sample back to one that was finished at least `window` seconds before it,
    or to the beginning. A batch whose samples end at the same moment therefore counts with the time that it took.
    """

    def __init__(self, *, window: float = WINDOW_SECONDS, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begin now.

        Args:
            window: seconds.
            clock: seconds since any moment.
        """
        self._window = window
        self._clock = clock
        self._done = 0
        self._ends: deque[tuple[float, int]] = deque([(clock(), 0)])
        """Times, each with the samples that were finished by then; the first is where the window begins."""

    def add(self) -> None:
        """Count a sample that is finished now."""
        now = self._clock()
        self._done += 1
        if len(self._ends) > 1 and self._ends[-1][0] == now:
            self._ends.pop()
        self._ends.append((now, self._done))
        while len(self._ends) > 2 and self._ends[1][0] <= now - self._window:
            self._ends.popleft()

    @property
    def rate(self) -> float | None:
        """Samples a second; None before the first is finished."""
        (begun, before), (end, done) = self._ends[0], self._ends[-1]
        return (done - before) / max(end - begun, 1e-9) if done > before else None

    def seconds_left(self, left: float) -> float | None:
        """Return how long so many more samples will take from now on; None before the first is finished."""
        if self.rate is None:
            return None
        return max(left / self.rate - (self._clock() - self._ends[-1][0]), 0.0)
