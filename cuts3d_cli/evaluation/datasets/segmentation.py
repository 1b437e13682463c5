"""Masks of a COCO JSON: polygons, or run-length codes as lists or as strings, checked before pycocotools sees them.

pycocotools writes past its memory where run lengths do not add up to the image, and takes a polygon of two points for
a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.cut.masks import Rle, encode_rle, rle_area, rle_runs
from cuts3d_cli.json_reading import is_number, is_whole

MAX_PERIMETER = 20_000_000
"""Most pixels along all edges of a mask's polygons; no outline of an object is longer."""


@dataclass(frozen=True, kw_only=True)
class ReadMask:
    """What was read of the segmentation of an annotation.

    Attributes:
        code: of all its parts that are valid; None where none is.
        flaw: what is wrong with the first part that is not; None where all are valid. It continues "its segmentation".
    """

    code: Rle | None
    flaw: str | None


def read_mask(segmentation: Any, *, width: int, height: int) -> ReadMask:
    """Read the mask of an annotation: the union of its valid parts.

    Besides COCO's two forms, those that annotation tools write are taken: one polygon without the list around it,
    polygons of [x, y] pairs, and a list of run-length codes.

    Args:
        segmentation: a list of polygons [x, y, x, y, ...], or {"size": [height, width], "counts": a list or string}.
        width: of the image, pixels.
        height: of the image, pixels.

    Returns:
        The mask at the size of the image, and what is wrong with it.
    """
    # Refuse sizes that no mask may have, before memory is taken for one.
    if width * height > MAX_IMAGE_PIXELS:
        return ReadMask(code=None, flaw=f"is of an image of {width}x{height} pixels, more than {MAX_IMAGE_PIXELS}")
    # Read it part by part.
    codes, flaws = [], []
    edges = 0.0
    for part in _parts(segmentation):
        try:
            if isinstance(part, dict):
                codes.append(_of_runs(part, width=width, height=height))
            else:
                polygon = _checked_polygon(part, width=width, height=height)
                # pycocotools walks along every edge, pixel by pixel, and keeps them all.
                edges += _perimeter(polygon)
                if edges > MAX_PERIMETER:
                    raise ValueError(f"has polygons whose edges are longer than {MAX_PERIMETER} pixels together")
                codes.append(coco_mask.frPyObjects([polygon], height, width)[0])
        except ValueError as error:
            flaws.append(str(error))
    # Join the valid parts.
    flaw = flaws[0] if flaws else None
    if not codes:
        return ReadMask(code=None, flaw=flaw or "is empty")
    counts = coco_mask.merge(codes)["counts"].decode("ascii")
    return ReadMask(code={"size": [height, width], "counts": counts}, flaw=flaw)


def _parts(segmentation: Any) -> list[Any]:
    """Return the polygons and run-length codes of a segmentation, each polygon as a flat list if it can be one."""
    if not isinstance(segmentation, list):
        return [segmentation]
    # A polygon that is not in a list: of numbers, or of pairs of numbers.
    if segmentation and (not any(isinstance(item, list | dict) for item in segmentation) or _is_of_pairs(segmentation)):
        segmentation = [segmentation]
    return [list(chain.from_iterable(part)) if _is_of_pairs(part) else part for part in segmentation]


def _is_of_pairs(polygon: Any) -> bool:
    return (
        isinstance(polygon, list)
        and len(polygon) > 2
        and all(isinstance(point, list) and len(point) == 2 for point in polygon)
    )


def _of_runs(code: dict[str, Any], *, width: int, height: int) -> dict[str, Any]:
    """Return a run-length code as pycocotools takes it.

    Raises:
        ValueError: it is damaged, of another size, or covers nothing.
    """
    if "counts" not in code:
        raise ValueError("is neither a list of polygons nor a run-length code")
    size = code.get("size")
    if size != [height, width]:
        raise ValueError(f"has the size (height, width) {size}, its image {[height, width]}")
    counts = code["counts"]
    runs = rle_runs(counts) if isinstance(counts, str) else counts
    good = isinstance(runs, list) and all(is_whole(run) and run >= 0 for run in runs)
    if not good or sum(runs) != height * width:
        raise ValueError("is a run-length code whose runs do not add up to its size")
    # Write the code anew, in the form of a string that pycocotools and `cut.masks` share.
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    plain = encode_rle(flat.reshape(width, height).T)
    if not rle_area(plain):
        raise ValueError("is a run-length code of no pixel")
    return {"size": plain["size"], "counts": plain["counts"].encode("ascii")}


def _checked_polygon(polygon: Any, *, width: int, height: int) -> list[float]:
    """Return a polygon that pycocotools can fill.

    Raises:
        ValueError: it is none, or lies outside its image.
    """
    # pycocotools takes time and memory for what lies outside the image; a little outside is common.
    limit = 2 * max(width, height)
    if not isinstance(polygon, list):
        raise ValueError("is neither a list of polygons nor a run-length code")
    if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("has a polygon that is not a list of at least three points [x, y, x, y, ...]")
    if not all(is_number(value) and abs(value) <= limit for value in polygon):
        raise ValueError("has a polygon with a point that is not a number, or far outside its image")
    xs, ys = polygon[0::2], polygon[1::2]
    if max(xs) < 0 or max(ys) < 0 or min(xs) > width or min(ys) > height:
        raise ValueError("has a polygon outside its image")
    return polygon


def _perimeter(polygon: Sequence[float]) -> float:
    """Return the length of a closed polygon, in pixels, horizontal and vertical steps added up."""
    return sum(
        abs(polygon[at] - polygon[at - 2]) + abs(polygon[at + 1] - polygon[at - 1]) for at in range(0, len(polygon), 2)
    )
