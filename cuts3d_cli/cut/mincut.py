"""Minimum s-t cut of an undirected graph, by PyMaxflow."""

from __future__ import annotations

from dataclasses import dataclass

import maxflow
import numpy as np
from numpy.typing import NDArray

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
) -> MinCut:
    """Cut one or several sources off from one or several sinks at minimum cost (Boykov and Kolmogorov's algorithm).

    The paper names Dinic's; every algorithm gives the same source side.

    Args:
        first, second: (E,) nodes of each undirected edge, each pair once.
        capacity: (E,) int32 >= 0.
        nodes: number of nodes K.
        source: a node, or (R,) nodes.
        sinks: (S,) nodes, without a source; may be empty, then nothing is cut but the sources' components are found.

    Returns:
        The cut.

    Raises:
        ValueError: a source is a sink.
    """
    sources = np.atleast_1d(np.asarray(source, dtype=np.int64))
    both = np.intersect1d(sources, sinks)
    if both.size:
        raise ValueError(f"node {both[0]} is both source and sink")
    # The library reports a node of neither search tree as lying on the source's side. The edges are undirected, so the
    # problem is posed with the roles exchanged: its sink tree is then exactly what our sources reach.
    graph = maxflow.GraphInt(nodes, len(first))
    graph.add_nodes(nodes)
    graph.add_edges(first, second, capacity, capacity)
    for sink in sinks:
        graph.add_tedge(int(sink), _UNBOUNDED, 0)
    for node in sources:
        graph.add_tedge(int(node), 0, _UNBOUNDED)
    value = graph.maxflow()
    segments = np.asarray(graph.get_grid_segments(np.arange(nodes)), dtype=bool)
    return MinCut(source_side=segments, value=int(value))
