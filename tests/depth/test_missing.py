"""Which values of a depth map are no measurements."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cuts3d_cli.depth.missing import find_missing, in_unit, invalid_values
from cuts3d_cli.errors import SettingError

NAN, INF = float("nan"), float("inf")


def scene(dtype: type = np.uint16, *, far: float = 5000) -> NDArray[np.generic]:
    """A ramp from 500 to `far`, as a camera measures a floor."""
    return np.linspace(500, far, 400).reshape(20, 20).astype(dtype)


def marked(values: NDArray[np.generic], mark: float) -> NDArray[np.generic]:
    """Values with a mark in a corner."""
    values = values.copy()
    values[:5, :6] = mark
    return values


@pytest.mark.parametrize(
    ("dtype", "mark"),
    [
        (np.uint16, 65535),  # 7-Scenes, 2D-3D-S, DepthAI
        (np.int16, 32767),
        (np.int32, 2**31 - 1),
        (np.uint32, 2**32 - 1),
        (np.uint16, 8191),  # 13 bits of an early Kinect
        (np.float16, 65504),
        (np.float32, np.finfo(np.float32).max),
        (np.float64, np.finfo(np.float64).max),
        (np.float32, 65535.0),
        (np.float32, 1e10),  # what Blender has behind a scene
        (np.float64, 999_999.0),
    ],
)
def test_the_largest_value_is_missing_where_it_stands_apart(dtype: type, mark: float) -> None:
    found = find_missing(marked(scene(dtype), mark), invalid=None)
    assert found.pixels.sum() == 30
    assert found.pixels[:5, :6].all()
    assert found.values == (float(np.array(mark, dtype)),)
    assert found.top == 5000


@pytest.mark.parametrize("metres", [65.535, 1e4])
def test_in_metres(metres: float) -> None:
    found = find_missing(marked(scene(np.float32) / 1000, metres), invalid=None)
    assert found.values == (pytest.approx(metres),)


@pytest.mark.parametrize(
    "values",
    [
        scene(),
        scene(far=65535),  # a map that was stretched to all of its type
        marked(scene(far=60000), 65535),
        marked(scene(np.float32), 20_000.0),  # a wall far away
        np.where(np.arange(400).reshape(20, 20) == 7, 1e6, scene(np.float32)),  # a single pixel, not a mark
        np.full((4, 4), 2000, np.uint16),
        marked(scene(np.uint8, far=90), 255),  # 8 bits are a picture of depth
    ],
    ids=["ramp", "stretched", "far", "wall", "one pixel", "flat", "picture"],
)
def test_distances_stay(values: NDArray[np.generic]) -> None:
    found = find_missing(values, invalid=None)
    assert found.values == ()
    assert not found.pixels[values > 0].any()


def test_two_marks_are_both_found() -> None:
    values = marked(scene(), 65535)
    values[-1] = 32767
    assert find_missing(values, invalid=None).values == (65535.0, 32767.0)


def test_nothing_but_the_largest_value_is_no_map() -> None:
    assert find_missing(np.full((4, 4), 65535, np.uint16), invalid=None).pixels.all()


def test_zero_negative_and_no_number_are_always_missing() -> None:
    values = np.array([[0.0, -1.0, NAN, INF, -INF, 1.5]])
    assert find_missing(values, invalid=(9.0,)).pixels.tolist() == [[True] * 5 + [False]]
    # A disparity that is known up to a shift may be negative.
    kept = find_missing(values, invalid=None, zero_is_missing=False, distances=False)
    assert kept.pixels.tolist() == [[False, False, True, True, True, False]]


def test_of_disparities_a_large_value_may_be_near() -> None:
    near = marked(scene(np.float32), 1e6)
    assert find_missing(near, invalid=None, distances=False).values == ()
    assert find_missing(marked(scene(), 65535), invalid=None, distances=False).values == (65535.0,)


def test_named_values_take_the_place_of_the_rule() -> None:
    values = marked(scene(np.uint16), 65535)
    values[-1] = 4000
    assert find_missing(values, invalid=(0.0,)).values == ()
    found = find_missing(values, invalid=(4000.0, 7.0))
    assert (found.values, found.top) == ((4000.0,), 65535.0)
    assert found.pixels[-1].all()
    floats = np.array([[1.5, 0.1]], np.float32)
    assert find_missing(floats, invalid=(0.1,)).pixels.tolist() == [[False, True]]


def test_how_many_have_the_largest_value() -> None:
    values = scene(np.float32)
    values[:5] = 6000.0
    values[5] = NAN
    found = find_missing(values, invalid=None)
    assert (found.top, found.top_share) == (6000.0, pytest.approx(100 / 380))


def test_in_another_unit() -> None:
    values = np.array([[0, 1500, 65535, 2000]], np.uint16)
    metres = in_unit(values, find_missing(values, invalid=None), scale=0.001)
    np.testing.assert_array_equal(metres, np.float32([[NAN, 1.5, NAN, 2.0]]))
    large = np.array([[1e39, 1.0]])
    np.testing.assert_array_equal(in_unit(large, find_missing(large, invalid=())), np.float32([[NAN, 1.0]]))


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("auto", None),
        (" AUTO ", None),
        ("0", (0.0,)),
        ("65535,1e10", (65535.0, 1e10)),
        (7, (7.0,)),
        ([1, 2], (1.0, 2.0)),
    ],
)
def test_the_setting(given: object, values: tuple[float, ...] | None) -> None:
    assert invalid_values(given, setting="pack.depth_invalid") == values


@pytest.mark.parametrize("given", ["none", "1;2", "", [None], None])
def test_no_such_setting(given: object) -> None:
    with pytest.raises(SettingError, match=r"pack\.depth_invalid is .*: give 'auto', or the values"):
        invalid_values(given, setting="pack.depth_invalid")
