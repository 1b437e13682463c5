"""The noise of depth, and what the point cloud in perspective makes of it: known answers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cuts3d_cli.cut.cloud import perspective_cloud
from cuts3d_cli.cut.focal import DEFAULT_FOCAL
from cuts3d_cli.cut.grid import patch_medians
from cuts3d_cli.cut.noise import MOST_NOISE, depth_noise, steady_focal
from cuts3d_cli.cut.parts import parts_of
from cuts3d_cli.cut.perspective import Perspective, in_perspective, surface_of
from tests.support.clouds import cut_settings

GRID = (46, 46)
PIXELS = (368, 368)
SETTINGS = cut_settings(cloud="perspective", concavity=0.03, tau_knn="auto", planes=0.15, parts=2)
TELE = 1.67


def slope(size: tuple[int, int], *, steep: float = 0.3) -> NDArray[np.float64]:
    """ln Z is linear in the photo."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    values: NDArray[np.float64] = np.exp(steep * y / size[0] + 0.2 * x / size[1])
    return values


def noisy(distance: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    return distance * np.exp(noise * np.random.default_rng(0).standard_normal(distance.shape))


def view_of(distance: NDArray[np.float64], **changes: object) -> Perspective:
    view = in_perspective(distance, grid=GRID, settings=cut_settings(**{**vars(SETTINGS), **changes}))
    assert view is not None
    return view


@pytest.mark.parametrize("noise", [0.001, 0.01])
def test_noise_is_found_on_any_slope(noise: float):
    for steep in (0.0, 1.0):
        assert depth_noise(noisy(slope(GRID, steep=steep), noise)) == pytest.approx(noise, rel=0.06)


def test_a_slope_has_no_noise_and_the_edges_of_objects_are_none():
    scene = slope(GRID)
    assert depth_noise(scene) < 1e-12
    scene[10:20, 10:30] *= 0.8
    assert depth_noise(scene) < 1e-12


def test_what_was_not_measured_tells_nothing():
    scene = noisy(slope(GRID), 0.01)
    scene[:, ::7] = np.nan
    assert depth_noise(scene) == pytest.approx(0.01, rel=0.1)
    scene[:, ::2] = np.nan
    scene[::2] = np.nan
    assert depth_noise(scene) == 0.0
    assert depth_noise(np.full(GRID, np.nan)) == 0.0


def test_a_focal_length_is_kept_up_to_the_noise_that_it_stretches():
    assert steady_focal(TELE, noise=0.0, step=0.01) == TELE
    assert steady_focal(TELE, noise=MOST_NOISE * 0.01 / TELE, step=0.01) == pytest.approx(TELE)
    assert steady_focal(TELE, noise=0.01, step=0.01) == pytest.approx(MOST_NOISE)


@pytest.mark.parametrize("parts", [2, "off"])
def test_a_clean_cloud_is_as_steep_as_its_focal_length_makes_it(parts: object):
    view = view_of(noisy(slope(PIXELS), 0.002), focal=TELE, parts=parts)
    assert not view.flattened
    depth = view.points[..., 2]
    assert depth[-1].mean() - depth[0].mean() == pytest.approx(TELE * 0.3 * 45 / 46, rel=0.01)


def test_a_noisy_cloud_is_flatter_on_both_grids_and_never_steeper_for_a_longer_focal_length():
    scene = noisy(slope(PIXELS), 0.03)
    views = {length: view_of(scene, focal=length) for length in (0.3, DEFAULT_FOCAL, TELE, 3.0)}
    assert [view.flattened for view in views.values()] == [False, True, True, True]
    np.testing.assert_allclose(views[TELE].points, views[3.0].points, rtol=1e-12)
    assert views[TELE].fine is not None
    assert views[3.0].fine is not None
    np.testing.assert_allclose(views[TELE].fine, views[3.0].fine, rtol=1e-12)
    # The noise of the finer grid, whose cells are medians, is what was allowed.
    medians, _ = patch_medians(scene, (92, 92))
    used = np.ptp(views[TELE].fine[..., 2]) / np.ptp(np.log(medians))
    step = views[TELE].fine[0, 1, 0]
    assert used * depth_noise(medians) == pytest.approx(MOST_NOISE * step)


def test_noise_takes_a_surface_apart_only_without_the_limit():
    scene, mask = noisy(slope(PIXELS), 0.03), np.ones(GRID, dtype=bool)

    def largest(view: Perspective) -> float:
        surface = surface_of(np.zeros(GRID), view, settings=SETTINGS)
        fine = surface.fine
        assert fine is not None
        tau = 1.05 * fine.spacing
        edges = np.linalg.norm(np.diff(fine.cloud, axis=1), axis=-1)
        return float((edges <= tau).mean())

    steady = view_of(scene, focal=TELE)
    medians, _ = patch_medians(scene, (92, 92))
    steep = replace(steady, fine=perspective_cloud(medians, size=PIXELS, focal=TELE))
    assert largest(steep) < 0.8
    assert largest(steady) > 0.85
    surface = surface_of(np.zeros(GRID), steady, settings=SETTINGS)
    assert len(parts_of(mask, surface, tau_knn=1.05 * surface.spacing, concavity=None, min_area=0.0075)) == 1


def camera(focal: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slopes of the rays through the pixels: across and down."""
    y, x = np.meshgrid(np.linspace(-0.5, 0.5, PIXELS[0]), np.linspace(-0.5, 0.5, PIXELS[1]), indexing="ij")
    return x / focal, y / focal


def things_on_a_table(focal: float) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Z of two balls that touch on a table, and the pixels of each, from as far as they fill the photo."""
    across, down = camera(focal)
    far, tilt, radius = 2.0 * focal / DEFAULT_FOCAL, 0.6, 0.3
    table = far / (1.0 + tilt * down)
    up = np.array([0.0, tilt, 1.0]) / math.hypot(tilt, 1.0)
    direction = np.stack([across, down, np.ones_like(across)], axis=-1)
    square = (direction**2).sum(axis=-1)
    found = []
    for side in (-1.0, 1.0):
        centre = np.array([side * radius, 0.1, far - 0.1 * tilt]) - radius * up
        along = direction @ centre / square
        miss = square * along**2 - centre @ centre + radius**2
        found.append(np.where(miss > 0, along - np.sqrt(np.maximum(miss, 0.0) / square), np.inf))
    left, right = found
    scene = np.minimum(table, np.minimum(left, right))
    return scene, scene == left, scene == right


@pytest.mark.parametrize("noise", [0.0, 0.002, 0.02])
@pytest.mark.parametrize("focal", [0.6, DEFAULT_FOCAL, TELE, 2.2])
def test_a_scene_comes_apart_alike_from_near_and_from_far_with_a_longer_lens(focal: float, noise: float):
    """Two balls that touch, and the table under them: each is a part, whatever camera saw them."""
    scene, left, right = things_on_a_table(focal)
    view = view_of(noisy(scene, noise), focal=focal, planes="off")
    surface = surface_of(np.zeros(GRID), view, settings=SETTINGS)
    seen = [patch_medians(mask.astype(float), GRID)[0] > 0.5 for mask in (left, right)]
    both = seen[0] | seen[1]
    parts = parts_of(both, surface, tau_knn=1.05 * surface.spacing, concavity=0.03, min_area=0.0075)
    assert len(parts) == 2
    for thing in seen:
        best = max(np.count_nonzero(part & thing) / np.count_nonzero(part | thing) for part in parts)
        assert best > 0.85
