import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import linalg

from cuts3d_cli.cut.affinity import EPSILON, without_nodes
from cuts3d_cli.cut.batched_ncut import second_eigenvectors
from cuts3d_cli.cut.ncut import TIE_TOLERANCE, Eigenpair, solve_ncut


def solve(
    graphs: list[NDArray[np.bool_]], removed: list[NDArray[np.bool_]] | None = None, **options: object
) -> list[Eigenpair]:
    taken = removed or [np.zeros(len(edges), dtype=bool) for edges in graphs]
    return second_eigenvectors(torch.from_numpy(np.stack(graphs)), torch.from_numpy(np.stack(taken)), **options)


def clusters(*sizes: int) -> NDArray[np.bool_]:
    return linalg.block_diag(*[np.ones((size, size), dtype=bool) for size in sizes]).astype(bool)


def scattered(seed: int, count: int) -> NDArray[np.bool_]:
    """Points in space, those that lie close are joined."""
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(count, 3))
    return np.linalg.norm(points[:, None] - points[None], axis=2) < generator.uniform(0.8, 2.0)


def eigenvalues(edges: NDArray[np.bool_], removed: NDArray[np.bool_]) -> NDArray[np.float64]:
    affinity = np.where(without_nodes(edges, removed), 1.0, EPSILON)
    degrees = np.diag(affinity.sum(axis=1))
    return linalg.eigh(degrees - affinity, degrees, eigvals_only=True, subset_by_index=[1, 2])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 60), st.sampled_from(["lanczos", "dense"]))
def test_it_gives_what_solving_one_by_one_gives(seed: int, count: int, solver: str):
    graphs = [scattered(seed + number, count) for number in range(3)]
    removed = [np.random.default_rng(seed + number).random(count) < share for number, share in enumerate((0, 0.2, 0.5))]
    for edges, taken, pair in zip(graphs, removed, solve(graphs, removed, solver=solver), strict=True):
        expected = solve_ncut(edges, removed=taken, solver="dense")
        assert pair.value == pytest.approx(expected.value, abs=1e-8)
        assert pair.solver == solver or pair.fell_back
        first, second = eigenvalues(edges, taken)
        if second - first > 1e-4:  # else the eigenvector itself is not unique
            # The entries of removed nodes among themselves are as good as equal, and nobody looks at them.
            np.testing.assert_allclose(pair.vector[~taken], expected.vector[~taken], atol=1e-5)


def test_nodes_like_nothing_else_have_the_same_entry():
    # Patches without an edge are twins of each other, and close to an eigenvalue of several dimensions.
    edges = linalg.block_diag(np.ones((40, 40)), scattered(3, 40), *np.ones((3, 1, 1))).astype(bool)
    pair, expected = solve([edges])[0], solve_ncut(edges)
    assert pair.value == pytest.approx(expected.value, abs=1e-9)
    np.testing.assert_allclose(pair.vector, expected.vector, atol=1e-6)
    assert np.ptp(pair.vector[-3:]) < TIE_TOLERANCE


def test_an_exhausted_krylov_space_is_an_answer():
    # Three clusters of twins: the start vector reaches few dimensions, and the graphs of a batch end at different ones.
    graphs = [clusters(4, 6, 5), clusters(7, 8), scattered(1, 15)]
    for edges, pair in zip(graphs, solve(graphs), strict=True):
        expected = solve_ncut(edges, solver="dense")
        assert not pair.fell_back
        assert pair.value == pytest.approx(expected.value, abs=1e-9)
        assert np.isfinite(pair.vector).all()
        assert np.abs(pair.vector).max() == pytest.approx(1.0)


def test_a_graph_without_structure_says_so():
    full, empty = np.ones((10, 10), dtype=bool), np.zeros((10, 10), dtype=bool)
    for pair in solve([full, empty]):
        assert not pair.has_structure
        assert np.isfinite(pair.vector).all()


def test_too_few_steps_hand_a_graph_to_the_dense_solver_and_only_that():
    easy, hard = clusters(30, 30), scattered(5, 60)
    quick, slow = solve([easy, hard], max_steps=6)
    assert (quick.fell_back, quick.solver) == (False, "lanczos")
    assert (slow.fell_back, slow.solver) == (True, "dense")
    np.testing.assert_allclose(slow.vector, solve_ncut(hard, solver="dense").vector, atol=1e-7)


def test_what_an_image_gets_does_not_depend_on_the_others():
    graphs = [scattered(seed, 40) for seed in range(4)]
    together = solve(graphs)
    for edges, pair in zip(graphs, together, strict=True):
        (alone,) = solve([edges])
        assert alone.value == pytest.approx(pair.value, abs=1e-12)
        np.testing.assert_allclose(alone.vector, pair.vector, atol=1e-8)


def test_same_input_same_bytes():
    graphs = [scattered(seed, 50) for seed in range(3)]
    first, again = solve(graphs), solve(graphs)
    assert [pair.vector.tobytes() for pair in first] == [pair.vector.tobytes() for pair in again]


def test_two_nodes_cannot_be_cut():
    with pytest.raises(ValueError, match="2 nodes"):
        solve([np.ones((2, 2), dtype=bool)])


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("solver", ["lanczos", "dense"])
def test_a_gpu_gives_the_same_eigenvectors(solver: str):
    graphs = [scattered(seed, 50) for seed in range(3)]
    removed = torch.zeros((3, 50), dtype=torch.bool)
    there = second_eigenvectors(torch.from_numpy(np.stack(graphs)).cuda(), removed.cuda(), solver=solver)
    for pair, edges in zip(there, graphs, strict=True):
        expected = solve_ncut(edges)
        assert pair.value == pytest.approx(expected.value, abs=1e-8)
        np.testing.assert_allclose(pair.vector, expected.vector, atol=1e-5)
