from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import ndimage

from cuts3d_cli.exports.outlines import Part, joined, outline


def filled(parts: list[Part], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of polygons as pycocotools fills them."""
    mask = np.zeros(size, dtype=bool)
    for part in parts:
        for number, ring in enumerate((part.outer, *part.holes)):
            (code,) = coco_mask.frPyObjects([ring.ravel().tolist()], *size)
            pixels = coco_mask.decode(code).astype(bool)
            mask = mask & ~pixels if number else mask | pixels
    return mask


def drawn(text: str) -> NDArray[np.bool_]:
    return np.array([[character == "#" for character in line] for line in text.split()])


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_filled_outlines_are_the_mask(height: int, width: int, seed: int):
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.random()
    parts = outline(mask)
    assert len(parts) == ndimage.label(mask)[1]
    assert len([hole for part in parts for hole in part.holes]) == (
        ndimage.label(np.pad(~mask, 1, constant_values=True), np.ones((3, 3)))[1] - 1
    )
    by_hand = np.zeros_like(mask)
    ys, xs = np.mgrid[:height, :width]
    for part in parts:  # even-odd, in the middle of pixels
        for ring in (part.outer, *part.holes):
            by_hand ^= inside(ring, xs + 0.5, ys + 0.5)
    np.testing.assert_array_equal(by_hand, mask)


def inside(ring: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]) -> NDArray[np.bool_]:
    crossings = np.zeros(xs.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y0 != y1:
            at = x0 + (ys - y0) / (y1 - y0) * (x1 - x0)
            crossings ^= ((y0 > ys) != (y1 > ys)) & (xs < at)
    return crossings


def test_parts_and_holes_are_told_apart():
    mask = drawn("##### .#### ##.## ##.#. #####")
    mask = np.pad(mask, ((0, 2), (0, 3)))
    mask[6, 7] = True
    parts = outline(mask)
    assert [len(part.holes) for part in parts] == [1, 0]
    assert parts[1].outer.tolist() == [[7, 6], [8, 6], [8, 7], [7, 7]]
    assert outline(np.zeros((3, 4), dtype=bool)) == []


@pytest.mark.parametrize("text", ["#. .#", ".# #."])
def test_pixels_that_touch_at_a_corner_are_of_two_parts(text: str):
    parts = outline(drawn(text))
    assert [len(part.outer) for part in parts] == [4, 4]
    np.testing.assert_array_equal(filled(parts, (2, 2)), drawn(text))


def disc(size: int = 60, radius: float = 20) -> NDArray[np.bool_]:
    ys, xs = np.mgrid[:size, :size] - size / 2
    return xs**2 + ys**2 <= radius**2


def test_a_tolerance_leaves_corners_out():
    mask = disc()
    mask[25:35, 25:35] = False
    (exact,), (rough,) = outline(mask), outline(mask, tolerance=1.0)
    assert len(rough.outer) < len(exact.outer) / 2
    assert len(rough.holes) == 1
    one, other = filled([rough], mask.shape), mask
    assert (one & other).sum() / (one | other).sum() > 0.93
    (tiny,) = outline(drawn("...\n.#.\n..."), tolerance=5.0)
    assert len(tiny.outer) == 4


def test_one_polygon_covers_all_parts_and_no_hole():
    mask = disc()
    mask[25:35, 25:35] = False
    mask[2:6, 2:6] = True
    path = joined(outline(mask))
    ys, xs = np.mgrid[:60, :60]
    np.testing.assert_array_equal(inside(path, xs + 0.5, ys + 0.5), mask)
