"""Minimum s-t cut of an undirected graph, by two libraries behind one function."""

from __future__ import annotations

from dataclasses import dataclass

import maxflow
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from cuts3d_cli.config.cutting import MinCutSolver

_UNBOUNDED = 1 << 30


@dataclass(frozen=True, kw_only=True)
class MinCut:
    """A minimum cut.

    Attributes:
        source_side: (K,) bool, the nodes that the sources reach in the residual graph. Among all minimum cuts this is
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
    source: int | NDArray[np.int64],
    sinks: NDArray[np.int64],
    solver: MinCutSolver,
) -> MinCut:
    """Cut one or several sources off from one or several sinks at minimum cost.

    Args:
        first, second: (E,) nodes of each undirected edge, each pair once.
        capacity: (E,) int32 >= 0.
        nodes: number of nodes K.
        source: a node, or (R,) nodes.
        sinks: (S,) nodes, without a source; may be empty, then nothing is cut but the sources' components are found.
        solver: "pymaxflow" (Boykov and Kolmogorov), or "dinic" (SciPy; the algorithm that the paper names).

    Returns:
        The cut.

    Raises:
        ValueError: a source is a sink.
    """
    sources = np.atleast_1d(np.asarray(source, dtype=np.int64))
    both = np.intersect1d(sources, sinks)
    if both.size:
        raise ValueError(f"node {both[0]} is both source and sink")
    if solver == "pymaxflow":
        return _pymaxflow(first, second, capacity, nodes, sources, sinks)
    return _dinic(first, second, capacity, nodes, sources, sinks)


def _pymaxflow(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    capacity: NDArray[np.int32],
    nodes: int,
    sources: NDArray[np.int64],
    sinks: NDArray[np.int64],
) -> MinCut:
    # The library reports a node of neither search tree as lying on the source's side. The edges are undirected, so the
    # problem is posed with the roles exchanged: its sink tree is then exactly what our sources reach.
    graph = maxflow.GraphInt(nodes, len(first))
    graph.add_nodes(nodes)
    graph.add_edges(first, second, capacity, capacity)
    for sink in sinks:
        graph.add_tedge(int(sink), _UNBOUNDED, 0)
    for source in sources:
        graph.add_tedge(int(source), 0, _UNBOUNDED)
    value = graph.maxflow()
    segments = np.asarray(graph.get_grid_segments(np.arange(nodes)), dtype=bool)
    return MinCut(source_side=segments, value=int(value))


def _dinic(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    capacity: NDArray[np.int32],
    nodes: int,
    sources: NDArray[np.int64],
    sinks: NDArray[np.int64],
) -> MinCut:
    # One node for all sinks together, and one for all sources.
    sink_node, source_node = nodes, nodes + 1
    # int32 indices: older SciPy takes no others here
    rows = np.concatenate([first, second, sinks, np.full(len(sources), source_node)]).astype(np.int32)
    columns = np.concatenate([second, first, np.full(len(sinks), sink_node), sources]).astype(np.int32)
    terminal = np.full(len(sinks) + len(sources), _UNBOUNDED, dtype=np.int32)
    data = np.concatenate([capacity, capacity, terminal]).astype(np.int32)
    network = csr_array(coo_array((data, (rows, columns)), shape=(nodes + 2, nodes + 2)))
    result = maximum_flow(network, source_node, sink_node, method="dinic")
    residual = csr_array(network - result.flow)
    residual.eliminate_zeros()
    reached = breadth_first_order(residual, source_node, directed=True, return_predecessors=False)
    source_side = np.zeros(nodes + 2, dtype=bool)
    source_side[reached] = True
    return MinCut(source_side=source_side[:nodes], value=int(result.flow_value))
