"""COCO's average precision and recall, computed image by image: pycocotools' figures in less time and memory.

The rules are those of pycocotools' COCOeval with one category, and so are the results, to the last bit (tests compare
them). COCOeval holds all predictions and tries each with every instance; here only pairs with an IoU of at least 0.5
are tried, and an image leaves one byte for each prediction, threshold and size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LIMIT = 100
"""Most predictions of an image that count, those of highest score."""
_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_SIZES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""Smallest and largest area in pixels, both included: of all, small, medium and large instances."""
_FALSE, _TRUE, _IGNORED = 0, 1, 2


@dataclass(frozen=True)
class _Image:
    """The verdicts on the predictions of one image.

    Attributes:
        scores: (D,) float64, highest first.
        verdicts: (S, T, D) uint8: false positive, true positive or ignored, by size and threshold.
        counted: (S,) int64, number of instances of each size, without crowd regions.
    """

    scores: NDArray[np.float64]
    verdicts: NDArray[np.uint8]
    counted: NDArray[np.int64]


class Averages:
    """Collects images, and computes AP and AR by boxes or by masks."""

    def __init__(self) -> None:
        """Begin without images."""
        self._images: dict[int, _Image] = {}

    def add(
        self,
        image: int,
        *,
        ious: NDArray[np.float64],
        scores: NDArray[np.float64],
        areas: NDArray[np.float64],
        true_areas: NDArray[np.float64],
        crowds: NDArray[np.bool_],
    ) -> None:
        """Judge the predictions of one image.

        Args:
            image: its id; predictions of equal score are judged in the order of the ids.
            ious: (D, G) IoU of D predictions and G instances; for crowd regions, the share of the prediction in them.
            scores: (D,), highest first.
            areas: (D,) areas of the predictions, pixels.
            true_areas: (G,) areas of the instances, pixels.
            crowds: (G,) which of the instances are crowd regions.
        """
        verdicts = np.stack(
            [
                _verdicts(ious[:LIMIT], areas[:LIMIT], crowds | _outside(true_areas, size), crowds, size)
                for size in _SIZES
            ]
        )
        counted = np.array([np.count_nonzero(~(crowds | _outside(true_areas, size))) for size in _SIZES])
        self._images[image] = _Image(scores=scores[:LIMIT], verdicts=verdicts, counted=counted)

    def stats(self) -> list[float | None]:
        """Compute AP, AP50, AP75, APs, APm, APl, AR@1, AR@10, AR@100, in [0, 1]; None without such instances."""
        images = [self._images[number] for number in sorted(self._images)]
        every, *sizes = [_precision_recall(images, size=number, limit=LIMIT) for number in range(len(_SIZES))]
        recalls = [_precision_recall(images, size=0, limit=limit)[1] for limit in (1, 10)] + [every[1]]
        precisions = [every[0], every[0][:1], every[0][5:6], *(precision for precision, _ in sizes)]
        return [_mean(values) for values in (*precisions, *recalls)]


def _outside(areas: NDArray[np.float64], size: tuple[float, float]) -> NDArray[np.bool_]:
    """Return which areas are out of a range of sizes, (N,) bool."""
    outside: NDArray[np.bool_] = (areas < size[0]) | (areas > size[1])
    return outside


def _verdicts(
    ious: NDArray[np.float64],
    areas: NDArray[np.float64],
    ignored: NDArray[np.bool_],
    crowds: NDArray[np.bool_],
    size: tuple[float, float],
) -> NDArray[np.uint8]:
    """Judge the predictions of one image at every IoU threshold, as COCOeval's `evaluateImg`.

    Instances that count are preferred to those that are ignored; a crowd region matches any number of predictions.

    Args:
        ious: (D, G), predictions by score.
        areas: (D,) areas of the predictions, pixels.
        ignored: (G,) instances that do not count: crowd regions, and those of other sizes.
        crowds: (G,) which of them are crowd regions.
        size: smallest and largest area.

    Returns:
        (T, D) uint8.
    """
    # A prediction without an instance is wrong, unless it is of another size.
    unmatched = np.where(_outside(areas, size), _IGNORED, _FALSE).astype(np.uint8)
    verdicts = np.repeat(unmatched[None], len(_THRESHOLDS), axis=0)
    # Only instances that overlap enough for the lowest threshold can match; those that count are tried first.
    order = np.argsort(ignored, kind="stable")
    near = ious[:, order] >= _THRESHOLDS[0]
    candidates = [
        (row, [(int(order[place]), float(ious[row, order[place]])) for place in np.flatnonzero(near[row])])
        for row in np.flatnonzero(near.any(axis=1)).tolist()
    ]
    # At each threshold, each prediction in turn takes the free instance that it overlaps most.
    for number, threshold in enumerate(_THRESHOLDS.tolist()):
        taken: set[int] = set()
        for row, pairs in candidates:
            best, reached = -1, min(threshold, 1 - 1e-10)
            for column, iou in pairs:
                if column in taken and not crowds[column]:
                    continue
                if best >= 0 and not ignored[best] and ignored[column]:
                    break
                if iou >= reached:  # among equals, the last wins
                    best, reached = column, iou
            if best >= 0:
                taken.add(best)
                verdicts[number, row] = _IGNORED if ignored[best] else _TRUE
    return verdicts


def _precision_recall(
    images: list[_Image], *, size: int, limit: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (T, R) precision at each recall, and (T,) recall reached; both empty without an instance of that size."""
    instances = int(sum(image.counted[size] for image in images))
    if instances == 0:
        return np.empty((0, len(_RECALLS))), np.empty(0)
    # Put the predictions of all images in the order of their scores.
    order = np.argsort(-np.concatenate([image.scores[:limit] for image in images]), kind="stable")
    verdicts = np.concatenate([image.verdicts[size, :, :limit] for image in images], axis=1)[:, order]
    # Count right and wrong predictions down to each score.
    right = np.cumsum(verdicts == _TRUE, axis=1, dtype=np.float64)
    wrong = np.cumsum(verdicts == _FALSE, axis=1, dtype=np.float64)
    recall = right / instances
    precision = right / (right + wrong + np.spacing(1))
    # Precision at a recall is the best at that recall or any higher one, read at 101 recalls.
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    sampled = np.zeros((len(_THRESHOLDS), len(_RECALLS)))
    for row in range(len(_THRESHOLDS)):
        places = np.searchsorted(recall[row], _RECALLS, side="left")
        reached = places < recall.shape[1]
        sampled[row, reached] = precision[row, places[reached]]
    return sampled, recall[:, -1] if recall.shape[1] else np.zeros(len(_THRESHOLDS))


def _mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean, or None of nothing."""
    return float(np.mean(values.ravel())) if values.size else None
