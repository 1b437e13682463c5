"""Masks for the next round of self-training: predictions, and the earlier masks that they do not replace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from cuts3d_cli.cut.masks import Rle
from cuts3d_cli.sidecars.masks import StoredMask


@dataclass(frozen=True, kw_only=True)
class MergedMasks:
    """The masks of one image in the next round.

    Attributes:
        instances: records of the kept predictions, best first, then of the kept masks of the round before, in order.
        predicted: number of predictions among them.
        replaced: number of masks of the round before that were dropped.
    """

    instances: list[StoredMask]
    predicted: int
    replaced: int


def merge_instances(
    previous: Sequence[StoredMask],
    predictions: Sequence[StoredMask],
    *,
    min_score: float,
    keep_iou: float,
) -> MergedMasks:
    """Merge an image's predictions with its masks of the round before (paper: Sec. 4.1, after CutLER).

    Args:
        previous: masks of the round before.
        predictions: masks with a score.
        min_score: predictions of a lower score are no masks.
        keep_iou: a mask of the round before is kept if its IoU with every kept prediction is under this.

    Returns:
        The masks of the next round, each with its score (None for those of the round before that had none) and its
        origin.
    """
    kept = sorted((item for item in predictions if _score(item) >= min_score), key=_score, reverse=True)
    overlap = mask_ious([item.segmentation for item in previous], [item.segmentation for item in kept])
    stays = overlap.max(axis=1, initial=0.0) < keep_iou
    staying = [item for item, stay in zip(previous, stays, strict=True) if stay]
    instances = [replace(item, origin="prediction") for item in kept]
    instances += [replace(item, origin="previous", cut=None) for item in staying]
    return MergedMasks(instances=instances, predicted=len(kept), replaced=len(previous) - len(staying))


def mask_ious(first: Sequence[Rle], second: Sequence[Rle]) -> NDArray[np.float64]:
    """Compute the IoU of every pair of masks, on their run-length codes.

    Returns:
        (N, M) float64 in [0, 1].
    """
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.asarray(coco_mask.iou(list(second), list(first), [0] * len(first))).T


def _score(item: StoredMask) -> float:
    return 0.0 if item.score is None else item.score
