"""Masks of a COCO JSON: polygons, or run-length codes as lists or as strings, checked before pycocotools sees them.

pycocotools writes past its memory where run lengths do not add up to the image, and takes a polygon of two points for
a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.cut.masks import Rle, encode_rle, rle_runs
from cuts3d_cli.json_reading import is_number, is_whole

MAX_PERIMETER = 20_000_000
"""Most pixels along all edges of a mask's polygons; no outline of an object is longer."""


def to_rle(segmentation: Any, *, width: int, height: int) -> Rle:
    """Return the mask of an annotation as a run-length code.

    Args:
        segmentation: a list of polygons [x, y, x, y, ...], or {"size": [height, width], "counts": a list or string}.
        width: of the image, pixels.
        height: of the image, pixels.

    Returns:
        Its run-length code.

    Raises:
        ValueError: it is neither, is damaged, or is of another size; the text continues "its segmentation ...".
    """
    # Refuse sizes that no mask may have, before memory is taken for one.
    if width * height > MAX_IMAGE_PIXELS:
        raise ValueError(f"is of an image of {width}x{height} pixels, more than {MAX_IMAGE_PIXELS}")
    if isinstance(segmentation, list):
        return _of_polygons(segmentation, width=width, height=height)
    # Check the size and the runs of a run-length code.
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
    # Write the code anew, in the form of a string that pycocotools and `cut.masks` share.
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return encode_rle(flat.reshape(width, height).T)


def _of_polygons(polygons: Sequence[Any], *, width: int, height: int) -> Rle:
    # pycocotools takes time and memory for what lies outside the image; a little outside is common.
    limit = 2 * max(width, height)
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("has a polygon that is not a list of at least three points [x, y, x, y, ...]")
        if not all(is_number(value) and abs(value) <= limit for value in polygon):
            raise ValueError("has a polygon with a point that is not a number, or far outside its image")
    # pycocotools walks along every edge, pixel by pixel, and keeps them all.
    if sum(map(_perimeter, polygons)) > MAX_PERIMETER:
        raise ValueError(f"has polygons whose edges are longer than {MAX_PERIMETER} pixels together")
    code = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return {"size": [height, width], "counts": code["counts"].decode("ascii")}


def _perimeter(polygon: Sequence[float]) -> float:
    """Return the length of a closed polygon, in pixels, horizontal and vertical steps added up."""
    return sum(
        abs(polygon[at] - polygon[at - 2]) + abs(polygon[at + 1] - polygon[at - 1]) for at in range(0, len(polygon), 2)
    )
