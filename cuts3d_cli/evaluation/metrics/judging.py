"""Which predictions of one image are right and which of its instances were found: the verdicts of the evaluation.

The counts are those of `Evaluator` at IoU 0.5, so that a picture never says otherwise than the figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.evaluation.metrics.matching import match_instances
from cuts3d_cli.evaluation.metrics.objects import (
    Instance,
    Kind,
    Prediction,
    overlaps,
    sort_instances,
    sort_predictions,
)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdicts on one image, in the order in which its predictions and instances were given.

    Attributes:
        partners: of each prediction the number of the instance that it found; None where it found none.
        ignored: of each prediction whether it lies in a crowd region and is neither right nor wrong.
        found: of each instance whether a prediction found it; False for crowd regions, which cannot be found.
        best: of each instance its best IoU with any prediction, in [0, 1]; NaN for crowd regions.
        quality: the sum of the IoUs of the matches, divided by matches + (false predictions + missed instances) / 2
            (the Panoptic Quality of one class: Kirillov et al., CVPR 2019; not in the paper), in [0, 1]; None where
            there is nothing to find and nothing was predicted.
    """

    partners: Sequence[int | None]
    ignored: Sequence[bool]
    found: Sequence[bool]
    best: Sequence[float]
    quality: float | None

    @property
    def true(self) -> int:
        """Number of predictions that found an instance."""
        return sum(partner is not None for partner in self.partners)

    @property
    def false(self) -> int:
        """Number of predictions that found none and are not ignored."""
        return len(self.partners) - self.true - sum(self.ignored)

    @property
    def missed(self) -> int:
        """Number of instances that were not found, without crowd regions."""
        return sum(not found and not math.isnan(best) for found, best in zip(self.found, self.best, strict=True))


def judge(predictions: Sequence[Prediction], instances: Sequence[Instance], *, kind: Kind) -> Judgement:
    """Judge the predictions of one image as `Evaluator` counts them at IoU 0.5.

    Args:
        predictions: of the image; scores play no part.
        instances: of the image, crowd regions among them.
        kind: compare boxes or masks, which all must have.
    """
    # Bring both to the order in which the evaluation judges them, which decides where IoUs are equal.
    predicted, objects = sort_predictions(predictions), sort_instances(instances)
    rows = _places(predicted, predictions)
    crowds = np.array([item.crowd for item in objects], dtype=bool)
    columns = [place for place, crowd in zip(_places(objects, instances), crowds, strict=True) if not crowd]
    ious = overlaps(kind, predicted, objects)
    matches = match_instances(ious[:, ~crowds], ious[:, crowds])
    # Say it in the order of the arguments.
    partners: list[int | None] = [None] * len(predictions)
    for row, column in matches.pairs:
        partners[rows[row]] = columns[column]
    ignored = [False] * len(predictions)
    for row in matches.ignored:
        ignored[rows[row]] = True
    best = [math.nan] * len(instances)
    for column, value in zip(columns, matches.best.tolist(), strict=True):
        best[column] = value
    taken = set(partners)
    found = [place in taken for place in range(len(instances))]
    false = len(predictions) - len(matches.pairs) - len(matches.ignored)
    return Judgement(
        partners=partners,
        ignored=ignored,
        found=found,
        best=best,
        quality=_quality(ious[:, ~crowds], matches.pairs, false=false, missed=len(columns) - len(matches.pairs)),
    )


def _places(ordered: Sequence[object], given: Sequence[object]) -> list[int]:
    """Return the place of each ordered object among those given; the same object may be given once only."""
    places = {id(item): place for place, item in enumerate(given)}
    return [places[id(item)] for item in ordered]


def _quality(ious: NDArray[np.float64], pairs: Sequence[tuple[int, int]], *, false: int, missed: int) -> float | None:
    weight = len(pairs) + (false + missed) / 2
    return math.fsum(ious[row, column] for row, column in pairs) / weight if weight else None
