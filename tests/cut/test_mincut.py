import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts3d_cli.cut.mincut import min_cut
from tests.support.dinic import dinic

SOLVERS = {"pymaxflow": min_cut, "dinic": dinic}


def solve(edges: list[tuple[int, int, int]], nodes: int, source: int | np.ndarray, sinks: list[int], solver: str):
    first, second, capacity = (np.array(column) for column in zip(*edges, strict=True)) if edges else ([], [], [])
    return SOLVERS[solver](
        np.asarray(first, dtype=np.int64),
        np.asarray(second, dtype=np.int64),
        np.asarray(capacity, dtype=np.int32),
        nodes=nodes,
        source=source,
        sinks=np.asarray(sinks, dtype=np.int64),
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_chain_breaks_at_its_weakest_edge(solver: str):
    cut = solve([(0, 1, 5), (1, 2, 2), (2, 3, 7)], 4, 0, [3], solver)
    assert cut.value == 2
    assert cut.source_side.tolist() == [True, True, False, False]


@pytest.mark.parametrize("solver", SOLVERS)
def test_of_equal_cuts_the_one_nearest_the_source(solver: str):
    cut = solve([(0, 1, 3), (1, 2, 3), (2, 3, 3)], 4, 0, [3], solver)
    assert cut.value == 3
    assert cut.source_side.tolist() == [True, False, False, False]


@pytest.mark.parametrize("solver", SOLVERS)
def test_nodes_linked_to_neither_terminal_are_not_swallowed(solver: str):
    cut = solve([(0, 1, 4), (2, 3, 4), (4, 5, 4)], 6, 0, [3], solver)
    assert cut.value == 0
    assert cut.source_side.tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize("solver", SOLVERS)
def test_several_sinks(solver: str):
    cut = solve([(0, 1, 9), (1, 2, 2), (1, 3, 3)], 4, 0, [2, 3], solver)
    assert cut.value == 5
    assert cut.source_side.tolist() == [True, True, False, False]


@pytest.mark.parametrize("solver", SOLVERS)
def test_several_sources(solver: str):
    # Node 0 alone would be cut off at its own edge of 2; together with 2 the cut must pass behind both.
    edges = [(0, 1, 2), (1, 2, 9), (2, 3, 4), (3, 4, 9)]
    assert solve(edges, 5, 0, [4], solver).source_side.tolist() == [True, False, False, False, False]
    cut = solve(edges, 5, np.array([0, 2]), [4], solver)
    assert cut.value == 4
    assert cut.source_side.tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("solver", SOLVERS)
def test_without_a_sink_the_component_of_the_source(solver: str):
    cut = solve([(0, 1, 1), (2, 3, 1)], 4, 1, [], solver)
    assert cut.value == 0
    assert cut.source_side.tolist() == [True, True, False, False]


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_source_cannot_be_a_sink(solver: str):
    with pytest.raises(ValueError, match="both source and sink"):
        solve([(0, 1, 1)], 2, 0, [0], solver)
    with pytest.raises(ValueError, match="node 1 is both source and sink"):
        solve([(0, 1, 1)], 2, np.array([0, 1]), [1], solver)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_both_solvers_equal_the_exhaustive_minimum(data: st.DataObject):
    nodes = data.draw(st.integers(2, 7))
    pairs = list(itertools.combinations(range(nodes), 2))
    chosen = data.draw(st.lists(st.sampled_from(pairs), unique=True, max_size=len(pairs)))
    edges = [(first, second, data.draw(st.integers(0, 9))) for first, second in chosen]
    source, sink = 0, nodes - 1
    # every subset that holds the source and not the sink
    best, smallest = None, None
    inner = [node for node in range(nodes) if node not in (source, sink)]
    for size in range(len(inner) + 1):
        for subset in itertools.combinations(inner, size):
            side = {source, *subset}
            value = sum(weight for first, second, weight in edges if (first in side) != (second in side))
            if best is None or value < best:
                best, smallest = value, side
    for solver in SOLVERS:
        cut = solve(edges, nodes, source, [sink], solver)
        assert cut.value == best
        assert set(np.flatnonzero(cut.source_side)) == smallest
