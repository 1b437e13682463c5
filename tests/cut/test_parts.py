"""Known answers: masks that are several surfaces on a finer grid come apart, those that are one stay one."""

import numpy as np
import pytest

from cuts3d_cli.cut.cloud import Surface, mean_curvature_around, paper_cloud, surface_normals
from cuts3d_cli.cut.confidence import Thresholds, confidence_counts
from cuts3d_cli.cut.localcut import AUTO_TAU
from cuts3d_cli.cut.parts import part_with, take_apart

GRID = (12, 12)
ALL = np.ones(GRID, dtype=bool)
LEFT = np.arange(12)[None] < np.full((12, 1), 6)


def fine_surface(depth: np.ndarray) -> Surface:
    cloud = paper_cloud(depth)
    normals = surface_normals(cloud)
    return Surface(cloud=cloud, level=1.0, normals=normals, around=mean_curvature_around(cloud, normals, sigma=6.0))


def parts(depth: np.ndarray, mask: np.ndarray = ALL, *, min_area: float = 0.1) -> list[np.ndarray]:
    fine = fine_surface(depth)
    return take_apart(mask, fine, tau_knn=AUTO_TAU * fine.spacing, concavity=0.05, min_area=min_area)


def step(column: int, *, height: float = 0.2) -> np.ndarray:
    """Depth on a grid twice as fine that steps back at a column."""
    return np.tile(np.where(np.arange(24) < column, 0.0, height), (24, 1))


def test_one_surface_is_one_part():
    found = parts(np.zeros((24, 24)))
    assert len(found) == 1
    np.testing.assert_array_equal(found[0], ALL)


def test_a_step_parts_two_surfaces_that_together_are_the_mask():
    first, second = parts(step(12))
    np.testing.assert_array_equal(first, LEFT)
    np.testing.assert_array_equal(second, ~LEFT)


def test_a_concave_edge_parts_two_faces_and_a_convex_one_does_not():
    valley = np.tile(-np.abs(np.arange(24) - 11.5) / 24, (24, 1))
    assert len(parts(valley)) == 2
    assert len(parts(-valley)) == 1


def test_parts_come_largest_first_and_a_patch_goes_to_the_part_with_most_of_it():
    first, second = parts(step(9))  # through the fifth column of patches: one half each
    assert first.sum() > second.sum()
    assert (first | second).all()
    assert not (first & second).any()


def test_a_small_part_goes_to_its_neighbour():
    depth = step(12)
    depth[10:12, 4:6] = -0.5  # one patch that stands out
    first, second = parts(depth)
    np.testing.assert_array_equal(first, LEFT)
    np.testing.assert_array_equal(second, ~LEFT)


def test_dust_is_no_reason_to_take_a_mask_apart():
    depth = np.random.default_rng(0).uniform(0, 5, (24, 24))
    depth[:4, :4] = depth[-4:, -4:] = 0.0
    assert len(parts(depth)) == 1


def test_only_the_mask_counts():
    assert len(parts(step(12), LEFT)) == 1


def test_the_part_with_a_node():
    both = [LEFT, ~LEFT]
    np.testing.assert_array_equal(part_with(both, 11), ~LEFT)
    with pytest.raises(ValueError, match="node 5"):
        part_with([~LEFT], 5)


def test_confidence_counts_the_part_that_holds_the_seed():
    """The whole mask is one surface on the coarse grid; on the fine one the low thresholds part it."""
    coarse = Surface(cloud=paper_cloud(np.zeros(GRID)), level=1.0, fine=fine_surface(step(12, height=0.08)))
    assert coarse.fine is not None
    counts = confidence_counts(
        coarse,
        ALL,
        source=0,
        sink=None,
        thresholds=[Thresholds(tau_knn=0.15), Thresholds(tau_knn=0.3)],
        k=8,
        capacity="gaussian",
        min_area=0.1,
    )
    np.testing.assert_array_equal(counts, np.where(LEFT, 2, 1))
