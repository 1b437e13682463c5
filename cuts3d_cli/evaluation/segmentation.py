"""Masks of a COCO JSON: polygons, or run-length codes as lists or as strings, checked before pycocotools sees them.

pycocotools writes past its memory where run lengths do not add up to the image, and takes a polygon of two points for
a box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
from pycocotools import mask as coco_mask

from cuts3d_cli.cut.masks import Rle, encode_rle


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
    if isinstance(segmentation, list):
        return _of_polygons(segmentation, width=width, height=height)
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise ValueError("is neither a list of polygons nor a run-length code")
    size = segmentation.get("size")
    if size != [height, width]:
        raise ValueError(f"has the size (height, width) {size}, its image {[height, width]}")
    counts = segmentation["counts"]
    runs = _runs(counts) if isinstance(counts, str) else counts
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
    code = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return {"size": [height, width], "counts": code["counts"].decode("ascii")}


def _runs(text: str) -> list[int]:
    """The run lengths of a compressed code: groups of 5 bits, the lowest first, from the third on as differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("is a run-length code that is damaged")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("is a run-length code that is cut off")
    return runs


def is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> TypeGuard[int]:
    """Tell whether a JSON value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
