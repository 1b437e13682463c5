import numpy as np
import pytest

from cuts3d_cli.cut.grid import clip_depth, depth_to_grid
from cuts3d_cli.errors import SampleError


def test_nearest_takes_the_centre_of_each_patch():
    depth = np.arange(36, dtype=np.float32).reshape(6, 6) / 36
    np.testing.assert_array_equal(depth_to_grid(depth, (2, 2), sampling="nearest"), depth[[[1], [4]], [[1, 4]]])


def test_area_averages_over_each_patch():
    depth = np.arange(16, dtype=np.float32).reshape(4, 4) / 16
    expected = depth.reshape(2, 2, 2, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(depth_to_grid(depth, (2, 2), sampling="area"), expected)


@pytest.mark.parametrize("sampling", ["nearest", "area"])
def test_small_maps_are_enlarged(sampling: str):
    grid = depth_to_grid(np.array([[0.0, 1.0]], dtype=np.float32), (4, 4), sampling=sampling)
    assert grid.shape == (4, 4)
    assert np.all(grid[:, 0] < grid[:, -1])


def test_holes_must_have_been_filled():
    with pytest.raises(SampleError, match="NaN"):
        depth_to_grid(np.array([[np.nan, 1.0]]), (1, 1), sampling="nearest")


def test_clipping_by_hand():
    depth = np.array([[0.0, 0.1, 0.2, 0.3, 1.0]], dtype=np.float32)  # percentiles 25 and 75 are 0.1 and 0.3
    np.testing.assert_allclose(clip_depth(depth, percent=25), [[0, 0, 0.5, 1, 1]], atol=1e-6)


def test_clipping_keeps_holes_and_ranges():
    depth = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    depth[3, 4] = np.nan
    assert clip_depth(depth, percent=0) is depth
    clipped = clip_depth(depth, percent=5)
    assert np.isnan(clipped[3, 4])
    assert np.isnan(clipped).sum() == 1
    assert np.nanmin(clipped) == 0
    assert np.nanmax(clipped) == 1


def test_a_map_without_range_is_left_alone():
    constant = np.full((4, 4), 0.5, dtype=np.float32)
    assert clip_depth(constant, percent=10) is constant
    empty = np.full((4, 4), np.nan, dtype=np.float32)
    assert clip_depth(empty, percent=10) is empty
