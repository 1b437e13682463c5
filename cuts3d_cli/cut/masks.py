"""Masks from patch grid to image: upsampling, overlap, holes, size, and run-length codes."""

from __future__ import annotations

from typing import Any, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from cuts3d_cli.config import MAX_IMAGE_PIXELS

_MOST_GROUPS = 7
"""Groups of 5 bits of the longest number in a run-length code: an image's runs and their differences have fewer."""
SPECK_REACH = 1 / 160
"""What lies as close together as twice this is joined, in units of the longer side: a radius of 3 pixels at 480."""


class Rle(TypedDict):
    """A COCO run-length code: `size` is [height, width], `counts` the compressed ASCII string."""

    size: list[int]
    counts: str


def upsample_nearest(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Enlarge a patch mask so that each patch becomes a block, as `nearest` interpolation in MaskCut.

    Args:
        mask: (H, W) bool.
        size: (h, w) of the result.

    Returns:
        (h, w) bool.
    """
    rows = np.arange(size[0]) * mask.shape[0] // size[0]
    columns = np.arange(size[1]) * mask.shape[1] // size[1]
    return mask[rows[:, None], columns[None, :]]


def mask_iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Compute the intersection over union; 0 for two empty masks (MaskCut's own helper gives NaN there)."""
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second)) / union if union else 0.0


def fill_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill background regions that the mask encloses, seen along rows and columns. (h, w) bool in and out."""
    # Around a margin the background is one region, which a flood from its corner reaches.
    outside = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), dtype=np.uint8)
    outside[1:-1, 1:-1] = mask
    cv2.floodFill(outside, None, (0, 0), 2, flags=4)
    return outside[1:-1, 1:-1] != 2


def without_specks(mask: NDArray[np.bool_], *, share: float) -> NDArray[np.bool_]:
    """Join the pieces of a mask that lie close together, and take out those that are small (not in the paper).

    A CRF leaves masks that are frayed, with specks around them. What an occluder parts stays whole, for its pieces are
    large.

    Args:
        mask: (h, w) bool.
        share: an 8-connected piece that covers less of the mask goes, in [0, 1]; the largest always stays.

    Returns:
        (h, w) bool: closed by a disc whose radius is `SPECK_REACH` of the longer side, holes filled, without small
        pieces.
    """
    radius = round(SPECK_REACH * max(mask.shape))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    mask = fill_holes(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disc).astype(bool))
    count, labels, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:  # the background, and one piece
        return mask
    areas = facts[:, cv2.CC_STAT_AREA].astype(np.int64)
    areas[0] = 0
    kept = areas >= share * areas.sum()
    kept[0], kept[int(areas.argmax())] = False, True
    return np.asarray(kept[labels], dtype=bool)


def resize_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize a mask to the image: bicubic on 0 and 255, then over one half, as MaskCut does.

    Args:
        mask: (h, w) bool.
        size: (height, width) of the result.

    Returns:
        (height, width) bool.
    """
    gray = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    resized = gray.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized) > 127


def encode_rle(mask: NDArray[np.bool_]) -> Rle:
    """Encode a mask as a COCO run-length code. (h, w) bool in."""
    columns = cv2.transpose(mask.astype(np.uint8))  # several times as fast as np.asfortranarray
    code = coco_mask.encode(columns.T)
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def decode_rle(code: Rle) -> NDArray[np.bool_]:
    """Decode a COCO run-length code. (h, w) bool out.

    Raises:
        ValueError: the code is damaged.
    """
    check_rle(code)
    return np.asarray(coco_mask.decode({"size": code["size"], "counts": code["counts"].encode("ascii")}), dtype=bool)


def check_rle(code: Any) -> Rle:
    """Check that a run-length code is whole: pycocotools writes past its memory where its runs do not add up.

    Args:
        code: any value.

    Returns:
        The code itself.

    Raises:
        ValueError: it is no run-length code, or damaged; the text is to follow "its segmentation".
    """
    size, counts = (code.get("size"), code.get("counts")) if isinstance(code, dict) else (None, None)
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, str):
        raise ValueError("is no run-length code")
    if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size):
        raise ValueError(f"is a run-length code of size {size}")
    if size[0] * size[1] > MAX_IMAGE_PIXELS:
        raise ValueError(f"is a run-length code of {size[1]}x{size[0]} pixels, more than {MAX_IMAGE_PIXELS}")
    runs = rle_runs(counts)
    if any(run < 0 for run in runs) or sum(runs) != size[0] * size[1]:
        raise ValueError("is a run-length code whose runs do not add up to its size")
    return {"size": size, "counts": counts}


def rle_runs(counts: str) -> list[int]:
    """Decode the run lengths of a compressed code: groups of 5 bits, lowest first, from the third on as differences.

    Raises:
        ValueError: the code is damaged; the text is to follow "its segmentation".
    """
    damaged = "is a run-length code that is damaged"
    if not counts.isascii():
        raise ValueError(damaged)
    bits = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    if bits.size and (bits.min() < 0 or bits.max() >= 64):
        raise ValueError(damaged)
    # A number ends with the group that has no sixth bit; longer ones than 7 groups are no image's.
    ends = np.flatnonzero(bits < 32)
    if not len(ends) or ends[-1] < len(bits) - 1:
        if len(bits):
            raise ValueError("is a run-length code that is cut off")
        return []
    starts = np.append(0, ends[:-1] + 1)
    if (ends - starts).max() >= _MOST_GROUPS:
        raise ValueError(damaged)
    places = 5 * (np.arange(len(bits)) - np.repeat(starts, ends - starts + 1))
    runs = np.add.reduceat((bits & 31) << places, starts)
    # The highest bit of the last group is the sign.
    runs -= np.where(bits[ends] & 16, 1 << (places[ends] + 5), 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    found: list[int] = runs.tolist()
    return found


def rle_box(code: Rle) -> list[float]:
    """Compute the bounding box [x, y, width, height], pixels, of a run-length code."""
    return [float(value) for value in coco_mask.toBbox({"size": code["size"], "counts": code["counts"].encode()})]


def rle_area(code: Rle) -> int:
    """Compute the number of pixels of a run-length code."""
    return int(coco_mask.area({"size": code["size"], "counts": code["counts"].encode()}))
