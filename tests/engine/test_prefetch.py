from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from cuts3d_cli.engine.prefetch import prefetched


class Numbers:
    """Counts up, and says how far it has come and whether it was closed."""

    def __init__(self, end: int, *, error: Exception | None = None) -> None:
        self.made = 0
        self.closed = False
        self.thread: threading.Thread | None = None
        self._end = end
        self._error = error

    def run(self) -> Iterator[int]:
        self.thread = threading.current_thread()
        try:
            for number in range(self._end):
                self.made += 1
                yield number
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


def wait_until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_items_come_in_order_from_another_thread():
    numbers = Numbers(100)
    assert list(prefetched(numbers.run(), ahead=3)) == list(range(100))
    assert numbers.closed
    assert numbers.thread is not threading.current_thread()
    assert numbers.thread is not None
    assert not numbers.thread.is_alive()


def test_it_reads_ahead_but_no_farther_than_told():
    numbers = Numbers(100)
    with closing(prefetched(numbers.run(), ahead=3)) as items:
        for taken in range(5):
            assert next(items) == taken
            expected = taken + 1 + 3 + 1  # those taken, those that wait, and one in the thread's hands
            wait_until(lambda expected=expected: numbers.made == expected)
            time.sleep(0.02)
            assert numbers.made == expected


def test_an_error_comes_after_the_items_before_it():
    items = prefetched(Numbers(2, error=ValueError("no more")).run(), ahead=5)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="no more"):
        next(items)


def test_whoever_stops_early_leaves_no_thread_behind():
    numbers = Numbers(100)
    items = prefetched(numbers.run(), ahead=1)
    assert next(items) == 0
    items.close()
    assert numbers.closed
    assert numbers.made < 5
    assert numbers.thread is not None
    assert not numbers.thread.is_alive()
