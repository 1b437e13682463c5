"""What the readers of annotation files return, before the photos are looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cuts3d_cli.evaluation.metrics import Instance

FARTHEST = 1e9
"""Pixels, or image widths, that no edge of a box is away."""


@dataclass(frozen=True, kw_only=True)
class ParsedImage:
    """An image of an annotation file.

    Attributes:
        file: path of the photo, as the annotations have it.
        size: (width, height), pixels; None where the annotations do not tell.
        instances: of it, crowds among them.
        relative: the boxes are fractions of the width and height, and the areas are still unknown.
    """

    file: str
    size: tuple[int, int] | None
    instances: Sequence[Instance]
    relative: bool = False


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """The annotations of a dataset, of one class.

    Attributes:
        images: by id, which starts at 0 or more.
        warnings: one line each.
    """

    images: dict[int, ParsedImage]
    warnings: Sequence[str] = ()


def box_instance(left: float, top: float, right: float, bottom: float, *, crowd: bool = False) -> Instance:
    """An instance that is a box, from its edges.

    Raises:
        ValueError: an edge is no number, or far from every image.
    """
    if not all(abs(edge) <= FARTHEST for edge in (left, top, right, bottom)):
        raise ValueError(f"a box with the edges {left:g}, {top:g}, {right:g}, {bottom:g}")
    width, height = right - left, bottom - top
    return Instance(box=(left, top, width, height), area=width * height, crowd=crowd)


def on_image(image: ParsedImage, size: tuple[int, int]) -> list[Instance]:
    """The instances in pixels of an image of (width, height)."""
    if not image.relative:
        return list(image.instances)
    width, height = size
    return [
        Instance(box=(x * width, y * height, w * width, h * height), area=w * width * h * height, crowd=item.crowd)
        for item in image.instances
        for x, y, w, h in [item.box]
    ]
