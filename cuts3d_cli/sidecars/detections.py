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
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    masks: Sequence[Rle]

    def over(self, score: float) -> Detections:
        """Return those of at least this score."""
        kept = np.flatnonzero(self.scores >= score).tolist()
        return Detections(boxes=self.boxes[kept], scores=self.scores[kept], masks=[self.masks[i] for i in kept])


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
        "instances": [mask_record(item) | {"score": item.score} for item in stored.instances],
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


def from_detections(
    found: Detections, *, size: tuple[int, int], min_score: float, max_detections: int
) -> StoredDetections:
    """Return what is stored of the detections of a photo; those with an empty mask are left out.

    Args:
        found: in the photo, best first.
        size: (height, width) of the photo.
        min_score: detections of a lower score are left out.
        max_detections: the most that are stored.
    """
    kept = found.over(min_score)
    instances = [
        StoredMask(
            segmentation=mask,
            box=_rounded(box[0], box[1], box[2] - box[0], box[3] - box[1]),
            area=rle_area(mask),
            score=round(float(score), 6),
        )
        for box, score, mask in zip(kept.boxes, kept.scores, kept.masks, strict=True)
        if rle_area(mask) > 0
    ]
    return StoredDetections(size=size, instances=instances[:max_detections])


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
            replace(parse_mask(item, size), score=item.share("score"))
            for item in fields.objects("instances", each="instance")
        ],
    )
