import numpy as np
import pytest

from cuts3d_cli.cut.localcut import (
    CAPACITY_SCALE,
    LocalGraph,
    choose_sink,
    edge_capacity,
    grid_spacing,
    knn_graph,
    local_graph,
)
from tests.support.clouds import GRID, local_cut, surface, touching_blobs

OPTIONS = {"k": 8}
LEFT, RIGHT, CORNER = 5 * 12 + 3, 5 * 12 + 8, 0


def test_grid_spacing():
    assert grid_spacing((46, 46)) == pytest.approx(np.sqrt(2) / 45)


def test_points_by_hand():
    depth = np.array([[0.1, 0.2], [0.3, 0.4]])
    mask = np.array([[True, False], [True, True]])
    expected = [[0, 0, 0.1], [1, 0, 1.0], [0, 1, 0.3], [1, 1, 0.4]]
    np.testing.assert_allclose(surface(depth).masked(mask), expected)


def test_neighbours_by_hand():
    points = np.array([[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [10, 0, 0]])
    graph = knn_graph(points, k=1)
    assert list(zip(graph.first, graph.second, graph.length, strict=True)) == [(0, 1, 1), (1, 2, 2), (2, 3, 7)]


def test_equal_points_are_neighbours_too():
    graph = knn_graph(np.zeros((5, 3)), k=2)
    assert np.all(graph.first < graph.second)
    assert not graph.length.any()


def test_knn_equals_a_slow_exact_reference():
    points = np.random.default_rng(0).random((60, 3))
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    expected = {tuple(sorted((i, j))) for i in range(60) for j in np.argsort(distance[i])[:5]}
    graph = knn_graph(points, k=5)
    assert set(zip(graph.first.tolist(), graph.second.tolist(), strict=True)) == expected


@pytest.mark.parametrize("longest", [0.02, 0.06, 0.12, 0.5])
@pytest.mark.parametrize("k", [1, 4, 16])
def test_without_long_edges_it_is_the_same_graph(k: int, longest: float):
    # Steps and planes: of many points the last neighbours are equally far.
    rng = np.random.default_rng(1)
    steps = np.round(rng.random((6, 6)), 1).repeat(5, axis=0).repeat(5, axis=1)
    steps[rng.random(steps.shape) < 0.3] = 1.0
    points = surface(steps).masked(np.ones(steps.shape, dtype=bool))
    whole, part = knn_graph(points, k=k), knn_graph(points, k=k, longest=longest)
    kept = whole.length <= longest
    for name in ("first", "second", "length"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[kept])
    assert part.nodes == whole.nodes


def test_an_edge_of_just_the_longest_length_is_kept():
    points = np.array([[0.0, 0, 0], [0.3, 0, 0.4], [0, 0, 5]])
    for longest in (0.5, np.nextafter(0.5, 0)):
        assert len(knn_graph(points, k=2, longest=longest).first) == (longest == 0.5)


def test_a_graph_without_some_patches_has_no_edge_to_them():
    depth = np.random.default_rng(0).random(GRID)
    whole = local_graph(surface(depth), np.ones(GRID, dtype=bool), k=8)
    whole = LocalGraph(graph=whole.graph, concavity=np.arange(len(whole.graph.first), dtype=float))
    gone = np.zeros(GRID, dtype=bool)
    gone[:6] = True
    part = whole.without(gone)
    both_kept = (whole.graph.first >= 72) & (whole.graph.second >= 72)
    for name in ("first", "second", "length"):
        np.testing.assert_array_equal(getattr(part.graph, name), getattr(whole.graph, name)[both_kept])
    np.testing.assert_array_equal(part.concavity, np.flatnonzero(both_kept))
    assert part.graph.nodes == whole.graph.nodes


@pytest.mark.parametrize("form", ["gaussian", "exponential", "inverse"])
def test_cost_falls_with_length(form: str):
    cost = edge_capacity(np.array([0.0, 0.05, 0.1]), form=form, tau_knn=0.1)
    assert cost[0] == CAPACITY_SCALE
    assert cost[0] > cost[1] > cost[2] >= 1


def test_cost_as_the_length_itself():
    cost = edge_capacity(np.array([0.05, 0.1]), form="distance", tau_knn=0.1)
    assert cost.tolist() == [CAPACITY_SCALE // 2, CAPACITY_SCALE]


def test_sink_is_the_smallest_entry_that_is_left():
    vector = np.array([1.0, 0.001, -0.002, 0.0005, 0.5])
    nothing = np.zeros(5, dtype=bool)
    assert choose_sink(vector, source=0, removed=nothing, tolerance=1e-7) == 3
    assert choose_sink(vector, source=0, removed=np.arange(5) == 3, tolerance=1e-7) == 1
    assert choose_sink(vector, source=3, removed=nothing, tolerance=1e-7) == 1
    assert choose_sink(vector, source=np.array([0, 3]), removed=nothing, tolerance=1e-7) == 1
    assert choose_sink(vector, source=0, removed=np.arange(5) > 0, tolerance=1e-7) is None


@pytest.mark.parametrize("sink", [CORNER, None])
def test_two_blobs_at_two_depths_are_separated(sink: int | None):
    left, right = touching_blobs()
    depth = np.where(left, 0.2, np.where(right, 0.6, 0.9))
    found = local_cut(depth, left | right, source=LEFT, sink=sink, tau_knn=0.2, **OPTIONS)
    np.testing.assert_array_equal(found, left)
    found = local_cut(depth, left | right, source=RIGHT, sink=sink, tau_knn=0.2, **OPTIONS)
    np.testing.assert_array_equal(found, right)


def test_sources_on_both_sides_of_a_step_take_both():
    left, right = touching_blobs()
    depth = np.where(left, 0.2, np.where(right, 0.6, 0.9))
    found = local_cut(depth, left | right, source=np.array([LEFT, RIGHT]), sink=CORNER, tau_knn=0.2, **OPTIONS)
    np.testing.assert_array_equal(found, left | right)
    found = local_cut(depth, left | right, source=np.array([LEFT, LEFT + 1]), sink=CORNER, tau_knn=0.2, **OPTIONS)
    np.testing.assert_array_equal(found, left)


def test_two_blobs_at_one_depth_are_not():
    left, right = touching_blobs()
    depth = np.where(left | right, 0.2, 0.9)
    found = local_cut(depth, left | right, source=LEFT, sink=CORNER, tau_knn=0.2, **OPTIONS)
    np.testing.assert_array_equal(found, left | right)


def test_a_step_smaller_than_the_threshold_does_not_separate():
    left, right = touching_blobs()
    depth = np.where(left, 0.2, np.where(right, 0.3, 0.9))
    found = local_cut(depth, left | right, source=LEFT, sink=CORNER, tau_knn=0.2, **OPTIONS)
    np.testing.assert_array_equal(found, left | right)


def test_the_instance_lies_within_the_mask_even_at_the_background_level():
    left, right = touching_blobs()
    found = local_cut(np.ones(GRID), left | right, source=LEFT, sink=None, tau_knn=0.2, **OPTIONS)
    assert found[5, 3]
    assert not found[~(left | right)].any()


def test_the_cut_follows_a_mirrored_scene():
    left, right = touching_blobs()
    depth = np.where(left, 0.2, np.where(right, 0.6, 0.9))
    plain = local_cut(depth, left | right, source=LEFT, sink=None, tau_knn=0.2, **OPTIONS)
    mirrored = local_cut(depth[:, ::-1], (left | right)[:, ::-1], source=5 * 12 + 8, sink=None, tau_knn=0.2, **OPTIONS)
    np.testing.assert_array_equal(mirrored[:, ::-1], plain)
