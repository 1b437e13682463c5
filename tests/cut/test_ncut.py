import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from scipy.sparse.linalg import ArpackNoConvergence

from cuts3d_cli.cut import ncut
from cuts3d_cli.cut.affinity import EPSILON
from cuts3d_cli.cut.ncut import argmax_first, solve_ncut


def clusters(sizes: list[int], *, extra: list[tuple[int, int]] = ()) -> np.ndarray:
    edges = linalg.block_diag(*[np.ones((size, size), dtype=bool) for size in sizes]).astype(bool)
    for first, second in extra:
        edges[first, second] = edges[second, first] = True
    return edges


def test_two_clusters_are_split():
    vector = solve_ncut(clusters([4, 6])).vector
    assert np.all(vector[:4] * vector[0] > 0)
    assert np.all(vector[4:] * vector[0] < 0)


def test_it_solves_the_generalised_problem():
    generator = np.random.default_rng(3)
    points = generator.normal(size=(40, 2))
    edges = np.linalg.norm(points[:, None] - points[None], axis=2) < 1.2
    affinity = np.where(edges, 1.0, EPSILON)
    degrees = np.diag(affinity.sum(axis=1))
    pair = solve_ncut(edges)
    np.testing.assert_allclose((degrees - affinity) @ pair.vector, pair.value * degrees @ pair.vector, atol=1e-7)
    values = linalg.eigh(degrees - affinity, degrees, eigvals_only=True)
    assert pair.value == pytest.approx(values[1], abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 60))
def test_lanczos_and_dense_agree(seed: int, count: int):
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(count, 3))
    edges = np.linalg.norm(points[:, None] - points[None], axis=2) < generator.uniform(0.8, 2.0)
    lanczos, dense = solve_ncut(edges), solve_ncut(edges, solver="dense")
    assert lanczos.value == pytest.approx(dense.value, abs=1e-8)
    values = linalg.eigh(*_matrices(edges), eigvals_only=True, subset_by_index=[1, 2])
    if values[1] - values[0] > 1e-4:  # else the eigenvector itself is not unique
        np.testing.assert_allclose(lanczos.vector, dense.vector, atol=1e-5)


def test_nodes_may_be_renamed():
    generator = np.random.default_rng(1)
    edges = clusters([5, 8], extra=[(0, 5), (1, 7)])
    order = generator.permutation(13)
    plain = solve_ncut(edges).vector
    renamed = solve_ncut(edges[np.ix_(order, order)]).vector
    np.testing.assert_allclose(np.abs(renamed), np.abs(plain[order]), atol=1e-6)


def test_symmetric_input_does_not_hide_the_eigenvector_from_the_start_vector():
    vector = solve_ncut(clusters([5, 5])).vector  # antisymmetric: a constant start would be orthogonal to it
    assert vector[:5].mean() * vector[5:].mean() < 0


def test_the_complete_graph_has_an_answer():
    pair = solve_ncut(np.ones((10, 10), dtype=bool))  # no second cluster: every non-trivial eigenvalue is 1
    assert pair.value == pytest.approx(1.0, abs=1e-9)
    assert np.isfinite(pair.vector).all()


def test_the_largest_entry_is_plus_one():
    for seed in range(5):
        edges = np.random.default_rng(seed).random((12, 12)) > 0.6
        vector = solve_ncut(edges | edges.T | np.eye(12, dtype=bool)).vector
        assert vector[argmax_first(np.abs(vector))] == pytest.approx(1.0)


def test_same_input_same_bytes():
    edges = clusters([7, 9, 4], extra=[(0, 8), (9, 17)])
    assert solve_ncut(edges).vector.tobytes() == solve_ncut(edges).vector.tobytes()


def test_without_convergence_the_dense_solver_takes_over(monkeypatch: pytest.MonkeyPatch):
    def never(*_: object, **__: object) -> None:
        raise ArpackNoConvergence("no convergence", np.array([]), np.array([]))

    edges = clusters([4, 6])
    expected = solve_ncut(edges, solver="dense").vector
    monkeypatch.setattr(ncut, "eigsh", never)
    pair = solve_ncut(edges)
    assert pair.fell_back
    assert pair.solver == "dense"
    np.testing.assert_array_equal(pair.vector, expected)


def test_two_nodes_cannot_be_cut():
    with pytest.raises(ValueError, match="2 nodes"):
        solve_ncut(np.ones((2, 2), dtype=bool))


def test_ties_go_to_the_first():
    assert argmax_first(np.array([0.0, 1.0 - 1e-9, 1.0])) == 1
    assert argmax_first(np.array([0.0, 1.0, 0.5]), np.array([True, False, True])) == 2
    with pytest.raises(ValueError, match="no node"):
        argmax_first(np.array([1.0]), np.array([False]))


def _matrices(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    affinity = np.where(edges, 1.0, EPSILON)
    degrees = np.diag(affinity.sum(axis=1))
    return degrees - affinity, degrees
