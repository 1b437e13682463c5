"""A minimum cut by Dinic's algorithm (SciPy), which the paper names: the oracle of the product's solver."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from cuts3d_cli.cut.mincut import MinCut

_UNBOUNDED = 1 << 30


def dinic(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    capacity: NDArray[np.int32],
    *,
    nodes: int,
    source: int | NDArray[np.int64],
    sinks: NDArray[np.int64],
) -> MinCut:
    """Cut as `min_cut` does."""
    sources = np.atleast_1d(np.asarray(source, dtype=np.int64))
    if (both := np.intersect1d(sources, sinks)).size:
        raise ValueError(f"node {both[0]} is both source and sink")
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
