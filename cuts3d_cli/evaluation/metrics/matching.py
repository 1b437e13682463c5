"""What was found at one IoU threshold: one-to-one matching of predictions and instances, and the best IoUs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.5
"""IoU, at least, of a prediction and the instance it finds; also the share of it that lies in a crowd region."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the predictions of one image found.

    Attributes:
        matched: predictions that found an instance, as many as instances that were found.
        ignored: predictions that found none and lie in a crowd region; they count neither way.
        best: (G,) float64, each instance's best IoU with any prediction, 0 without predictions.
    """

    matched: int
    ignored: int
    best: NDArray[np.float64]


def find(ious: NDArray[np.float64], in_crowds: NDArray[np.float64]) -> Found:
    """Match the predictions of one image with its instances, and set aside what lies in crowd regions.

    Args:
        ious: (D, G) IoU of D predictions and G instances that are no crowds.
        in_crowds: (D, C) share of each prediction's area that lies in each of C crowd regions.

    Returns:
        The counts. A prediction is ignored if it matches no instance and a single crowd region holds at least half of
        it, as in COCO's evaluation.
    """
    matched = {prediction for prediction, _ in match_greedily(ious, threshold=THRESHOLD)}
    crowded = np.flatnonzero(in_crowds.max(axis=1, initial=0.0) >= THRESHOLD)
    return Found(matched=len(matched), ignored=len(set(crowded.tolist()) - matched), best=ious.max(axis=0, initial=0.0))


def match_greedily(ious: NDArray[np.float64], *, threshold: float) -> list[tuple[int, int]]:
    """Match predictions and instances one to one: the pair of largest IoU first, then the largest of what is left, ...

    Scores play no part. Of equal IoUs the one of the smaller row, then of the smaller column, comes first.

    Args:
        ious: (D, G).
        threshold: pairs under it are no match; one that reaches it exactly is.

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
