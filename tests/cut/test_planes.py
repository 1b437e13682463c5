"""Known answers: which patches lie on a plane, and which plane is background."""

import numpy as np
import pytest

from cuts3d_cli.cut.planes import background_planes, find_planes

SIDE = 40
GRID = (SIDE, SIDE)
SPACING = float(np.hypot(1 / (SIDE - 1), 1 / (SIDE - 1)))
FOCAL = 0.9
Y, X = np.mgrid[0:SIDE, 0:SIDE] / SIDE
TABLE = 1.0 / (0.4 + 0.5 * Y)
"""Nearer towards the bottom, and linear in the inverse distance, as planes are."""
BOX = np.zeros(GRID, dtype=bool)
BOX[14:26, 12:28] = True
ALL = np.ones(GRID, dtype=bool)


def background(distance: np.ndarray, measured: np.ndarray = ALL, *, smallest: float = 0.15) -> np.ndarray:
    return background_planes(distance, measured, spacing=SPACING, focal=FOCAL, smallest=smallest)


def test_a_table_is_background_and_the_box_on_it_is_not():
    np.testing.assert_array_equal(background(np.where(BOX, 1.0 / (0.9 + 0.1 * X), TABLE)), ~BOX)


def test_the_unit_of_the_distance_does_not_matter():
    distance = np.where(BOX, 1.0, TABLE)
    np.testing.assert_array_equal(background(distance * 1000), background(distance))


def test_table_and_wall_are_two_planes_largest_first():
    wall = Y < 0.4
    distance = np.where(wall, 1.0 / 0.6, TABLE)
    planes = find_planes(distance, ALL, tolerance=0.005, smallest=0.15)
    assert len(planes) == 2
    np.testing.assert_allclose(planes[0].coefficients, [0, 0.5, 0.4], atol=1e-3)
    np.testing.assert_array_equal(planes[1].inliers, wall & ~planes[0].inliers)
    assert background(distance).all()


def test_a_large_plane_that_does_not_reach_the_border_is_an_object():
    chance = np.random.default_rng(0)
    rough = 1.0 + chance.uniform(1.0, 3.0, GRID)  # no plane of its own
    assert not background(np.where(BOX, 1.0, rough)).any()


def test_a_plane_that_is_too_small_is_none():
    distance = 1.0 + np.random.default_rng(0).uniform(1.0, 3.0, GRID)
    distance[30:] = TABLE[30:]
    assert background(distance, smallest=0.2).sum() > 0
    assert not background(distance, smallest=0.3).any()


def test_patches_without_a_measurement_lie_on_no_plane():
    measured = X < 0.7
    distance = np.where(measured, TABLE, np.nan)
    np.testing.assert_array_equal(background(distance, measured), measured)
    assert not background(np.full(GRID, np.nan), np.zeros(GRID, dtype=bool)).any()


@pytest.mark.parametrize("noise", [0.002, 0.005])
def test_a_noisy_table_is_one(noise: float):
    distance = TABLE * (1 + np.random.default_rng(0).normal(0, noise, GRID))
    assert background(distance).mean() > 0.8


def test_the_same_scene_gives_the_same_planes():
    distance = np.where(BOX, 1.0, TABLE)
    np.testing.assert_array_equal(background(distance), background(distance))
