"""Known answers of the point cloud: what meets in a concave edge comes apart, what is one surface stays one."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cuts3d_cli.cut.cloud import (
    Surface,
    edge_concavity,
    paper_cloud,
    perspective_cloud,
    surface_normals,
)
from cuts3d_cli.cut.focal import DEFAULT_FOCAL
from cuts3d_cli.cut.localcut import local_graph, longest_edge
from cuts3d_cli.cut.perspective import in_perspective, surface_of
from tests.support.clouds import cut_settings

SIDE = 48
GRID = (SIDE, SIDE)
SETTINGS = cut_settings(cloud="perspective", concavity=0.02, tau_knn="auto", knn=16)
FOCAL = DEFAULT_FOCAL


def rays() -> tuple[np.ndarray, np.ndarray]:
    """Slopes of the rays through the patches: across and down."""
    y, x = np.meshgrid(np.linspace(-0.5, 0.5, SIDE), np.linspace(-0.5, 0.5, SIDE), indexing="ij")
    return x / FOCAL, y / FOCAL


def plane(*, distance: float = 2.0, tilt: float = 0.6) -> np.ndarray:
    """Z of the plane z = distance - tilt * y, seen by every ray: a table that comes nearer towards the bottom."""
    _, down = rays()
    return distance / (1.0 + tilt * down)


def ball(*, centre: tuple[float, float, float], radius: float) -> np.ndarray:
    """Z of a ball, infinite where a ray misses it."""
    across, down = rays()
    direction = np.stack([across, down, np.ones_like(across)], axis=-1)
    along = (direction @ np.array(centre)) / (direction**2).sum(axis=-1)
    miss = (direction**2).sum(axis=-1) * along**2 - (np.array(centre) ** 2).sum() + radius**2
    back = np.sqrt(np.maximum(miss, 0.0) / (direction**2).sum(axis=-1))
    return np.where(miss > 0, along - back, np.inf)


def parts(distance: np.ndarray, mask: np.ndarray, **changes: object) -> np.ndarray:
    """The components of the point cloud's graph within a mask, numbered from 1; 0 outside."""
    settings = replace(SETTINGS, **changes)
    view = in_perspective(distance, grid=GRID, settings=settings)
    surface = surface_of(np.zeros(GRID), view, settings=settings)
    local = local_graph(surface, mask, k=settings.knn)
    graph = local.graph
    kept = graph.length <= longest_edge(settings.tau_knn, spacing=surface.spacing)
    if local.concavity is not None:
        kept &= local.concavity <= settings.concavity
    inside = mask.reshape(-1)
    kept &= inside[graph.first] & inside[graph.second]
    matrix = coo_matrix((kept[kept], (graph.first[kept], graph.second[kept])), shape=(mask.size, mask.size))
    _, labels = connected_components(matrix, directed=False)
    return np.where(mask, labels.reshape(GRID) + 1, 0)


def share_of_largest(labels: np.ndarray, mask: np.ndarray) -> float:
    """How much of a mask its largest component covers."""
    return float(np.bincount(labels[mask]).max() / np.count_nonzero(mask))


