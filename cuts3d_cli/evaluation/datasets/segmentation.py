"""Masks of a COCO JSON: polygons, or run-length codes as lists or as strings, checked before pycocotools sees them.

pycocotools writes past its memory where run lengths do not add up to the image, and takes a polygon of two points for
a box.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
from pycocotools import mask as coco_mask

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.cut.masks import Rle, encode_rle, rle_runs

MAX_PERIMETER = 20_000_000
"""Pixels along all edges of a mask's polygons; more is no outline of anything."""


def to_rle(segmentation: Any, *, width: int, height: int) -> Rle:
    """Read the mask of an annotation.

    Args:
        segmentation: a list of polygons [x, y, x, y, ...], or {"size": [height, width], "counts": a list or string}.
        width: of the image, pixels.
        height: of the image, pixels.

    Returns:
        Its run-length code.

    Raises:
        ValueError: it is neither, is damaged, or is of another size; the text is to follow "its segmentation".
    """
    if width * height > MAX_IMAGE_PIXELS:
        raise ValueError(f"is of an image of {width}x{height} pixels, more than {MAX_IMAGE_PIXELS}")
    if isinstance(segmentation, list):
        return _of_polygons(segmentation, width=width, height=height)
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise ValueError("is neither a list of polygons nor a run-length code")
    size = segmentation.get("size")
    if size != [height, width]:
        raise ValueError(f"has the size (height, width) {size}, its image {[height, width]}")
    counts = segmentation["counts"]
    runs = rle_runs(counts) if isinstance(counts, str) else counts
    good = isinstance(runs, list) and all(is_whole(run) and run >= 0 for run in runs)
    if not good or sum(runs) != height * width:
        raise ValueError("is a run-length code whose runs do not add up to its size")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return encode_rle(flat.reshape(width, height).T)


def _of_polygons(polygons: Sequence[Any], *, width: int, height: int) -> Rle:
    # pycocotools takes time and memory for what lies outside; a little outside is usual.
    limit = 2 * max(width, height)
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("has a polygon that is not a list of at least three points [x, y, x, y, ...]")
        if not all(is_number(value) and abs(value) <= limit for value in polygon):
            raise ValueError("has a polygon with a point that is no number, or far outside its image")
    # pycocotools walks along every edge, pixel by pixel, and keeps them all.
    if sum(map(_perimeter, polygons)) > MAX_PERIMETER:
        raise ValueError(f"has polygons whose edges are longer than {MAX_PERIMETER} pixels together")
    code = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return {"size": [height, width], "counts": code["counts"].decode("ascii")}


def _perimeter(polygon: Sequence[float]) -> float:
    return sum(
        abs(polygon[at] - polygon[at - 2]) + abs(polygon[at + 1] - polygon[at - 1]) for at in range(0, len(polygon), 2)
    )


def is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a JSON value is a finite number."""
    # A whole number beyond what a float can hold has no use here either.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_whole(value: Any) -> TypeGuard[int]:
    """Tell whether a JSON value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
