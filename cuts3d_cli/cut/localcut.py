"""LocalCut (Sec. 3.2): a min-cut on the point cloud separates one instance from a semantic bipartition."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cuts3d_cli.config.cutting import Capacity
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


def grid_spacing(grid: tuple[int, int]) -> float:
    """Return the distance between diagonal neighbours on the grid; a `tau_knn` under it takes every object apart.

    Args:
        grid: (H, W), both at least 2.

    Returns:
        The distance, in units of the image's side.
    """
    height, width = grid
    return math.hypot(1.0 / (height - 1), 1.0 / (width - 1))


def point_cloud(
    depth: NDArray[np.floating], mask: NDArray[np.bool_], *, background_level: float
) -> NDArray[np.float64]:
    """Unproject the depth map orthographically; points outside the semantic mask go to a background level.

    x and y run over [0, 1], as does the depth (the scale is not given in the paper).

    Args:
        depth: (H, W) in [0, 1], larger is farther, no NaN.
        mask: (H, W) bool, the semantic bipartition.
        background_level: z of the points outside the mask.

    Returns:
        (K, 3) float64, rows (x, y, z) in row-major order.
    """
    height, width = depth.shape
    y, x = np.meshgrid(np.linspace(0.0, 1.0, height), np.linspace(0.0, 1.0, width), indexing="ij")
    z = np.where(mask, depth, background_level)
    return np.stack([x.reshape(-1), y.reshape(-1), z.reshape(-1)], axis=1).astype(np.float64)


def knn_graph(points: NDArray[np.float64], *, k: int) -> KnnGraph:
    """Connect each point with its k nearest others; an edge is there if either end asks for it.

    Args:
        points: (K, 3).
        k: neighbours of a point, at least 1 (not given in the paper).

    Returns:
        The graph.
    """
    count = len(points)
    neighbours = min(k, count - 1)
    _, indices = cKDTree(points).query(points, k=neighbours + 1)
    origin = np.repeat(np.arange(count, dtype=np.int64), neighbours + 1)
    target = indices.reshape(-1).astype(np.int64)
    different = origin != target  # a point is mostly, but among equal points not always, its own nearest
    low = np.minimum(origin, target)[different]
    high = np.maximum(origin, target)[different]
    codes = np.unique(low * count + high)
    first, second = codes // count, codes % count
    length = np.linalg.norm(points[first] - points[second], axis=1)
    return KnnGraph(first=first, second=second, length=length, nodes=count)


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


def cut_graph(
    graph: KnnGraph,
    mask: NDArray[np.bool_],
    *,
    source: int | NDArray[np.int64],
    sink: int | None,
    tau_knn: float,
    capacity: Capacity,
) -> NDArray[np.bool_]:
    """Drop the edges longer than tau_knn and cut the source off from the sink (Sec. 3.2).

    The instance is what the source still reaches in the residual graph, within the semantic mask. Nodes linked to
    neither terminal belong to nobody: an object cut off by the threshold is not swallowed.

    Args:
        graph: of all patches.
        mask: (H, W) bool, the semantic bipartition.
        source: row-major index, or (R,) of several, inside the mask.
        sink: row-major index, or None: all nodes outside the mask are the sink.
        tau_knn: longest edge kept.
        capacity: see `edge_capacity`.

    Returns:
        (H, W) bool, a subset of the mask that holds the source.
    """
    kept = graph.length <= tau_knn
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


def local_cut(
    depth: NDArray[np.floating],
    mask: NDArray[np.bool_],
    *,
    source: int | NDArray[np.int64],
    sink: int | None,
    tau_knn: float,
    k: int,
    background_level: float,
    capacity: Capacity,
) -> NDArray[np.bool_]:
    """Cut one instance out of a semantic bipartition in 3D: `point_cloud`, `knn_graph` and `cut_graph` in one.

    Args:
        depth: (H, W) in [0, 1], larger is farther, no NaN.
        mask: (H, W) bool, the semantic bipartition.
        source, sink, tau_knn, capacity: see `cut_graph`.
        k: see `knn_graph`.
        background_level: see `point_cloud`.

    Returns:
        (H, W) bool, a subset of the mask that holds the source.
    """
    graph = knn_graph(point_cloud(depth, mask, background_level=background_level), k=k)
    return cut_graph(graph, mask, source=source, sink=sink, tau_knn=tau_knn, capacity=capacity)
