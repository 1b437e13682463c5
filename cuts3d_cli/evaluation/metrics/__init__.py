"""Class-agnostic AP and AR as COCO defines them, and recall, precision and mean best IoU.

All figures are in [0, 1], or None where they are undefined: an AP without instances (of that size), a precision without
predictions.

**AP and AR** are those of pycocotools' COCOeval with one category, at most 1, 10 and 100 predictions an image, and IoU
thresholds 0.50, 0.55, ..., 0.95 (the columns of the paper's Table 12). `averages` computes them; `reference` has
pycocotools do it. Crowd regions are honoured: what lies in one is not a false positive. The size of an
instance is its annotation's area in both rows (small under 32^2, large over 96^2 pixels); that of a prediction is the
area of its box or of its mask.

**Equal scores.** COCOeval keeps the order in which it is given predictions of equal score, and takes the later of two
instances that overlap a prediction equally. Here they are always in an order made of their content: images by
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

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from cuts3d_cli.cut.masks import Rle, rle_area, rle_box
from cuts3d_cli.evaluation.metrics.averages import Averages
from cuts3d_cli.evaluation.metrics.matching import find

Box = tuple[float, float, float, float]
"""x, y, width, height, pixels."""
Kind = Literal["bbox", "segm"]
STATS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
"""Fields of `KindMetrics` that COCO defines, in its order."""
COLUMNS = {
    "AP50": "ap50",
    "AP75": "ap75",
    "AP": "ap",
    "APs": "ap_small",
    "APm": "ap_medium",
    "APl": "ap_large",
    "AR@1": "ar1",
    "AR@10": "ar10",
    "AR@100": "ar100",
}
"""Columns of the paper's Table 12, in its order -> field of `KindMetrics`."""


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


class Evaluator:
    """Compares predictions with a ground truth, image by image; keeps little of each."""

    def __init__(self, *, masks: bool) -> None:
        """Know nothing yet.

        Args:
            masks: whether to compare masks as well as boxes; all instances and predictions must have one.
        """
        kinds: tuple[Kind, ...] = ("bbox", "segm") if masks else ("bbox",)
        self._tallies: dict[Kind, _Tally] = {kind: _Tally() for kind in kinds}
        self._images: set[int] = set()
        self._instances = self._crowds = self._predictions = 0

    def add(self, image: int, predictions: Sequence[Prediction], instances: Sequence[Instance]) -> None:
        """Compare the predictions and instances of one image; both may be in any order, and none.

        Raises:
            ValueError: the image was compared before, a score is not finite, masks differ in size or are missing.
        """
        if image in self._images:
            raise ValueError(f"image {image} is compared for the second time")
        predicted, objects = ranked(predictions), arranged(instances)
        _check(image, predicted, objects, masks="segm" in self._tallies)
        self._images.add(image)
        crowds = sum(item.crowd for item in objects)
        self._crowds += crowds
        self._instances += len(objects) - crowds
        self._predictions += len(predicted)
        for kind, tally in self._tallies.items():
            tally.add(image, kind, predicted, objects)

    def metrics(self) -> Metrics:
        """The figures of all images so far. There are none of masks where there is no instance at all."""
        masks = self._tallies.get("segm") if self._instances + self._crowds else None
        return Metrics(
            images=len(self._images),
            instances=self._instances,
            crowds=self._crowds,
            predictions=self._predictions,
            box=self._tallies["bbox"].metrics(self._predictions),
            mask=masks.metrics(self._predictions) if masks is not None else None,
        )


def evaluate(
    predictions: Mapping[int, Sequence[Prediction]], ground_truth: Mapping[int, Sequence[Instance]]
) -> Metrics:
    """Compare predictions with a ground truth; all instances are of one class.

    Args:
        predictions: of each image, by its id; an image that is missing has none.
        ground_truth: of each image that is to be evaluated, by its id; images without instances are in it too.

    Returns:
        The metrics; those of masks where all instances and predictions have one.

    Raises:
        ValueError: an image of the predictions is not in the ground truth, a score is not finite, or masks of one image
            differ in size.
    """
    unknown = sorted(predictions.keys() - ground_truth.keys())
    if unknown:
        raise ValueError(f"{len(unknown)} images have predictions and no ground truth, the first of them {unknown[0]}")
    evaluator = Evaluator(
        masks=all(item.mask is not None for items in ground_truth.values() for item in items)
        and all(item.mask is not None for items in predictions.values() for item in items)
    )
    for image in sorted(ground_truth):
        evaluator.add(image, predictions.get(image, ()), ground_truth[image])
    return evaluator.metrics()


