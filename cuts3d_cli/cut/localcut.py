"""LocalCut (Sec. 3.2): a min-cut on the point cloud separates one instance from a semantic bipartition."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cuts3d_cli.config.cutting import Capacity
from cuts3d_cli.cut.cloud import Surface, edge_concavity
from cuts3d_cli.cut.mincut import min_cut

CAPACITY_SCALE = 1 << 16
"""Capacities are integers, so that every solver finds the same cut; this is the capacity of an edge of length 0."""


@dataclass(frozen=True, kw_only=True)
class KnnGraph:
    """Undirected k-nearest-neighbour graph over the patches' 3D points.

    Attributes:
        first, second: (E,) int64, the nodes of each edge, first < second, sorted, each pair once.
        length: (E,) float64, Euclidean distance, in units of the image's side.
        nodes: number of nodes.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    length: NDArray[np.float64]
    nodes: int


_ROUNDING = 1e-9
"""By so much of it a search reaches beyond the longest edge, whose length is rounded in another way there."""
AUTO_TAU = 1.05
"""With `tau_knn` left to the grid: the longest edge, in diagonal spacings of the grid. An edge is then kept where the
surface goes on between neighbouring patches (not in the paper)."""


def longest_edge(tau_knn: float | Literal["auto"], *, spacing: float) -> float:
    """Return the threshold of LocalCut: as it is set, or `AUTO_TAU` times the spacing of the grid."""
    return AUTO_TAU * spacing if tau_knn == "auto" else tau_knn


def grid_spacing(grid: tuple[int, int]) -> float:
    """Return the distance between diagonal neighbours on the grid; a `tau_knn` under it takes every object apart.

    Args:
        grid: (H, W), both at least 2.

    Returns:
        The distance, in units of the image's side.
    """
    height, width = grid
    return math.hypot(1.0 / (height - 1), 1.0 / (width - 1))


def knn_graph(points: NDArray[np.float64], *, k: int, longest: float = math.inf) -> KnnGraph:
    """Connect each point with its k nearest others; an edge is there if either end asks for it.

    Args:
        points: (K, 3).
        k: neighbours of a point, at least 1 (not given in the paper).
        longest: longer edges are left out, which says nothing of who asks for whom.

    Returns:
        The graph.
    """
    count = len(points)
    neighbours = min(k, count - 1)
    origin, target = _nearest(points, neighbours=neighbours, longest=longest)
    different = origin != target  # a point is mostly, but among equal points not always, its own nearest
    codes = (np.minimum(origin, target) * count + np.maximum(origin, target))[different]
    codes.sort()  # np.unique hashes first, which takes longer for so few
    codes = codes[np.append(True, codes[1:] != codes[:-1])] if codes.size else codes
    first, second = np.divmod(codes, count)
    squares = np.zeros(len(codes))
    for coordinate in np.ascontiguousarray(points.T):
        squares += (coordinate[first] - coordinate[second]) ** 2
    length = np.sqrt(squares)
    kept = length <= longest
    return KnnGraph(first=first[kept], second=second[kept], length=length[kept], nodes=count)


