"""COCO's AP and AR by pycocotools itself: the oracle that `cuts3d_cli.evaluation.metrics` must equal."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cuts3d_cli.evaluation.metrics import (
    Instance,
    Kind,
    Prediction,
    area_of,
    shape_of,
    sort_instances,
    sort_predictions,
)

_CATEGORY = 1


def coco_stats(
    kind: Kind, predictions: Mapping[int, Sequence[Prediction]], ground_truth: Mapping[int, Sequence[Instance]]
) -> list[float | None]:
    """Compute AP, AP50, AP75, APs, APm, APl, AR@1, AR@10, AR@100 by pycocotools.

    Args:
        kind: by boxes or by masks.
        predictions: image id -> predictions; an image that is missing has none.
        ground_truth: image id -> instances, of each image.

    Returns:
        Each in [0, 1]; None where pycocotools has -1, since there are no such instances.
    """
    truth = [
        {"image_id": image, "iscrowd": int(item.crowd), "area": item.area, **_geometry(kind, item)}
        for image in sorted(ground_truth)
        for item in sort_instances(ground_truth[image])
    ]
    found = [
        {"image_id": image, "score": item.score, "area": area_of(kind, item), **_geometry(kind, item)}
        for image in sorted(ground_truth)
        for item in sort_predictions(predictions.get(image, ()))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(ground_truth, truth), _coco(ground_truth, found), iouType=kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) if value >= 0 else None for value in evaluation.stats[:9]]


def _geometry(kind: Kind, item: Prediction | Instance) -> dict[str, Any]:
    return {"bbox" if kind == "bbox" else "segmentation": shape_of(kind, item)}


def _coco(images: Iterable[int], annotations: Sequence[dict[str, Any]]) -> COCO:
    """Fill a container of pycocotools without a file. Ids start at 1: COCOeval takes 0 for "no match"."""
    coco = COCO()
    coco.dataset = {
        # Height and width are asked for and not used, since all masks are run-length codes.
        "images": [{"id": image, "height": 0, "width": 0} for image in images],
        "annotations": [
            {"id": number, "category_id": _CATEGORY, **annotation}
            for number, annotation in enumerate(annotations, start=1)
        ],
        "categories": [{"id": _CATEGORY, "name": "fg"}],
    }
    coco.createIndex()
    return coco
