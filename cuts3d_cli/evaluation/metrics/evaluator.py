"""Compares predictions with a ground truth, image by image. The package says what the figures mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cuts3d_cli.evaluation.metrics.averages import Averages
from cuts3d_cli.evaluation.metrics.matching import match_instances
from cuts3d_cli.evaluation.metrics.objects import (
    Instance,
    Kind,
    Prediction,
    area_of,
    overlaps,
    sort_instances,
    sort_predictions,
)

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
class KindMetrics:
    """The figures by boxes or by masks, in [0, 1], None where undefined. The package says what they mean.

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
        precision50: share of the predictions that found an instance.
        mean_best_iou: over the instances.
        matched: number of instances that were found, at IoU 0.5.
        ignored: number of predictions in crowd regions.
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
        images: number of images evaluated, with or without instances.
        instances: number of instances in them, without crowd regions.
        crowds: number of crowd regions.
        predictions: number of predictions.
        box: figures by boxes.
        mask: figures by masks; None unless all instances and predictions have one.
    """

    images: int
    instances: int
    crowds: int
    predictions: int
    box: KindMetrics
    mask: KindMetrics | None

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as plain JSON values, in full precision."""
        return asdict(self)


class Evaluator:
    """Compares predictions with a ground truth, image by image, and keeps little of each image."""

    def __init__(self, *, masks: bool) -> None:
        """Begin without images.

        Args:
            masks: whether to compare masks as well as boxes; all instances and predictions must have one.
        """
        kinds: tuple[Kind, ...] = ("bbox", "segm") if masks else ("bbox",)
        self._tallies: dict[Kind, _Tally] = {kind: _Tally() for kind in kinds}
        self._images: set[int] = set()
        self._instances = self._crowds = self._predictions = 0

    def add(self, image: int, predictions: Sequence[Prediction], instances: Sequence[Instance]) -> None:
        """Compare the predictions and instances of one image; both may be empty, and in any order.

        Args:
            image: its id.
            predictions: of this image.
            instances: of this image, crowd regions among them.

        Raises:
            ValueError: the image was compared before, a score is not finite, or masks are missing or differ in size.
        """
        if image in self._images:
            raise ValueError(f"image {image} is compared for the second time")
        predicted, objects = sort_predictions(predictions), sort_instances(instances)
        _check(image, predicted, objects, masks="segm" in self._tallies)
        self._images.add(image)
        crowds = sum(item.crowd for item in objects)
        self._crowds += crowds
        self._instances += len(objects) - crowds
        self._predictions += len(predicted)
        for kind, tally in self._tallies.items():
            tally.add(image, kind, predicted, objects)

    def metrics(self) -> Metrics:
        """Compute the figures of all images so far; those of masks are None where there is no instance at all."""
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
        predictions: image id -> predictions; an image that is missing has none.
        ground_truth: image id -> instances, of every image to evaluate, those without instances included.

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
    """The counts so far, by boxes or by masks."""

    def __init__(self) -> None:
        self._averages = Averages()
        self._matched = self._ignored = 0
        self._best: list[float] = []

    def add(self, image: int, kind: Kind, predicted: Sequence[Prediction], instances: Sequence[Instance]) -> None:
        crowds = np.array([item.crowd for item in instances], dtype=bool)
        ious = overlaps(kind, predicted, instances)
        counts = match_instances(ious[:, ~crowds], ious[:, crowds])
        self._matched += counts.matched
        self._ignored += len(counts.ignored)
        self._best += counts.best.tolist()
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
