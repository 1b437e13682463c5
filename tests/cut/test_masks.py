import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from cuts3d_cli.cut.masks import (
    decode_rle,
    encode_rle,
    fill_holes,
    mask_iou,
    resize_mask,
    rle_area,
    rle_box,
    rle_runs,
    upsample_nearest,
    without_specks,
)


@settings(max_examples=100, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=30)))
def test_rle_round_trip(mask: np.ndarray):
    code = encode_rle(mask)
    np.testing.assert_array_equal(decode_rle(code), mask)
    assert rle_area(code) == mask.sum()
    assert code["counts"].isascii()


def test_box_is_xywh():
    mask = np.zeros((10, 20), dtype=bool)
    mask[2:5, 7:13] = True
    code = encode_rle(mask)
    assert code["size"] == [10, 20]
    assert rle_box(code) == [7, 2, 6, 3]


def test_iou_by_hand():
    first = np.array([[True, True, False, False]])
    second = np.array([[False, True, True, False]])
    assert mask_iou(first, second) == pytest.approx(1 / 3)
    assert mask_iou(first, first) == 1
    assert mask_iou(first & ~first, second & ~second) == 0


def test_patches_become_blocks():
    mask = np.array([[True, False], [False, True]])
    np.testing.assert_array_equal(upsample_nearest(mask, (4, 6)), np.kron(mask, np.ones((2, 3), dtype=bool)))


@pytest.mark.parametrize(("grid", "size"), [(46, 480), (60, 480), (34, 100), (7, 5)])
def test_upsampling_equals_torch(grid: int, size: int):
    torch = pytest.importorskip("torch")
    mask = np.random.default_rng(0).random((grid, grid)) > 0.5
    expected = torch.nn.functional.interpolate(torch.from_numpy(mask[None, None]).double(), size=(size, size))[0, 0]
    np.testing.assert_array_equal(upsample_nearest(mask, (size, size)), expected.numpy() > 0)


def test_specks_go_and_what_an_occluder_parts_stays():
    mask = np.zeros((20, 20), dtype=bool)  # too small for anything to be joined
    mask[2:12, 2:12] = True  # 100 pixels
    mask[14:18, 2:12] = True  # 40: the same object behind another one
    object_alone = mask.copy()
    mask[0, 0] = mask[2, 15] = mask[3, 16] = True  # 1, and 2 that touch at a corner
    np.testing.assert_array_equal(without_specks(mask, share=0.05), object_alone)
    largest = without_specks(mask, share=0.9)
    assert largest.sum() == 100
    np.testing.assert_array_equal(without_specks(mask, share=0.0), mask)
    assert not without_specks(np.zeros((4, 4), dtype=bool), share=0.5).any()


def test_what_lies_close_together_is_joined_before_specks_go():
    mask = np.zeros((320, 320), dtype=bool)  # a disc of a radius of 2
    mask[50:150, 50:150] = mask[100:104, 153:157] = mask[200:204, 200:204] = True
    found = without_specks(mask, share=0.05)
    assert found[102, 149:157].all()  # over a gap of 3
    assert not found[190:210, 190:210].any()
    assert not (found & ~without_specks(mask, share=0.0)).any()
    # A straight edge stays where it is, also along the border of the photo.
    edge = np.zeros((320, 320), dtype=bool)
    edge[:100, :160] = True
    np.testing.assert_array_equal(without_specks(edge, share=0.05), edge)


@settings(max_examples=100, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_what_is_left_without_specks_are_whole_pieces(mask: np.ndarray):
    mask = fill_holes(mask)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    found = without_specks(mask, share=0.2)
    sizes = [np.count_nonzero(labels == label) for label in range(1, count + 1)]
    for label, size in enumerate(sizes, start=1):
        piece = labels == label
        assert found[piece].all() or not found[piece].any()
        if size >= 0.2 * mask.sum():
            assert found[piece].all()
    assert not (found & ~mask).any()
    assert found.any() == mask.any()


def test_holes_are_filled():
    mask = np.ones((5, 5), dtype=bool)
    mask[2, 2] = False
    mask[0, 0] = False  # open to the outside
    filled = fill_holes(mask)
    assert filled[2, 2]
    assert not filled[0, 0]


def test_resizing_keeps_halves_apart():
    mask = np.zeros((10, 10), dtype=bool)
    mask[:, :5] = True
    resized = resize_mask(mask, (30, 40))
    assert resized.shape == (30, 40)
    assert resized[:, :20].all()
    assert not resized[:, 20:].any()
    np.testing.assert_array_equal(resize_mask(mask, (10, 10)), mask)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 50), (40, 30)])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("order", ["C", "F"])
def test_holes_are_those_of_scipy(size: tuple[int, int], share: float, order: str):
    mask = np.asarray(np.random.default_rng(0).random(size) < share, order=order)  # type: ignore[call-overload]
    before = mask.copy()
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))
    np.testing.assert_array_equal(mask, before)


def plain_runs(counts: str) -> list[int]:
    """The rule of compressed codes, a character at a time."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    assert shift == 0
    return runs


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_runs_are_those_of_the_rule(height: int, width: int, seed: int, share: float):
    mask = np.random.default_rng(seed).random((height, width)) < share
    counts = encode_rle(mask)["counts"]
    runs = rle_runs(counts)
    assert runs == plain_runs(counts)
    assert sum(runs) == mask.size
    assert sum(runs[1::2]) == mask.sum()


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=[chr(code) for code in range(48, 112)], max_size=12))
def test_any_groups_are_runs_or_refused(counts: str):
    try:
        found = rle_runs(counts)
    except ValueError:
        # Cut off, or a number of more than seven groups.
        assert counts[-1] >= "P" or any(len(part) > 6 for part in re.findall("[P-o]+", counts))
    else:
        assert found == plain_runs(counts)


@pytest.mark.parametrize(
    ("counts", "problem"),
    [("/", "damaged"), ("p", "damaged"), ("1\u0141", "damaged"), ("1P", "cut off"), ("P" * 7 + "1", "damaged")],
)
def test_damaged_runs_are_refused(counts: str, problem: str):
    with pytest.raises(ValueError, match=problem):
        rle_runs(counts)
    assert rle_runs("") == []
