"""Spatial Importance Sharpening (Sec. 3.3): the semantic graph is made aware of borders in depth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cuts3d_cli.config.cutting import Pairing
from cuts3d_cli.cut.affinity import binarise


def spatial_importance(depth: NDArray[np.floating], *, sigma: float, beta: float) -> NDArray[np.float32]:
    """Compute the Spatial Importance: how much depth differs from its blurred self (Eq. 1), in [beta, 1] (Eq. 2).

    The map is computed at patch resolution, with the border repeated outwards; sigma is not given in the paper. A map
    without any difference (constant depth) has no place that matters more: all of it is `beta`.

    Args:
        depth: (H, W) in [0, 1], no NaN, at patch resolution.
        sigma: standard deviation of the Gaussian, in patches, > 0.
        beta: lower bound of the result, in [0, 1].

    Returns:
        (H, W) float32 in [beta, 1].
    """
    values = np.asarray(depth, dtype=np.float64)
    difference = np.abs(ndimage.gaussian_filter(values, sigma, mode="nearest") - values)
    low, high = float(difference.min()), float(difference.max())
    if high - low <= np.finfo(np.float32).eps:
        return np.full(values.shape, beta, dtype=np.float32)
    return ((1.0 - beta) * (difference - low) / (high - low) + beta).astype(np.float32)


def pair_importance(importance: NDArray[np.float32], *, pairing: Pairing) -> NDArray[np.float32]:
    """Compute the importance of each pair of nodes from the importance of each node.

    Eq. 3 needs a value per pair, Eq. 2 gives one per node; the paper leaves open how one becomes the other. Every
    choice here is symmetric, or the eigenproblem would not be.

    Args:
        importance: (H, W) in [0, 1].
        pairing: how the two values are joined.

    Returns:
        (K, K) float32 in [0, 1], symmetric.
    """
    nodes = importance.reshape(-1)
    return _paired(nodes[:, None], nodes[None, :], pairing)


def sharpen(affinity: NDArray[np.float32], importance: NDArray[np.float32], *, pairing: Pairing) -> NDArray[np.float32]:
    """Raise each affinity to the power of 1 - importance (Eq. 3).

    An affinity of exactly 0 stays 0, also where the exponent is 0.

    Args:
        affinity: (K, K) in [0, 1].
        importance: (H, W) in [0, 1], K = H * W.
        pairing: see `pair_importance`.

    Returns:
        (K, K) float32 in [0, 1].
    """
    exponent = np.float32(1) - pair_importance(importance, pairing=pairing)
    sharpened = np.power(affinity, exponent)
    return np.where(affinity > 0, sharpened, np.float32(0))


def graph_edges(
    affinity: NDArray[np.float32], importance: NDArray[np.float32] | None, *, pairing: Pairing, tau_ncut: float
) -> NDArray[np.bool_]:
    """Compute the edges of the semantic graph: binarised, and sharpened before that where there is an importance.

    Args:
        affinity: (K, K) in [0, 1].
        importance: (H, W) in [0, 1], K = H * W; None for a graph that is not sharpened.
        pairing: see `pair_importance`.
        tau_ncut: the threshold, in [0, 1).

    Returns:
        (K, K) bool.
    """
    if importance is None:
        return binarise(affinity, tau_ncut=tau_ncut)
    return sharpened_edges(affinity, importance, pairing=pairing, tau_ncut=tau_ncut)


def sharpened_edges(
    affinity: NDArray[np.float32], importance: NDArray[np.float32], *, pairing: Pairing, tau_ncut: float
) -> NDArray[np.bool_]:
    """Compute the edges of the sharpened graph: `sharpen` and `binarise` in one, computing only what can matter.

    An exponent of at most 1 never lowers an affinity, so one over the threshold stays over it; and one so small that
    even the smallest exponent in its row leaves it under the threshold stays under it. What lies between is raised to
    its power.

    Args:
        affinity: (K, K) in [0, 1].
        importance: (H, W) in [0, 1], K = H * W.
        pairing: see `pair_importance`.
        tau_ncut: the threshold, in [0, 1).

    Returns:
        (K, K) bool.
    """
    threshold = np.float32(tau_ncut)
    nodes = importance.reshape(-1)
    edges = affinity > threshold
    # The smallest exponent that a node can have, with the most important partner there is. x ^ least > tau asks for
    # x > tau ^ (1 / least); a little lower, to leave the last digits to the exact computation.
    least = 1.0 - _paired(nodes, nodes.max(keepdims=True), pairing).astype(np.float64)
    inverse = np.divide(1.0, least, out=np.full_like(least, np.inf), where=least > 0)
    lowest = np.where(np.isinf(inverse), 0.0, 0.999 * tau_ncut**inverse).astype(np.float32)
    between = affinity > lowest[:, None]
    between &= ~edges
    places = np.flatnonzero(between)  # of one dimension: faster than of two
    rows, columns = np.divmod(places, len(nodes))
    exponent = np.float32(1) - _paired(nodes[rows], nodes[columns], pairing)
    edges.reshape(-1)[places] = np.power(affinity.reshape(-1)[places], exponent) > threshold
    return edges


def _paired(first: NDArray[np.float32], second: NDArray[np.float32], pairing: Pairing) -> NDArray[np.float32]:
    if pairing == "mean":
        return (first + second) / np.float32(2)
    if pairing == "max":
        return np.maximum(first, second)
    if pairing == "min":
        return np.minimum(first, second)
    return first * second
