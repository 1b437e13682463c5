"""Class-agnostic AP and AR by pycocotools, and recall, precision and mean best IoU, of predictions in memory.

All figures are in [0, 1], or None where they are undefined: an AP without instances (of that size), a precision without
predictions.

**AP and AR** are those of pycocotools' COCOeval with one category, at most 1, 10 and 100 predictions an image, and IoU
thresholds 0.50, 0.55, ..., 0.95. Crowd regions are honoured: what lies in one is not a false positive. The size of an
instance is its annotation's area in both rows (small under 32^2, large over 96^2 pixels); that of a prediction is the
area of its box or of its mask.

**Equal scores.** COCOeval keeps the order in which it is given predictions of equal score, and takes the later of two
instances that overlap a prediction equally. Here it is always given them in an order made of their content: images by
id; predictions of an image by score (highest first), then area of the mask (largest first; of the box where there is
no mask), box, run-length code; instances by crowd (last), area, box, run-length code. So the results do not depend on
the order of annotations, images or predictions, nor on the ids of annotations. They do depend on image ids where
scores are equal across images, since a precision-recall curve has to begin with one of them.

**Recall and precision at IoU 0.5** count what was found with no regard to scores and with no limit of predictions.
Pairs of a prediction and an instance that is no crowd are matched one to one, that of largest IoU first, as long as
their IoU is at least 0.5. Recall is matches / instances. Precision is matches / (predictions - ignored), where those
are ignored that match no instance and lie by half or more in one crowd region.

**Mean best IoU** is the mean over the instances that are no crowds of the best IoU with any prediction of the image, 0
where there is none. One prediction may be the best of several instances.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cuts3d_cli.cut.masks import Rle, rle_area, rle_box
from cuts3d_cli.evaluation.matching import find

Box = tuple[float, float, float, float]
"""x, y, width, height, pixels."""
Kind = Literal["bbox", "segm"]
_CATEGORY = 1


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A predicted object.

    Attributes:
        box: around it.
        score: any finite number, larger is surer.
        mask: run-length code at the image's size; None of a prediction that is only a box.
    """

    box: Box
    score: float = 1.0
    mask: Rle | None = None

    @classmethod
    def of_mask(cls, code: Rle, *, score: float = 1.0) -> Prediction:
        """A prediction with the box that its mask has."""
        return cls(box=_box_of(code), score=score, mask=code)

    @property
    def area(self) -> float:
        """Pixels of the mask, or of the box where there is none."""
        return float(rle_area(self.mask)) if self.mask is not None else self.box[2] * self.box[3]


@dataclass(frozen=True, kw_only=True)
class Instance:
    """An object of the ground truth.

    Attributes:
        box: around it.
        area: pixels; decides whether it is small, medium or large.
        crowd: whether it is a region of objects that are not told apart.
        mask: run-length code at the image's size; None in a ground truth of boxes.
    """

    box: Box
    area: float
    crowd: bool = False
    mask: Rle | None = None

    @classmethod
    def of_mask(cls, code: Rle, *, crowd: bool = False) -> Instance:
        """An instance with the box and the area that its mask has."""
        return cls(box=_box_of(code), area=float(rle_area(code)), crowd=crowd, mask=code)


@dataclass(frozen=True, kw_only=True)
class KindMetrics:
    """The figures by boxes or by masks: see the module for their meaning.

    Attributes:
        ap: mean over the IoU thresholds.
        ap50: at IoU 0.5.
        ap75: at IoU 0.75.
        ap_small: of instances under 32^2 pixels.
        ap_medium: of instances between.
        ap_large: of instances over 96^2 pixels.
        ar1: with one prediction an image.
        ar10: with ten.
        ar100: with a hundred.
        recall50: share of the instances that were found, at IoU 0.5.
        precision50: share of the predictions that found one.
        mean_best_iou: over the instances.
        matched: instances that were found, at IoU 0.5.
        ignored: predictions in crowd regions.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    recall50: float | None
    precision50: float | None
    mean_best_iou: float | None
    matched: int
    ignored: int


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How predictions compare with a ground truth.

    Attributes:
        images: evaluated, with or without instances.
        instances: of them, without crowds.
        crowds: crowd regions of them.
        predictions: of them.
        box: by boxes.
        mask: by masks; None unless all instances and predictions have one.
    """

    images: int
    instances: int
    crowds: int
    predictions: int
    box: KindMetrics
    mask: KindMetrics | None

    def to_json(self) -> dict[str, Any]:
        """The metrics as plain JSON values, in full precision."""
        return asdict(self)


