"""Masks for the next round of self-training: predictions, and the earlier masks that they do not replace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from cuts3d_cli.cut.masks import Rle


@dataclass(frozen=True, kw_only=True)
class MergedMasks:
    """The masks of one image in the next round.

    Attributes:
        instances: records of the kept predictions, best first, then of the kept masks of the round before, in order.
        predicted: number of predictions among them.
        replaced: number of masks of the round before that were dropped.
    """

    instances: list[dict[str, Any]]
    predicted: int
    replaced: int


def merge_instances(
    previous: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    *,
    min_score: float,
    keep_iou: float,
) -> MergedMasks:
    """Merge an image's predictions with its masks of the round before (paper: Sec. 4.1, after CutLER).

    Args:
        previous: records with "segmentation" (RLE), "bbox" and "area".
        predictions: the same, with "score".
        min_score: predictions with a lower score are dropped.
        keep_iou: a mask of the round before is kept if its IoU with every kept prediction is under this.

    Returns:
        The masks of the next round, each with its "score" (None for pseudo-masks, which have none) and its "origin",
        "prediction" or "previous".
    """
    kept = sorted((item for item in predictions if item["score"] >= min_score), key=lambda item: -item["score"])
    overlap = mask_ious([item["segmentation"] for item in previous], [item["segmentation"] for item in kept])
    stays = overlap.max(axis=1, initial=0.0) < keep_iou
    staying = [item for item, stay in zip(previous, stays, strict=True) if stay]
    instances = [_record(item, "prediction") for item in kept] + [_record(item, "previous") for item in staying]
    return MergedMasks(instances=instances, predicted=len(kept), replaced=len(previous) - len(staying))


def mask_ious(first: Sequence[Rle], second: Sequence[Rle]) -> NDArray[np.float64]:
    """Compute the IoU of every pair of masks, on their run-length codes.

    Returns:
        (N, M) float64 in [0, 1].
    """
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.asarray(coco_mask.iou(list(second), list(first), [0] * len(first))).T


def _record(item: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return the record of a mask in the next round."""
    facts = {name: item[name] for name in ("segmentation", "bbox", "area")}
    return {**facts, "score": item.get("score"), "origin": origin}
