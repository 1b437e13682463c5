"""What the page of a report knows of each photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["true", "false", "ignored"]
"""Of a mask beside a ground truth: it found an instance, it found none, or it lies in a crowd region."""


@dataclass(frozen=True, kw_only=True)
class MaskRecord:
    """A mask or a detection.

    Attributes:
        area: share of the photo that it covers, in [0, 1].
        score: in [0, 1].
        verdict: None without a ground truth.
    """

    area: float
    score: float
    verdict: Verdict | None = None


@dataclass(frozen=True, kw_only=True)
class TruthRecord:
    """How a photo compares with its ground truth.

    Attributes:
        instances: number of instances, without crowd regions.
        missed: number of those that no mask found, at IoU 0.5.
        best: mean over the instances of the best IoU with any mask, in [0, 1]; None without instances.
        quality: as `Judgement.quality`, in [0, 1]; None where there is neither an instance nor a mask.
    """

    instances: int
    missed: int
    best: float | None
    quality: float | None


@dataclass(frozen=True, kw_only=True)
class PhotoRecord:
    """A photo.

    Attributes:
        name: its path, as it was packed.
        key: of its sample.
        shard: name of its base shard.
        size: (width, height), pixels; None where the photo was not opened.
        thumbnail: whether there is a picture of it.
        steps: whether there is a picture of every step.
        masks: in the order in which they are stored, without those of a lower score than was asked for.
        depth: share of the photo whose depth is known, in [0, 1]; None without a depth map.
        failed: (stage, reason), where a stage failed on it.
        dropped: (iteration from 1, reason) of each cut that gave no mask.
        stopped: why there were fewer cuts than asked for.
        truth: None where there is no ground truth of it.
    """

    name: str
    key: str
    shard: str
    size: tuple[int, int] | None = None
    thumbnail: bool = False
    steps: bool = False
    masks: Sequence[MaskRecord] = ()
    depth: float | None = None
    failed: tuple[str, str] | None = None
    dropped: Sequence[tuple[int, str]] = ()
    stopped: str | None = None
    truth: TruthRecord | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values, without what is empty; shares to four digits."""
        truth = self.truth
        values: dict[str, Any] = {
            "name": self.name,
            "key": self.key,
            "shard": self.shard,
            "size": self.size and list(self.size),
            "thumbnail": self.thumbnail,
            "steps": self.steps,
            "masks": [
                [_share(item.area, digits=6), _share(item.score), *([item.verdict] if item.verdict else [])]
                for item in self.masks
            ],
            "depth": _share(self.depth),
            "failed": self.failed and list(self.failed),
            "dropped": [list(item) for item in self.dropped],
            "stopped": self.stopped,
            "truth": truth and [truth.instances, truth.missed, _share(truth.best), _share(truth.quality)],
        }
        return {name: value for name, value in values.items() if value or (value == 0 and value is not False)}


def worst_first(records: Sequence[PhotoRecord]) -> list[int]:
    """Return the numbers of the photos: first those that compare worst with their ground truth, then those without one.

    Photos of equal quality stay in their order.
    """
    return sorted(range(len(records)), key=lambda place: _quality(records[place]))


def _quality(record: PhotoRecord) -> float:
    if record.truth is None:
        return 2.0
    return 1.0 if record.truth.quality is None else record.truth.quality


def _share(value: float | None, *, digits: int = 4) -> float | None:
    return None if value is None else round(float(value), digits)
