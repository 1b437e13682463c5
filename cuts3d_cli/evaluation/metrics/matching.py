"""One-to-one matching of predictions and instances at one IoU threshold, and the best IoU of each instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.5
"""Least IoU of a prediction and the instance it finds; also the least share of a prediction inside a crowd region."""


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Which instances of one image were found, and by which predictions.

    Attributes:
        pairs: (prediction, instance) of each match, largest IoU first.
        ignored: predictions that found no instance and lie in a crowd region; neither right nor wrong.
        best: (G,) float64, each instance's best IoU with any prediction, 0 without predictions.
    """

    pairs: Sequence[tuple[int, int]]
    ignored: frozenset[int]
    best: NDArray[np.float64]

    @property
    def matched(self) -> int:
        """Number of predictions that found an instance, which is the number of instances found."""
        return len(self.pairs)


def match_instances(ious: NDArray[np.float64], in_crowds: NDArray[np.float64]) -> Matches:
    """Match the predictions of one image with its instances, and set aside those in crowd regions.

    Args:
        ious: (D, G) IoU of D predictions and G instances that are no crowd regions.
        in_crowds: (D, C) share of each prediction's area that lies in each of C crowd regions.

    Returns:
        The matches. A prediction is ignored if it matches no instance and a single crowd region holds at least half of
        it, as in COCO's evaluation.
    """
    pairs = match_greedily(ious, threshold=THRESHOLD)
    crowded = np.flatnonzero(in_crowds.max(axis=1, initial=0.0) >= THRESHOLD)
    ignored = frozenset(crowded.tolist()) - {prediction for prediction, _ in pairs}
    return Matches(pairs=pairs, ignored=ignored, best=ious.max(axis=0, initial=0.0))


def match_greedily(ious: NDArray[np.float64], *, threshold: float) -> list[tuple[int, int]]:
    """Match predictions and instances one to one: the pair of largest IoU first, then the largest of the rest, ...

    Scores play no part. Of equal IoUs, the smaller row comes first, then the smaller column.

    Args:
        ious: (D, G).
        threshold: least IoU of a match, itself included.

    Returns:
        (row, column) of each match, largest IoU first.
    """
    matches: list[tuple[int, int]] = []
    rows, columns = set(), set()
    for place in np.argsort(-ious, axis=None, kind="stable").tolist():
        row, column = divmod(place, ious.shape[1])
        if ious[row, column] < threshold:
            break
        if row not in rows and column not in columns:
            matches.append((row, column))
            rows.add(row)
            columns.add(column)
    return matches