class _Tally:
    """What was found so far, by boxes or by masks."""

    def __init__(self) -> None:
        self._averages = Averages()
        self._matched = self._ignored = 0
        self._best: list[float] = []

    def add(self, image: int, kind: Kind, predicted: Sequence[Prediction], instances: Sequence[Instance]) -> None:
        crowds = np.array([item.crowd for item in instances], dtype=bool)
        ious = _overlaps(kind, predicted, instances)
        found = find(ious[:, ~crowds], ious[:, crowds])
        self._matched += found.matched
        self._ignored += found.ignored
        self._best += found.best.tolist()
        self._averages.add(
            image,
            ious=ious,
            scores=np.array([item.score for item in predicted], dtype=np.float64),
            areas=np.array([area_of(kind, item) for item in predicted], dtype=np.float64),
            true_areas=np.array([item.area for item in instances], dtype=np.float64),
            crowds=crowds,
        )

    def metrics(self, predictions: int) -> KindMetrics:
        counted = predictions - self._ignored
        return KindMetrics(
            **dict(zip(STATS, self._averages.stats(), strict=True)),
            recall50=self._matched / len(self._best) if self._best else None,
            precision50=self._matched / counted if counted else None,
            mean_best_iou=math.fsum(self._best) / len(self._best) if self._best else None,
            matched=self._matched,
            ignored=self._ignored,
        )


def shape_of(kind: Kind, item: Prediction | Instance) -> Any:
    """The box as a list, or the run-length code, as pycocotools takes it."""
    return list(item.box) if kind == "bbox" else item.mask


def area_of(kind: Kind, item: Prediction) -> float:
    """The area that says whether a prediction is small, medium or large: that of its box or of its mask."""
    return item.area if kind == "segm" else item.box[2] * item.box[3]


def ranked(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Predictions of one image in the order they are judged in: see the module."""
    return sorted(predictions, key=_rank)


def arranged(instances: Iterable[Instance]) -> list[Instance]:
    """Instances of one image in the order they are tried in: see the module."""
    return sorted(instances, key=_instance_order)


def _box_of(code: Rle) -> Box:
    x, y, width, height = rle_box(code)
    return x, y, width, height


def _rank(item: Prediction) -> tuple[float, float, Box, str]:
    return -item.score, -item.area, item.box, item.mask["counts"] if item.mask is not None else ""


def _instance_order(item: Instance) -> tuple[bool, float, Box, str]:
    return item.crowd, item.area, item.box, item.mask["counts"] if item.mask is not None else ""


def _check(image: int, predicted: Sequence[Prediction], instances: Sequence[Instance], *, masks: bool) -> None:
    for item in predicted:
        if not math.isfinite(item.score):
            raise ValueError(f"image {image}: a prediction has the score {item.score}, which is not finite")
    codes = [item.mask for group in (predicted, instances) for item in group if item.mask is not None]
    if masks and len(codes) < len(predicted) + len(instances):
        raise ValueError(f"image {image}: a prediction or an instance has no mask")
    # pycocotools would take masks of different sizes for ones that never overlap.
    if len({tuple(code["size"]) for code in codes}) > 1:
        raise ValueError(f"image {image}: its masks differ in size")


def _overlaps(kind: Kind, predictions: Sequence[Prediction], instances: Sequence[Instance]) -> NDArray[np.float64]:
    """(D, G) float64: IoU, and for crowd regions the share of the prediction that lies in them."""
    if not predictions or not instances:
        return np.zeros((len(predictions), len(instances)))
    found = coco_mask.iou(
        [shape_of(kind, item) for item in predictions],
        [shape_of(kind, item) for item in instances],
        [int(item.crowd) for item in instances],
    )
    return np.asarray(found, dtype=np.float64)
