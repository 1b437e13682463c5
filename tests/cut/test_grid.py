import numpy as np
import pytest

from cuts3d_cli.cut.grid import depth_to_grid
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
