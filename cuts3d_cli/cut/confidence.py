"""Spatial Confidence (Sec. 3.4): how far an instance depends on the threshold it was cut with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config.cutting import Capacity
from cuts3d_cli.cut.crf import refine_masks
from cuts3d_cli.cut.grid import depth_to_grid
from cuts3d_cli.cut.localcut import cut_graph, knn_graph, point_cloud
from cuts3d_cli.cut.masks import upsample_nearest

CRF_LEVELS = 255
"""Probabilities of the CRF are stored in steps of 1/255."""


def confidence_counts(
    depth: NDArray[np.floating],
    mask: NDArray[np.bool_],
    *,
    source: int | NDArray[np.int64],
    sink: int | None,
    tau_knn_min: float,
    tau_knn: float,
    cuts: int,
    k: int,
    background_level: float,
    capacity: Capacity,
) -> NDArray[np.uint8]:
    """Count in how many of `cuts` LocalCuts a patch belongs to the instance (the sum in Eq. 4).

    The thresholds run linearly from tau_knn_min to tau_knn, both included; all cuts share bipartition, source, sink and
    k-NN graph, which is built once.

    Args:
        depth: (H, W) in [0, 1], larger is farther, no NaN.
        mask: (H, W) bool, the semantic bipartition B.
        source: row-major index, or (R,) of several, inside the mask.
        sink: row-major index, or None: all nodes outside the mask.
        tau_knn_min, tau_knn: the first and the last threshold.
        cuts: T, from 1 to 255.
        k: see `knn_graph`.
        background_level: see `point_cloud`.
        capacity: see `edge_capacity`.

    Returns:
        (H, W) uint8 in [0, cuts]; `cuts` at the source.

    Raises:
        ValueError: the number of cuts does not fit a byte.
    """
    if not 1 <= cuts <= 255:
        raise ValueError(f"{cuts} cuts do not fit a byte")
    graph = knn_graph(point_cloud(depth, mask, background_level=background_level), k=k)
    counts = np.zeros(mask.shape, dtype=np.uint8)
    for tau in np.linspace(tau_knn_min, tau_knn, cuts):
        counts += cut_graph(graph, mask, source=source, sink=sink, tau_knn=float(tau), capacity=capacity)
    return counts


def crf_counts(image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], *, iterations: int) -> NDArray[np.uint8]:
    """Compute the CRF's foreground probability of each mask, averaged over the patches (paper: B.5).

    Args:
        image: (s, s, 3) uint8, RGB, the square image that the CRF works on.
        masks: (H, W) bool each, at least one, before the CRF.
        iterations: of the CRF.

    Returns:
        (M, H, W) uint8, in steps of 1 / `CRF_LEVELS`.
    """
    large = [upsample_nearest(mask, (image.shape[0], image.shape[1])) for mask in masks]
    refined = refine_masks(image, large, iterations=iterations)
    grid = (masks[0].shape[0], masks[0].shape[1])
    maps = [depth_to_grid(np.clip(share, 0, 1), grid, sampling="area") for _, share in refined]
    return np.rint(np.stack(maps) * CRF_LEVELS).astype(np.uint8)


def spatial_confidence(counts: NDArray[np.uint8], *, levels: int, floor: float) -> NDArray[np.float32]:
    """Compute the Spatial Confidence from stored counts: their share, but at least the floor (Eq. 4, Table 10a).

    Args:
        counts: (..., H, W) uint8 in [0, levels].
        levels: the count that stands for 1.
        floor: lower bound, in [0, 1].

    Returns:
        (..., H, W) float32 in [floor, 1].
    """
    return np.maximum(counts.astype(np.float32) / np.float32(levels), np.float32(floor))


def mean_confidence(confidence: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Compute the mean confidence over a mask: the score by which masks are ranked (Sec. 3.4, confident copy-paste).

    Args:
        confidence: (H, W) in [0, 1].
        mask: (H, W) bool.

    Returns:
        The mean, in [0, 1]; 0 for an empty mask.
    """
    return float(confidence[mask].mean(dtype=np.float64)) if mask.any() else 0.0
