"""What is compared: predictions and the instances of a ground truth, and the order in which they are judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from cuts3d_cli.cut.masks import Rle, rle_area, rle_box

Box = tuple[float, float, float, float]
"""x, y, width, height, pixels."""
Kind = Literal["bbox", "segm"]
"""Whether boxes or masks are compared, as pycocotools calls them."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A predicted object.

    Attributes:
        box: around the object.
        score: any finite number; the larger, the more confident.
        mask: run-length code at the image's size; None where only a box is predicted.
        class_id: the detector's number of its class, which plays no part here; None where there is one class.
    """

    box: Box
    score: float = 1.0
    mask: Rle | None = None
    class_id: int | None = None

    @classmethod
    def of_mask(cls, code: Rle, *, score: float = 1.0) -> Prediction:
        """Return a prediction whose box is the bounding box of its mask."""
        return cls(box=_box_of(code), score=score, mask=code)

    @property
    def area(self) -> float:
        """Pixels of the mask, or of the box where there is no mask."""
        return float(rle_area(self.mask)) if self.mask is not None else self.box[2] * self.box[3]


@dataclass(frozen=True, kw_only=True)
class Instance:
    """An object of the ground truth.

    Attributes:
        box: around the object.
        area: pixels; decides whether the object is small, medium or large.
        crowd: whether this is a region of objects that are not annotated one by one.
        mask: run-length code at the image's size; None in a ground truth of boxes.
    """

    box: Box
    area: float
    crowd: bool = False
    mask: Rle | None = None

    @classmethod
    def of_mask(cls, code: Rle, *, crowd: bool = False) -> Instance:
        """Return an instance with the bounding box and the area of its mask."""
        return cls(box=_box_of(code), area=float(rle_area(code)), crowd=crowd, mask=code)


def shape_of(kind: Kind, item: Prediction | Instance) -> Any:
    """Return the box as a list, or the run-length code, as pycocotools takes them."""
    return list(item.box) if kind == "bbox" else item.mask


def area_of(kind: Kind, item: Prediction) -> float:
    """Return the area that makes a prediction small, medium or large: that of its box or of its mask, in pixels."""
    return item.area if kind == "segm" else item.box[2] * item.box[3]


def overlaps(kind: Kind, predictions: Sequence[Prediction], instances: Sequence[Instance]) -> NDArray[np.float64]:
    """Return (D, G) float64: the IoU, and for crowd regions the share of the prediction that lies in them."""
    if not predictions or not instances:
        return np.zeros((len(predictions), len(instances)))
    overlaps = coco_mask.iou(
        [shape_of(kind, item) for item in predictions],
        [shape_of(kind, item) for item in instances],
        [int(item.crowd) for item in instances],
    )
    return np.asarray(overlaps, dtype=np.float64)


def sort_predictions(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Return the predictions of one image in the order in which they are judged.

    Highest score first, then largest area; what is still equal is ordered by box and run-length code.
    """
    return sorted(predictions, key=_prediction_order)


def sort_instances(instances: Iterable[Instance]) -> list[Instance]:
    """Return the instances of one image in the order in which predictions are tried on them.

    Crowd regions last, then smallest area first; what is still equal is ordered by box and run-length code.
    """
    return sorted(instances, key=_instance_order)


def _box_of(code: Rle) -> Box:
    x, y, width, height = rle_box(code)
    return x, y, width, height


def _prediction_order(item: Prediction) -> tuple[float, float, Box, str]:
    return -item.score, -item.area, item.box, _counts(item.mask)


def _instance_order(item: Instance) -> tuple[bool, float, Box, str]:
    return item.crowd, item.area, item.box, _counts(item.mask)


def _counts(mask: Rle | None) -> str:
    return mask["counts"] if mask is not None else ""