def evaluate(
    predictions: Mapping[int, Sequence[Prediction]], ground_truth: Mapping[int, Sequence[Instance]]
) -> Metrics:
    """Compare predictions with a ground truth; all instances are of one class.

    Args:
        predictions: of each image, by its id; an image that is missing has none.
        ground_truth: of each image that is to be evaluated, by its id; images without instances are in it too.

    Returns:
        The metrics.

    Raises:
        ValueError: an image of the predictions is not in the ground truth, a score is not finite, or masks of one image
            differ in size.
    """
    unknown = sorted(predictions.keys() - ground_truth.keys())
    if unknown:
        raise ValueError(f"{len(unknown)} images have predictions and no ground truth, the first of them {unknown[0]}")
    images = sorted(ground_truth)
    predicted = {image: sorted(predictions.get(image, ()), key=_rank) for image in images}
    instances = {image: sorted(ground_truth[image], key=_instance_order) for image in images}
    _check(predicted, instances)
    flat = [item for image in images for item in instances[image]]
    with_masks = bool(flat) and all(item.mask is not None for item in flat)
    with_masks &= all(item.mask is not None for items in predicted.values() for item in items)
    crowds = sum(item.crowd for item in flat)
    return Metrics(
        images=len(images),
        instances=len(flat) - crowds,
        crowds=crowds,
        predictions=sum(map(len, predicted.values())),
        box=_of_kind("bbox", predicted, instances),
        mask=_of_kind("segm", predicted, instances) if with_masks else None,
    )


def _box_of(code: Rle) -> Box:
    x, y, width, height = rle_box(code)
    return x, y, width, height


def _rank(item: Prediction) -> tuple[float, float, Box, str]:
    return -item.score, -item.area, item.box, item.mask["counts"] if item.mask is not None else ""


def _instance_order(item: Instance) -> tuple[bool, float, Box, str]:
    return item.crowd, item.area, item.box, item.mask["counts"] if item.mask is not None else ""


def _check(predicted: Mapping[int, Sequence[Prediction]], instances: Mapping[int, Sequence[Instance]]) -> None:
    for image, items in predicted.items():
        for item in items:
            if not math.isfinite(item.score):
                raise ValueError(f"image {image}: a prediction has the score {item.score}, which is not finite")
        codes = [item.mask for group in (items, instances[image]) for item in group if item.mask is not None]
        # pycocotools would take masks of different sizes for ones that never overlap.
        if len({tuple(code["size"]) for code in codes}) > 1:
            raise ValueError(f"image {image}: its masks differ in size")


def _of_kind(
    kind: Kind, predicted: Mapping[int, Sequence[Prediction]], instances: Mapping[int, Sequence[Instance]]
) -> KindMetrics:
    matched = ignored = 0
    best: list[float] = []
    for image, items in predicted.items():
        objects = [item for item in instances[image] if not item.crowd]
        regions = [item for item in instances[image] if item.crowd]
        found = find(_overlaps(kind, items, objects), _overlaps(kind, items, regions))
        matched += found.matched
        ignored += found.ignored
        best += found.best.tolist()
    counted = sum(map(len, predicted.values())) - ignored
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
    return KindMetrics(
        **dict(zip(names, _coco_stats(kind, predicted, instances), strict=True)),
        recall50=matched / len(best) if best else None,
        precision50=matched / counted if counted else None,
        mean_best_iou=math.fsum(best) / len(best) if best else None,
        matched=matched,
        ignored=ignored,
    )


def _overlaps(kind: Kind, predictions: Sequence[Prediction], instances: Sequence[Instance]) -> NDArray[np.float64]:
    """(D, G) float64: IoU, and for crowd regions the share of the prediction that lies in them."""
    if not predictions or not instances:
        return np.zeros((len(predictions), len(instances)))
    found = coco_mask.iou(
        [_shape(kind, item) for item in predictions],
        [_shape(kind, item) for item in instances],
        [int(item.crowd) for item in instances],
    )
    return np.asarray(found, dtype=np.float64)


def _shape(kind: Kind, item: Prediction | Instance) -> Any:
    return list(item.box) if kind == "bbox" else item.mask


def _coco_stats(
    kind: Kind, predicted: Mapping[int, Sequence[Prediction]], instances: Mapping[int, Sequence[Instance]]
) -> list[float | None]:
    """AP, AP50, AP75, APs, APm, APl, AR@1, AR@10, AR@100 by pycocotools, which has -1 for what is undefined."""
    truth = [
        {"image_id": image, "iscrowd": int(item.crowd), "area": item.area, **_geometry(kind, item)}
        for image, items in instances.items()
        for item in items
    ]
    found = [
        {
            "image_id": image,
            "score": item.score,
            "area": item.area if kind == "segm" else item.box[2] * item.box[3],
            **_geometry(kind, item),
        }
        for image, items in predicted.items()
        for item in items
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(instances, truth), _coco(instances, found), iouType=kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) if value >= 0 else None for value in evaluation.stats[:9]]


def _geometry(kind: Kind, item: Prediction | Instance) -> dict[str, Any]:
    return {"bbox" if kind == "bbox" else "segmentation": _shape(kind, item)}


def _coco(images: Iterable[int], annotations: Sequence[dict[str, Any]]) -> COCO:
    """A container of pycocotools, filled without a file. Ids start at 1: COCOeval takes 0 for "no match"."""
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
