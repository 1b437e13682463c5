"""Reads ahead in a thread, so that whoever takes the items need not wait for files and decoders."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

_Item = TypeVar("_Item")

_LOOK_UP_SECONDS = 0.1


@dataclass(frozen=True)
class _End(Generic[_Item]):
    error: Exception | None = None


def prefetched(items: Iterator[_Item], *, ahead: int) -> Generator[_Item, None, None]:
    """Yield the items of an iterator that runs in a thread of its own.

    Args:
        items: used in the thread alone, from its first item to its end or `close`.
        ahead: most items that wait to be taken, at least 1.

    Yields:
        The items in their order.

    Raises:
        Exception: what the iterator raised, once the items before it are taken.
    """
    waiting: queue.Queue[_Item | _End[_Item]] = queue.Queue(maxsize=ahead)
    unwanted = threading.Event()

    def put(item: _Item | _End[_Item]) -> None:
        while not unwanted.is_set():
            try:
                waiting.put(item, timeout=_LOOK_UP_SECONDS)
                return
            except queue.Full:
                continue

    def fill() -> None:
        end = _End[_Item]()
        try:
            for item in items:
                put(item)
                if unwanted.is_set():
                    break
        except Exception as error:  # handed on to whoever takes the items
            end = _End(error)
        finally:
            if hasattr(items, "close"):
                items.close()
        put(end)

    thread = threading.Thread(target=fill, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = waiting.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        unwanted.set()
        thread.join()
