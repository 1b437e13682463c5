"""A photo with what was found in it, as the formats get it, whether it comes from shards or from memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cuts3d_cli.cut.masks import Rle, encode_rle, rle_area, rle_box
from cuts3d_cli.segmentation import Segmentation


@dataclass(frozen=True, kw_only=True)
class FoundInstance:
    """An instance.

    Attributes:
        mask: at the photo's size.
        box: x, y, width, height, pixels.
        area: pixels of the mask.
        score: in [0, 1]; 1 where nothing scores it.
        class_id: the detector's number of its class, from 0; None where there is one class.
    """

    mask: Rle
    box: tuple[float, float, float, float]
    area: int
    score: float
    class_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class FoundPhoto:
    """A photo with its instances.

    Attributes:
        id: unique in the export, from 0.
        file: its path, with folders and ending, `/` between folders.
        size: (height, width), pixels, upright.
        instances: in the order in which they are stored.
        read: returns the bytes of its file, as they were packed.
    """

    id: int
    file: str
    size: tuple[int, int]
    instances: Sequence[FoundInstance]
    read: Callable[[], bytes]


def instances_of(segmentation: Segmentation) -> list[FoundInstance]:
    """Return the instances of a segmentation in memory; their boxes are those of the masks."""
    codes = [encode_rle(mask) for mask in segmentation.masks]
    classes = [None] * len(codes) if segmentation.classes is None else segmentation.classes.tolist()
    return [
        FoundInstance(mask=code, box=_box_of(code), area=rle_area(code), score=float(score), class_id=class_id)
        for code, score, class_id in zip(codes, segmentation.scores, classes, strict=True)
    ]


def _box_of(code: Rle) -> tuple[float, float, float, float]:
    x, y, width, height = rle_box(code)
    return x, y, width, height
