from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.cut.masks import decode_rle, encode_rle, rle_area
from cuts3d_cli.evaluation.datasets.segmentation import ReadMask, read_mask

SIZE = [4, 5]


def read(segmentation: Any) -> Any:
    found = read_mask(segmentation, width=5, height=4)
    assert found.flaw is None
    assert found.code is not None
    return decode_rle(found.code)


def expected() -> Any:
    """Columns 1 and 2, rows 1 and 2."""
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 1:3] = True
    return mask


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 1, 3, 1, 3, 3, 1, 3]],
        [[1, 1, 2, 1, 2, 3, 1, 3], [2.0, 1, 3, 1, 3, 3, 2, 3]],
        {"size": SIZE, "counts": [5, 2, 2, 2, 9]},
        {"size": SIZE, "counts": [5, 2, 2, 0, 0, 2, 9]},
        encode_rle(expected()),
        # What tools write besides: no list around the only polygon, pairs, and a list of codes.
        [1, 1, 3, 1, 3, 3, 1, 3],
        [[1, 1], [3, 1], [3, 3], [1, 3]],
        [[[1, 1], [3, 1], [3, 3], [1, 3]]],
        [encode_rle(expected())],
        [{"size": SIZE, "counts": [5, 2, 13]}, {"size": SIZE, "counts": [9, 2, 9]}],
    ],
)
def test_all_forms_mean_the_same(segmentation: Any):
    np.testing.assert_array_equal(read(segmentation), expected())


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_codes_are_read_as_pycocotools_reads_them(height: int, width: int, seed: int):
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.random()
    mask[0, 0] |= not mask.any()
    code = encode_rle(mask)
    assert read_mask(code, width=width, height=height) == ReadMask(code=code, flaw=None)
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    counts = [0, *runs] if flat[0] else runs
    assert read_mask({"size": [height, width], "counts": counts}, width=width, height=height).code == code


def test_polygons_are_filled_as_pycocotools_fills_them():
    rng = np.random.default_rng(0)
    for _ in range(20):
        polygon = (rng.random(10) * 45 - 5).tolist()
        code = read_mask([polygon], width=50, height=40).code
        assert code is not None
        assert code["counts"].encode() == coco_mask.frPyObjects([polygon], 40, 50)[0]["counts"]


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ("abc", "neither a list of polygons nor a run-length code"),
        ({"size": SIZE}, "neither a list of polygons nor a run-length code"),
        ({"size": [5, 4], "counts": [20]}, r"has the size \(height, width\) \[5, 4\], its image \[4, 5\]"),
        ({"size": SIZE, "counts": [10, 9]}, "do not add up"),
        ({"size": SIZE, "counts": [10, 200]}, "do not add up"),
        ({"size": SIZE, "counts": [-1, 21]}, "do not add up"),
        ({"size": SIZE, "counts": [10.5, 9.5]}, "do not add up"),
        ({"size": SIZE, "counts": 20}, "do not add up"),
        ({"size": SIZE, "counts": ""}, "do not add up"),
        ({"size": SIZE, "counts": encode_rle(np.ones((9, 9), dtype=bool))["counts"]}, "do not add up"),
        ({"size": SIZE, "counts": "é"}, "damaged"),
        ({"size": SIZE, "counts": "o" * 50}, "cut off"),
        ({"size": SIZE, "counts": "o"}, "cut off"),
        ([[1, 1, 3, 3]], "at least three points"),
        ([[1, 1, 3, 1, 3, 3, 1]], "at least three points"),
        ([1, 1, 3, 3], "at least three points"),
        ([[]], "at least three points"),
        ([], "is empty"),
        ({}, "neither a list of polygons nor a run-length code"),
        ([["a", "b", "c", "d", "e", "f"]], "not a number, or far outside"),
        ([[6, 5, 9, 5, 9, 8]], "outside its image"),
        ([[-6, -5, -3, -5, -3, -1]], "outside its image"),
        ({"size": SIZE, "counts": [20]}, "of no pixel"),
        ([[1, 1, 3, 1, 3, float("nan")]], "not a number, or far outside"),
        ([[1, 1, 3, 1, 3, "3"]], "not a number, or far outside"),
        ([[1, 1, 3, 1, 3, 1e9]], "not a number, or far outside"),
    ],
)
def test_of_what_is_damaged_nothing_is_left(segmentation: Any, words: str):
    found = read_mask(segmentation, width=5, height=4)
    assert found.code is None
    assert found.flaw is not None
    assert re.search(words, found.flaw)


@pytest.mark.parametrize(
    "bad",
    [
        [1, 1, 3, 3],
        [],
        [1, 1, 3, 1, 3],
        [1, 1, 3, 1, 3, float("nan")],
        [1, 1, 3, 1, 1e7, 3],
        None,
        "x",
        {"size": SIZE, "counts": [1]},
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_bad_part_costs_no_other(bad: Any, place: int):
    parts: list[Any] = [[1, 1, 3, 1, 3, 3, 1, 3]]
    parts.insert(place, bad)
    found = read_mask(parts, width=5, height=4)
    assert found.code == encode_rle(expected())
    assert found.flaw


def test_edges_without_end_are_left_out():
    zigzag = [coordinate for at in range(5000) for coordinate in (at % 2 * 9000, 8000)]
    square = [1, 1, 3, 1, 3, 3, 1, 3]
    found = read_mask([square, zigzag], width=9000, height=9000)
    assert found.code is not None
    assert rle_area(found.code) == 4
    assert "edges are longer than" in str(found.flaw)
    assert read_mask([square], width=100_000, height=100_000).flaw == (
        f"is of an image of 100000x100000 pixels, more than {MAX_IMAGE_PIXELS}"
    )
