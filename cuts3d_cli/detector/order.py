"""The order in which a training sees its samples: a function of the seed, in which every place can be looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MAX_WINDOW_SHARDS = 64
"""The most shards in a window; a loader process keeps as many open."""


@dataclass
class Position:
    """Where a rank is in its order. Checkpoints hold it.

    Attributes:
        taken: number of places taken so far.
        waiting: of these, the places of samples that wait for a batch of their shape to fill.
    """

    taken: int = 0
    waiting: list[int] = field(default_factory=list)

    def copy(self) -> Position:
        """Return a position that does not follow this one."""
        return Position(taken=self.taken, waiting=list(self.waiting))


def redistribute(positions: Sequence[Position], processes: int) -> list[Position]:
    """Compute where another number of processes goes on, so that every place is seen once.

    Place p of rank r is place p * (number of processes) + r of the order.

    Args:
        positions: one a rank.
        processes: the new number of ranks.

    Returns:
        One position a new rank. The places that some of the old ranks have left behind wait at the new ones.
    """
    # From `end` on, no rank has taken a place.
    before = len(positions)
    end = max(position.taken * before + rank for rank, position in enumerate(positions))
    behind = [
        place * before + rank
        for rank, position in enumerate(positions)
        for place in (*position.waiting, *range(position.taken, -(-(end - rank) // before)))
    ]
    return [
        Position(
            taken=max(-(-(end - rank) // processes), 0),
            waiting=sorted(place // processes for place in behind if place % processes == rank),
        )
        for rank in range(processes)
    ]


class SampleOrder:
    """The order of all samples over all epochs.

    In each epoch the shards are permuted and split into windows of whole shards; the samples of a window are permuted.
    Only the epoch and the window at hand are held in memory.

    Args:
        counts: number of samples of each shard.
        seed: of the permutations.
        window: number of samples to mix; a window ends with the shard that reaches it.
    """

    def __init__(self, counts: Sequence[int], *, seed: int, window: int) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.seed = seed
        self.window = window
        self.total = int(self.counts.sum())
        self._windows: tuple[int, list[tuple[int, NDArray[np.int64]]]] | None = None
        self._mixed: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def at(self, place: int) -> tuple[int, int, int]:
        """Look up a place.

        Args:
            place: counted from 0 over all epochs.

        Returns:
            The epoch, the index of the shard, and the index of the sample in the shard.
        """
        # Find the window that the place falls into.
        epoch, offset = divmod(place, self.total)
        windows = self._epoch(epoch)
        number = int(np.searchsorted([start for start, _ in windows], offset, side="right")) - 1
        start, shards = windows[number]
        # Permute the samples of that window, unless the last place fell into it, too.
        if self._mixed is None or self._mixed[0] != (epoch, number):
            rng = np.random.default_rng([self.seed, epoch, number + 1])
            self._mixed = ((epoch, number), rng.permutation(int(self.counts[shards].sum())))
        # Turn the index within the window into one within a shard.
        inside = int(self._mixed[1][offset - start])
        ends = np.cumsum(self.counts[shards])
        which = int(np.searchsorted(ends, inside, side="right"))
        return epoch, int(shards[which]), inside - int(ends[which - 1] if which else 0)

    def _epoch(self, epoch: int) -> list[tuple[int, NDArray[np.int64]]]:
        """Return the first place and the shards of each window of an epoch."""
        if self._windows is None or self._windows[0] != epoch:
            order = np.random.default_rng([self.seed, epoch, 0]).permutation(len(self.counts))
            windows: list[tuple[int, NDArray[np.int64]]] = []
            start, held, current = 0, 0, []
            for shard in order:
                current.append(shard)
                held += int(self.counts[shard])
                if held >= self.window or len(current) == MAX_WINDOW_SHARDS:
                    windows.append((start, np.asarray(current)))
                    start, held, current = start + held, 0, []
            if held:
                windows.append((start, np.asarray(current)))
            self._windows = (epoch, windows)
        return self._windows[1]