def are_apart(labels: np.ndarray, one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the largest components of two masks are two, and each covers most of its mask."""
    largest = [np.bincount(labels[mask]).argmax() for mask in (one, other)]
    return largest[0] != largest[1] and min(share_of_largest(labels, mask) for mask in (one, other)) > 0.6


def test_points_by_hand():
    distance = np.array([[1.0, math.e], [math.e**2, 1.0]])
    cloud = perspective_cloud(distance, size=(50, 100), focal=0.5)
    np.testing.assert_allclose(cloud[..., 0], [[0, 1], [0, 1]])
    np.testing.assert_allclose(cloud[..., 1], [[0, 0], [0.5, 0.5]])
    np.testing.assert_allclose(cloud[..., 2], [[0, 0.5], [1.0, 0]])


def test_a_scene_twice_as_far_and_as_large_is_the_same_cloud_further_away():
    near = perspective_cloud(plane(), size=GRID, focal=FOCAL)
    far = perspective_cloud(2 * plane(), size=GRID, focal=FOCAL)
    np.testing.assert_allclose(far - near, np.broadcast_to([0, 0, FOCAL * math.log(2)], near.shape), atol=1e-12)


def test_a_distance_of_zero_is_refused():
    with pytest.raises(ValueError, match="over 0"):
        perspective_cloud(np.zeros((2, 2)), size=(2, 2), focal=1.0)


def test_relative_depth_has_no_perspective():
    assert in_perspective(None, grid=GRID, settings=SETTINGS) is None
    depth = np.linspace(0, 1, SIDE * SIDE).reshape(GRID)
    np.testing.assert_array_equal(surface_of(depth, None, settings=SETTINGS).cloud, paper_cloud(depth))
    assert in_perspective(plane(), grid=GRID, settings=replace(SETTINGS, cloud="paper")) is None


def test_normals_of_a_slope_by_hand():
    cloud = paper_cloud(np.tile(np.linspace(0.0, 1.0, 9), (9, 1)))
    normals = surface_normals(cloud)
    np.testing.assert_allclose(normals[4, 4], np.array([1, 0, -1]) / math.sqrt(2))


def concavity_in_the_middle(profile: np.ndarray) -> float:
    """Of the edge between the columns beside the middle, of 41, of a surface that is the same in every row."""
    settings = cut_settings(concavity=0.02)
    surface = surface_of(np.tile(profile, (41, 1)), None, settings=settings)
    return float(edge_concavity(surface, first=np.array([20 * 41 + 19]), second=np.array([20 * 41 + 21]))[0])


def test_a_valley_is_concave_and_a_ridge_is_not():
    ramp = np.abs(np.linspace(-1.0, 1.0, 41)) / 2
    assert concavity_in_the_middle(0.5 - ramp) > 0.1  # nearer on both sides: a valley
    assert concavity_in_the_middle(ramp) < -0.1


def test_what_is_as_concave_all_around_is_not_concave():
    x = np.linspace(-1.0, 1.0, 41)
    assert abs(concavity_in_the_middle(0.5 - x**2 / 4)) < 0.01


def test_two_ends_at_one_point_are_not_concave():
    flat = Surface(
        cloud=np.zeros((2, 2, 3)), level=1.0, normals=np.tile([0.0, 0.0, -1.0], (2, 2, 1)), around=np.zeros((2, 2, 3))
    )
    assert edge_concavity(flat, first=np.array([0]), second=np.array([3])).tolist() == [0.0]


def test_concavity_needs_normals():
    flat = surface_of(np.zeros((2, 2)), None, settings=cut_settings())
    with pytest.raises(ValueError, match="normals"):
        edge_concavity(flat, first=np.array([0]), second=np.array([3]))


def test_a_slanted_plane_stays_one():
    whole = np.ones(GRID, dtype=bool)
    assert share_of_largest(parts(plane(tilt=0.5), whole), whole) == 1.0


def test_a_ball_on_a_plane_comes_off_it():
    # Its lowest point touches the table: z + 0.6 y = 2 in its plane.
    radius = 0.3
    centre = np.array([0.0, 0.1, 2.0 - 0.06]) - radius * np.array([0.0, 0.6, 1.0]) / math.hypot(0.6, 1.0)
    table, thing = plane(), ball(centre=tuple(centre), radius=radius)
    mask = thing < table
    whole = np.ones(GRID, dtype=bool)
    labels = parts(np.minimum(table, thing), whole)
    assert are_apart(labels, mask, ~mask)
    assert np.count_nonzero(mask) > 100


def test_two_balls_side_by_side_at_one_distance_come_apart():
    left = ball(centre=(-0.25, 0.0, 1.5), radius=0.25)
    right = ball(centre=(0.25, 0.0, 1.5), radius=0.25)
    near = np.minimum(left, right)
    mask = np.isfinite(near)
    labels = parts(np.where(mask, near, 3.0), mask)
    assert are_apart(labels, np.isfinite(left), np.isfinite(right))


def boxes(*, groove: float) -> tuple[np.ndarray, np.ndarray]:
    """Two boxes side by side at one distance, with rounded edges: a groove between them, three patches wide."""
    column = np.arange(SIDE)
    depth_of_groove = groove * np.clip(1.5 - np.abs(column - (SIDE - 1) / 2), 0, 1.5) / 1.5
    return np.tile(1.5 + depth_of_groove, (SIDE, 1)), column < SIDE // 2


def test_two_boxes_side_by_side_come_apart_at_their_groove():
    distance, left = boxes(groove=0.12)
    one = np.tile(left, (SIDE, 1))
    labels = parts(distance, np.ones(GRID, dtype=bool))
    assert are_apart(labels, one, ~one)


def test_two_boxes_without_a_groove_are_one_surface():
    distance, _ = boxes(groove=0.0)
    whole = np.ones(GRID, dtype=bool)
    assert share_of_largest(parts(distance, whole), whole) == 1.0


def test_a_box_on_a_box_comes_off_it():
    # Seen obliquely: the top of the lower box recedes, and the front of the upper one stands upright on it.
    row = np.arange(SIDE)
    profile = 1.6 - 0.02 * np.maximum(row - SIDE // 2, 0)
    distance = np.tile(profile[:, None], (1, SIDE))
    upper = np.tile((row < SIDE // 2)[:, None], (1, SIDE))
    labels = parts(distance, np.ones(GRID, dtype=bool))
    assert are_apart(labels, upper, ~upper)


@pytest.mark.parametrize("depth_of_bowl", [0.1, 0.3])
def test_a_bowl_is_concave_inside_and_stays_one(depth_of_bowl: float):
    across, down = rays()
    radius = math.hypot(0.5 / FOCAL, 0.5 / FOCAL)
    distance = 1.5 - depth_of_bowl * (across**2 + down**2) / radius**2
    whole = np.ones(GRID, dtype=bool)
    assert share_of_largest(parts(distance, whole), whole) > 0.98


@pytest.mark.parametrize("noise", [0.001, 0.002])
def test_the_noise_of_a_sensor_leaves_a_plane_one(noise: float):
    generator = np.random.default_rng(0)
    distance = plane() * (1 + generator.normal(0, noise, GRID))
    whole = np.ones(GRID, dtype=bool)
    assert share_of_largest(parts(distance, whole, concavity=0.1), whole) > 0.95


def test_farther_background_lies_behind_the_farthest_point():
    view = in_perspective(plane(), grid=GRID, settings=SETTINGS)
    assert view is not None
    surface = surface_of(np.zeros(GRID), view, settings=SETTINGS)
    assert surface.level == pytest.approx(view.points[..., 2].max() + SETTINGS.background_level)
    masked = surface.masked(np.zeros(GRID, dtype=bool))
    assert (masked[:, 2] == surface.level).all()
