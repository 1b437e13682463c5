"""Outlines of masks: polygons along the edges of pixels, exact or simplified. Not in the paper.

Contours through the middle of pixels, as OpenCV gives them, lose half a pixel all around: an object of one pixel is a
point. These polygons run along the edges, so that filling them gives the mask again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Ring = NDArray[np.float64]
"""(N, 2) corners x, y of a closed polygon in pixels, N >= 3; the first is not repeated at the end."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A connected part of a mask.

    Attributes:
        outer: around the part.
        holes: around what is not of the mask within it.
    """

    outer: Ring
    holes: Sequence[Ring]


def outline(mask: NDArray[np.bool_], *, tolerance: float = 0.0) -> list[Part]:
    """Return the parts of a mask as polygons.

    Pixels that touch at a corner alone are of different parts.

    Args:
        mask: (h, w) bool.
        tolerance: by how many pixels a polygon may deviate from the edges of the mask (Douglas and Peucker's way of
            leaving corners out); 0 for polygons that give the mask again when they are filled.

    Returns:
        The parts, largest first; of equal ones, the upper left first.
    """
    labels, count = ndimage.label(mask)
    rings: dict[int, list[Ring]] = {number: [] for number in range(1, count + 1)}
    outer: dict[int, Ring] = {}
    for ring in _rings(mask):
        # A ring begins at its upper left corner: there a pixel of the part is below an outer ring, and above a hole.
        x, y = ring[0]
        if mask[y, x]:
            outer[labels[y, x]] = _simplified(ring, tolerance)
        else:
            rings[labels[y - 1, x]].append(_simplified(ring, tolerance))
    sizes = np.bincount(labels.ravel())
    order = sorted(outer, key=lambda number: (-sizes[number], number))
    return [Part(outer=outer[number], holes=rings[number]) for number in order]


def joined(parts: Sequence[Part]) -> Ring:
    """Return all parts of a mask, with their holes, as one polygon.

    Formats that know one polygon an object and no holes get a path that runs to each further ring, around it and back
    again the same way, from the corner that is nearest. Filled, it covers the mask, but for lines of no width.

    Args:
        parts: of the mask, at least one.

    Returns:
        The polygon.
    """
    rings = [ring for part in parts for ring in (part.outer, *part.holes)]
    path = rings[0]
    for ring in rings[1:]:
        distances = np.abs(path[:, None, :] - ring[None, :, :]).sum(axis=2)
        at, start = np.unravel_index(int(distances.argmin()), distances.shape)
        around = np.concatenate([ring[start:], ring[: start + 1]])
        path = np.concatenate([path[: at + 1], around, path[at:]])
    return path


def _rings(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the closed rings of pixel edges around a mask, each from its upper left corner to the right."""
    padded = np.pad(mask, 1)
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    # A ring turns where an odd number of the four pixels around a corner is of the mask, and twice where two opposite.
    odd = upper_left ^ upper_right ^ lower_left ^ lower_right
    twice = (upper_left == lower_right) & (upper_right == lower_left) & (upper_left != upper_right)
    ys, xs = np.nonzero(odd | twice)
    double = twice[ys, xs]
    falling = upper_left[ys, xs]  # of the two pixels at a double corner, one is upper left and one lower right
    places = np.repeat(np.arange(len(xs)), np.where(double, 2, 1))
    second = np.zeros(len(places), dtype=bool)
    second[1:] = places[1:] == places[:-1]
    corners = np.stack([xs[places], ys[places]], axis=1)
    # Corners of a row are the ends of its horizontal edges, two by two; so it is with columns. Where rings turn twice,
    # the order of the two corners decides that each of the two pixels keeps its own part.
    lower = np.where(falling[places], second, ~second)
    across = _partners(np.lexsort((second, corners[:, 0], corners[:, 1])))
    down = _partners(np.lexsort((lower, corners[:, 1], corners[:, 0])))
    return _walked(corners, across.tolist(), down.tolist())


def _partners(order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the other end of each corner's edge, where corners in this order are ends two by two."""
    partners = np.empty_like(order)
    partners[order[0::2]], partners[order[1::2]] = order[1::2], order[0::2]
    return partners


def _walked(corners: NDArray[np.int64], across: Sequence[int], down: Sequence[int]) -> list[NDArray[np.int64]]:
    """Walk along the edges, across and down in turn, until every corner has been passed."""
    passed = [False] * len(corners)
    rings = []
    # In the order of rows, so that the first corner of a ring is its upper left one.
    for start in range(len(corners)):
        if passed[start]:
            continue
        ring, corner = [], start
        while not passed[corner]:
            other = across[corner]
            passed[corner] = passed[other] = True
            ring += [corner, other]
            corner = down[other]
        rings.append(corners[ring])
    return rings


def _simplified(ring: NDArray[np.int64], tolerance: float) -> Ring:
    """Leave out corners within the tolerance, unless nothing would be left of the area."""
    exact: Ring = ring.astype(np.float64)
    if tolerance <= 0:
        return exact
    fewer = cv2.approxPolyDP(ring.astype(np.int32)[:, None, :], tolerance, closed=True)[:, 0, :]
    if len(fewer) < 3 or not cv2.contourArea(fewer):
        return exact
    result: Ring = fewer.astype(np.float64)
    return result