def _nearest(
    points: NDArray[np.float64], *, neighbours: int, longest: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find each point's nearest, itself among them.

    Where few lie within the longest edge, only those are looked for, which takes less time. Which of several equally
    far ones are the last depends on how the tree is searched, so that points that have as many are looked at again.

    Returns:
        (P,) origin and (P,) target of pairs: all of `neighbours + 1` nearest, or those of them up to `longest`.
    """
    count = len(points)
    tree = cKDTree(points)
    everyone = np.arange(count, dtype=np.int64)
    # Points of a flat scene, with one on every 1 / K of a square of side 1.
    if math.pi * longest**2 * count > neighbours:
        _, indices = tree.query(points, k=neighbours + 1)
        return np.repeat(everyone, neighbours + 1), indices.reshape(-1).astype(np.int64)
    _, indices = tree.query(points, k=neighbours + 1, distance_upper_bound=longest * (1.0 + _ROUNDING))
    full = indices[:, -1] < count
    if full.any():
        _, indices[full] = tree.query(points[full], k=neighbours + 1)
    origin, target = np.repeat(everyone, neighbours + 1), indices.reshape(-1).astype(np.int64)
    found = target < count  # the number of points stands for none
    return origin[found], target[found]


def edge_capacity(length: NDArray[np.float64], *, form: Capacity, tau_knn: float) -> NDArray[np.int32]:
    """Compute the cost of cutting each edge (not given in the paper, apart from "distance").

    A cost that falls with the length, as in the min-cut segmentation of Golovinskiy and Funkhouser that the paper
    builds on, lets the cut pass where points lie far apart. The paper's text makes the length itself the weight
    ("distance"); minimising that would rather cut inside objects.

    Args:
        length: (E,) in units of the image's side.
        form: "gaussian" exp(-(d/tau)^2), "exponential" exp(-d/tau), "inverse" 1/(1 + d/tau), "distance" d/tau.
        tau_knn: the length scale.

    Returns:
        (E,) int32 in [1, `CAPACITY_SCALE`] for lengths up to tau_knn.
    """
    ratio = length / tau_knn
    if form == "gaussian":
        cost = np.exp(-(ratio**2))
    elif form == "exponential":
        cost = np.exp(-ratio)
    elif form == "inverse":
        cost = 1.0 / (1.0 + ratio)
    else:
        cost = ratio
    return np.maximum(np.rint(cost * CAPACITY_SCALE), 1).astype(np.int32)


def choose_sink(
    vector: NDArray[np.float64], *, source: int | NDArray[np.int64], removed: NDArray[np.bool_], tolerance: float
) -> int | None:
    """Choose the most background point: the node of smallest absolute eigenvector entry (Sec. 3.2).

    Args:
        vector: (K,) float64, its largest absolute entry 1.
        source: the most foreground point, or several: they cannot be the sink.
        removed: (K,) bool, nodes of earlier instances: never the sink, their entries are arbitrary.
        tolerance: entries this close to the smallest count as equal; the first of them is taken.

    Returns:
        The node, or None if no node is left.
    """
    allowed = ~removed
    allowed[source] = False
    if not allowed.any():
        return None
    magnitude = np.abs(vector)
    return int(np.flatnonzero(allowed & (magnitude <= magnitude[allowed].min() + tolerance))[0])


@dataclass(frozen=True, kw_only=True)
class LocalGraph:
    """The point cloud's graph for one semantic bipartition, ready to be cut at any thresholds.

    Attributes:
        graph: of all patches.
        concavity: (E,) float64, see `edge_concavity`: -inf at edges with an end outside the mask. None where edges are
            kept whatever the shape of the surface.
    """

    graph: KnnGraph
    concavity: NDArray[np.float64] | None = None

    def without(self, mask: NDArray[np.bool_]) -> LocalGraph:
        """Return the graph without the edges of some patches, (H, W) bool."""
        gone = mask.reshape(-1)
        kept = ~(gone[self.graph.first] | gone[self.graph.second])
        graph = replace(
            self.graph, first=self.graph.first[kept], second=self.graph.second[kept], length=self.graph.length[kept]
        )
        return LocalGraph(graph=graph, concavity=None if self.concavity is None else self.concavity[kept])


def local_graph(surface: Surface, mask: NDArray[np.bool_], *, k: int, longest: float = math.inf) -> LocalGraph:
    """Build the graph that one instance is cut from.

    Args:
        surface: of the scene.
        mask: (H, W) bool, the semantic bipartition.
        k: see `knn_graph`.
        longest: the largest threshold that it will be cut at; longer edges are left out.

    Returns:
        The graph, with the concavity of its edges where the surface has normals.
    """
    graph = knn_graph(surface.masked(mask), k=k, longest=longest)
    if surface.normals is None:
        return LocalGraph(graph=graph)
    inside = mask.reshape(-1)
    both = inside[graph.first] & inside[graph.second]
    concavity = np.full(len(graph.first), -np.inf)
    concavity[both] = edge_concavity(surface, first=graph.first[both], second=graph.second[both])
    return LocalGraph(graph=graph, concavity=concavity)


def cut_graph(
    local: LocalGraph,
    mask: NDArray[np.bool_],
    *,
    source: int | NDArray[np.int64],
    sink: int | None,
    tau_knn: float,
    capacity: Capacity,
    concavity: float | None = None,
) -> NDArray[np.bool_]:
    """Drop the edges longer than tau_knn and cut the source off from the sink (Sec. 3.2).

    The instance is what the source still reaches in the residual graph, within the semantic mask. Nodes linked to
    neither terminal belong to nobody: an object cut off by the threshold is not swallowed.

    Args:
        local: the graph of all patches.
        mask: (H, W) bool, the semantic bipartition.
        source: row-major index, or (R,) of several, inside the mask.
        sink: row-major index, or None: all nodes outside the mask are the sink.
        tau_knn: longest edge kept.
        capacity: see `edge_capacity`.
        concavity: most concave edge kept (not in the paper); None keeps all, as does a graph without concavities.

    Returns:
        (H, W) bool, a subset of the mask that holds the source.
    """
    graph = local.graph
    kept = graph.length <= tau_knn
    if concavity is not None and local.concavity is not None:
        kept &= local.concavity <= concavity
    sinks = np.flatnonzero(~mask.reshape(-1)) if sink is None else np.array([sink])
    reached = min_cut(
        graph.first[kept],
        graph.second[kept],
        edge_capacity(graph.length[kept], form=capacity, tau_knn=tau_knn),
        nodes=graph.nodes,
        source=source,
        sinks=sinks.astype(np.int64),
    ).source_side
    return reached.reshape(mask.shape) & mask
