"""What the readers of annotation files return, before the photos are looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cuts3d_cli.evaluation.metrics import Instance

MAX_EDGE = 1e9
"""Largest coordinate of a box's edge, in pixels or image widths; anything beyond is damage."""


@dataclass(frozen=True, kw_only=True)
class ParsedImage:
    """An image of an annotation file.

    Attributes:
        file: path of the photo, as in the annotations.
        size: (width, height), pixels; None where the annotations do not give it.
        instances: of this image, crowd regions among them.
        relative: whether the boxes are fractions of width and height; areas are then meaningless.
    """

    file: str
    size: tuple[int, int] | None
    instances: Sequence[Instance]
    relative: bool = False


@dataclass(frozen=True, kw_only=True)
class ParsedDataset:
    """The annotations of a dataset, all of one class.

    Attributes:
        images: image id (0 or more) -> image.
        warnings: one line each.
    """

    images: dict[int, ParsedImage]
    warnings: Sequence[str] = ()


def box_instance(left: float, top: float, right: float, bottom: float, *, crowd: bool = False) -> Instance:
    """Return an instance that is a box, from its edges.

    Raises:
        ValueError: an edge is not finite, or beyond every image.
    """
    if not all(abs(edge) <= MAX_EDGE for edge in (left, top, right, bottom)):
        raise ValueError(f"a box with the edges {left:g}, {top:g}, {right:g}, {bottom:g}")
    width, height = right - left, bottom - top
    return Instance(box=(left, top, width, height), area=width * height, crowd=crowd)


def instances_in_pixels(image: ParsedImage, size: tuple[int, int]) -> list[Instance]:
    """Return the instances of an image with boxes and areas in pixels.

    Args:
        image: as it was parsed.
        size: (width, height) of its photo, pixels.
    """
    if not image.relative:
        return list(image.instances)
    width, height = size
    return [
        Instance(box=(x * width, y * height, w * width, h * height), area=w * width * h * height, crowd=item.crowd)
        for item in image.instances
        for x, y, w, h in [item.box]
    ]
