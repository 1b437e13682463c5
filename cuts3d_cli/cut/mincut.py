"""Minimum s-t cut of an undirected graph, by two libraries behind one function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import maxflow
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

MinCutSolver = Literal["pymaxflow", "dinic"]

_UNBOUNDED = 1 << 30


@dataclass(frozen=True, kw_only=True)
class MinCut:
    """A minimum cut.

    Attributes:
        source_side: (K,) bool, the nodes that the source reaches in the residual graph. Among all minimum cuts this is
            the smallest source side; it is the same for every maximum flow, so for every solver.
        value: capacity of the cut.
    """

    source_side: NDArray[np.bool_]
    value: int


def min_cut(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    capacity: NDArray[np.int32],
    *,
    nodes: int,
    source: int,
    sinks: NDArray[np.int64],
    solver: MinCutSolver,
) -> MinCut:
    """Cut a source off from one or several sinks at minimum cost.

    Args:
        first, second: (E,) nodes of each undirected edge, each pair once.
        capacity: (E,) int32 >= 0.
        nodes: number of nodes K.
        source: a node.
        sinks: (S,) nodes, without the source; may be empty, then nothing is cut but the source's component is found.
        solver: "pymaxflow" (Boykov and Kolmogorov), or "dinic" (SciPy; the algorithm that the paper names).

    Returns:
        The cut.

    Raises:
        ValueError: the source is a sink.
    """
    if (sinks == source).any():
        raise ValueError(f"node {source} is both source and sink")
    if solver == "pymaxflow":
        return _pymaxflow(first, second, capacity, nodes, source, sinks)
    return _dinic(first, second, capacity, nodes, source, sinks)


def _pymaxflow(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    capacity: NDArray[np.int32],
    nodes: int,
    source: int,
    sinks: NDArray[np.int64],
) -> MinCut:
    # The library reports a node of neither search tree as lying on the source's side. The edges are undirected, so the
    # problem is posed with the roles exchanged: its sink tree is then exactly what our source reaches.
    graph = maxflow.GraphInt(nodes, len(first))
    graph.add_nodes(nodes)
    graph.add_edges(first, second, capacity, capacity)
    for sink in sinks:
        graph.add_tedge(int(sink), _UNBOUNDED, 0)
    graph.add_tedge(source, 0, _UNBOUNDED)
    value = graph.maxflow()
    segments = np.asarray(graph.get_grid_segments(np.arange(nodes)), dtype=bool)
    return MinCut(source_side=segments, value=int(value))


def _dinic(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    capacity: NDArray[np.int32],
    nodes: int,
    source: int,
    sinks: NDArray[np.int64],
) -> MinCut:
    # int32 indices: older SciPy takes no others here
    rows = np.concatenate([first, second, sinks]).astype(np.int32)
    columns = np.concatenate([second, first, np.full(len(sinks), nodes)]).astype(np.int32)
    terminal = np.full(len(sinks), _UNBOUNDED, dtype=np.int32)
    data = np.concatenate([capacity, capacity, terminal]).astype(np.int32)
    network = csr_array(coo_array((data, (rows, columns)), shape=(nodes + 1, nodes + 1)))
    result = maximum_flow(network, source, nodes, method="dinic")
    residual = csr_array(network - result.flow)
    residual.eliminate_zeros()
    reached = breadth_first_order(residual, source, directed=True, return_predecessors=False)
    source_side = np.zeros(nodes + 1, dtype=bool)
    source_side[reached] = True
    return MinCut(source_side=source_side[:nodes], value=int(result.flow_value))
