"""The predict sidecar: what a trained detector finds in every photo, and its detections in memory.

`KEY.predict.json`, of `NAME-000.predict.tar` or of a round of self-training, `NAME-000.predict.initial.tar`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.masks import Rle, rle_area
from cuts3d_cli.files import to_json_bytes
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.fields import Record
from cuts3d_cli.sidecars.masks import StoredMask, mask_record, parse_mask, photo_flaw
from cuts3d_cli.sidecars.reading import NOTHING, Flaw, Known, Reading, decoded, read_record, stray_members

MEMBERS = ("predict.json",)
FOLLOWS = None


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found in one photo, best first.

    Attributes:
        boxes: (N, 4) float32, x0, y0, x1, y1 in pixels of the photo.
        scores: (N,) float32 in [0, 1].
        masks: N masks at the photo's size; empty where only boxes are compared.
        classes: (N,) int64, the detector's number of each class, from 0; None where it knows one class.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    masks: Sequence[Rle]
    classes: NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class StoredDetections:
    """The detections of one photo, as a predict sidecar has them.

    Attributes:
        size: (height, width) of the photo, pixels.
        instances: best first; each has a score.
    """

    size: tuple[int, int]
    instances: Sequence[StoredMask]


def encode(stored: StoredDetections) -> dict[str, bytes]:
    """Return the members of a sample."""
    record: dict[str, Any] = {
        "height": stored.size[0],
        "width": stored.size[1],
        "instances": [
            mask_record(item) | {"score": item.score} | ({} if item.class_id is None else {"class_id": item.class_id})
            for item in stored.instances
        ],
    }
    return {"predict.json": to_json_bytes(record)}


def decode(sample: Sample, known: Known = NOTHING) -> StoredDetections:
    """Read a sample of a predict sidecar.

    Args:
        sample: of the sidecar.
        known: the size of the photo.

    Raises:
        ShardError: the JSON is missing or damaged, or is of a photo of another size.
        SampleError: there are other members.
    """
    return decoded(_read(sample, known), sample, "detections")


def flaws(sample: Sample, known: Known = NOTHING) -> list[Flaw]:
    """Return all that is wrong with a sample of a predict sidecar."""
    return list(_read(sample, known))


def from_detections(found: Detections, *, size: tuple[int, int]) -> StoredDetections:
    """Return what is stored of the detections of a photo; those with an empty mask are left out.

    Args:
        found: in the photo, best first.
        size: (height, width) of the photo.
    """
    classes = [None] * len(found.masks) if found.classes is None else found.classes.tolist()
    instances = [
        StoredMask(
            segmentation=mask,
            box=_rounded(box[0], box[1], box[2] - box[0], box[3] - box[1]),
            area=rle_area(mask),
            score=round(float(score), 6),
            class_id=class_id,
        )
        for box, score, mask, class_id in zip(found.boxes, found.scores, found.masks, classes, strict=True)
        if rle_area(mask) > 0
    ]
    return StoredDetections(size=size, instances=instances)


def _rounded(x: np.float32, y: np.float32, width: np.float32, height: np.float32) -> tuple[float, float, float, float]:
    return round(float(x), 2), round(float(y), 2), round(float(width), 2), round(float(height), 2)


def _read(sample: Sample, known: Known) -> Reading[StoredDetections | None]:
    yield from stray_members(sample, MEMBERS)
    stored = yield from read_record(sample, "predict.json", _parse)
    if stored and (flaw := photo_flaw("predict.json", stored.size, known)):
        yield flaw
    return stored


def _parse(fields: Record) -> StoredDetections:
    size = fields.size()
    return StoredDetections(
        size=size,
        instances=[
            replace(
                parse_mask(item, size),
                score=item.share("score"),
                class_id=item.whole("class_id", least=0) if item.has("class_id") else None,
            )
            for item in fields.objects("instances", each="instance")
        ],
    )
