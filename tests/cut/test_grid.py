import numpy as np
import pytest

from cuts3d_cli.cut.grid import (
    clip_depth,
    depth_to_grid,
    fill_holes,
    patch_depth,
    patch_distance,
    patch_medians,
)
from cuts3d_cli.errors import SampleError

NAN = float("nan")


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


def test_a_map_comes_to_the_patches_clipped_without_holes_and_sampled():
    depth = np.array([[0.0, 0.1, 0.2, 0.3, 1.0]], dtype=np.float32)  # percentiles 25 and 75 are 0.1 and 0.3
    with_hole = np.concatenate([depth, np.full((1, 5), NAN, np.float32)])
    found = patch_depth(with_hole, (2, 5), clip=25.0, sampling="nearest")
    np.testing.assert_allclose(found, [[0, 0, 0.5, 1, 1]] * 2, atol=1e-6)
    found = patch_depth(with_hole, (1, 1), clip=0.0, sampling="area")
    np.testing.assert_allclose(found, [[depth.mean()]], atol=1e-6)


@pytest.mark.parametrize("clip", [0.0, 2.0])
def test_a_map_without_a_measurement_is_the_samples_failure(clip: float):
    with pytest.raises(SampleError, match="no valid pixel"):
        patch_depth(np.full((60, 60), NAN, np.float32), (12, 12), clip=clip, sampling="nearest")


class TestFillHoles:
    def test_nearest_valid_pixel(self) -> None:
        depth = np.float32([[1.0, NAN, NAN, NAN, 5.0], [1.0, NAN, NAN, NAN, 5.0]])
        filled = fill_holes(depth)
        np.testing.assert_array_equal(filled[:, [0, 1, 3, 4]], [[1.0, 1.0, 5.0, 5.0]] * 2)
        assert np.isin(filled[:, 2], [1.0, 5.0]).all()  # A tie.
        np.testing.assert_array_equal(filled, fill_holes(depth))

    def test_euclidean_not_along_rows(self) -> None:
        depth = np.full((5, 5), NAN, dtype=np.float32)
        depth[0, 0], depth[2, 4] = 1.0, 2.0
        assert fill_holes(depth)[0, 3] == 2.0  # sqrt(5) from (2, 4), 3 from (0, 0).

    def test_no_hole_gives_a_copy(self) -> None:
        depth = np.float32([[1.0, 2.0]])
        filled = fill_holes(depth)
        np.testing.assert_array_equal(filled, depth)
        filled[0, 0] = 9.0
        assert depth[0, 0] == 1.0

    def test_valid_pixels_keep_their_value_and_dtype(self) -> None:
        rng = np.random.default_rng(2)
        depth = rng.random((30, 40), dtype=np.float32)
        depth[rng.random(depth.shape) < 0.7] = NAN
        filled = fill_holes(depth)
        assert filled.dtype == np.float32
        assert np.isfinite(filled).all()
        valid = np.isfinite(depth)
        np.testing.assert_array_equal(filled[valid], depth[valid])
        assert set(filled[~valid]) <= set(depth[valid])

    def test_nothing_to_fill_from(self) -> None:
        with pytest.raises(SampleError, match="the depth map has no valid pixel"):
            fill_holes(np.full((3, 3), NAN, dtype=np.float32))


def test_metric_depth_is_the_median_around_the_centre_of_each_patch():
    distance = np.full((8, 16), 9.0)  # Two patches of 8x8: the central half of each has 4x4 pixels.
    distance[2:6, 2:6] = np.arange(1.0, 17.0).reshape(4, 4)
    distance[2:6, 10:14] = 3.0
    distance[3, 11] = 8.0
    np.testing.assert_array_equal(patch_distance(distance, (1, 2)), [[8.0, 3.0]])
    distance[2:6, 2:6][distance[2:6, 2:6] < 9] = NAN  # The centre, 11, and 9 to 16 are left.
    np.testing.assert_array_equal(patch_distance(distance, (1, 2)), [[12.0, 3.0]])


def test_a_patch_without_a_measurement_at_its_centre_takes_the_nearest_pixel():
    distance = np.full((8, 16), 9.0)
    distance[:, 10:] = 3.0
    distance[2:7, 10:14] = NAN
    distance[2, 13] = 7.0  # In the central half, but farther from the centre, pixel (4, 12), than
    distance[4, 14] = 2.0
    np.testing.assert_array_equal(patch_distance(distance, (1, 2)), [[9.0, 2.0]])


def test_noise_of_pixels_is_less_in_patches_and_a_step_stays_where_it_is():
    chance = np.random.default_rng(0)
    distance = np.where(np.arange(240) < 100, 1.0, 1.5) * np.exp(0.02 * chance.standard_normal((240, 240)))
    patches = patch_distance(distance, (24, 24))
    np.testing.assert_allclose(patches[:, :10], 1.0, atol=0.02)
    np.testing.assert_allclose(patches[:, 10:], 1.5, atol=0.03)
    assert patches[:, :10].std() < 0.3 * 0.02


@pytest.mark.parametrize("size", [(230, 333), (480, 640)])
def test_a_mirrored_map_gives_mirrored_patches(size: tuple[int, int]):
    distance = 1.0 + np.random.default_rng(1).random(size)
    distance[np.random.default_rng(2).random(size) < 0.2] = NAN
    both = [patch_medians(item, (46, 46), central=True)[0] for item in (distance, distance[::-1, ::-1])]
    np.testing.assert_array_equal(both[0], both[1][::-1, ::-1])


def test_medians_and_measured_shares_by_hand():
    distance = np.array([[1.0, 2.0, NAN, 8.0], [4.0, NAN, NAN, NAN], [NAN, NAN, 5.0, 7.0], [NAN, NAN, 1.0, 9.0]])
    medians, share = patch_medians(distance, (2, 2))
    np.testing.assert_array_equal(medians, [[2.0, 8.0], [NAN, 5.0]])
    np.testing.assert_array_equal(share, [[0.75, 0.25], [0.0, 1.0]])


def test_a_map_smaller_than_the_grid_is_enlarged():
    distance = np.array([[1.0, 2.0]])
    np.testing.assert_array_equal(patch_distance(distance, (2, 4)), [[1.0, 1.0, 2.0, 2.0]] * 2)
    with pytest.raises(SampleError, match="no valid pixel"):
        patch_distance(np.full((4, 4), NAN), (2, 2))
