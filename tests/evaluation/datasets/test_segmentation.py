from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from cuts3d_cli.cut.masks import decode_rle, encode_rle
from cuts3d_cli.evaluation.datasets.segmentation import to_rle

SIZE = [4, 5]


def read(segmentation: Any) -> Any:
    return decode_rle(to_rle(segmentation, width=5, height=4))


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
    ],
)
def test_all_forms_mean_the_same(segmentation: Any):
    np.testing.assert_array_equal(read(segmentation), expected())


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_codes_are_read_as_pycocotools_reads_them(height: int, width: int, seed: int):
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.random()
    code = encode_rle(mask)
    assert to_rle(code, width=width, height=height) == code
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    counts = [0, *runs] if flat[0] else runs
    assert to_rle({"size": [height, width], "counts": counts}, width=width, height=height) == code


def test_polygons_are_filled_as_pycocotools_fills_them():
    rng = np.random.default_rng(0)
    for _ in range(20):
        polygon = (rng.random(10) * 60 - 5).tolist()
        code = to_rle([polygon], width=50, height=40)
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
        ({"size": SIZE, "counts": "o" * 50}, "damaged"),
        ({"size": SIZE, "counts": "o"}, "cut off"),
        ([[1, 1, 3, 3]], "at least three points"),
        ([[1, 1, 3, 1, 3, 3, 1]], "at least three points"),
        ([1, 1, 3, 1, 3, 3], "at least three points"),
        ([[1, 1, 3, 1, 3, float("nan")]], "not a number, or far outside"),
        ([[1, 1, 3, 1, 3, "3"]], "not a number, or far outside"),
        ([[1, 1, 3, 1, 3, 1e9]], "not a number, or far outside"),
    ],
)
def test_what_is_damaged_is_refused(segmentation: Any, words: str):
    with pytest.raises(ValueError, match=words):
        read(segmentation)
