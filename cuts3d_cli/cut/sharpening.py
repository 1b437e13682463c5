"""Spatial Importance Sharpening (Sec. 3.3): the semantic graph is made aware of borders in depth."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Pairing = Literal["mean", "max", "min", "product"]


def spatial_importance(depth: NDArray[np.floating], *, sigma: float, beta: float) -> NDArray[np.float32]:
    """Spatial Importance map: how much the depth differs from its blurred self (Eq. 1), scaled to [beta, 1] (Eq. 2).

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
    """Importance of a pair of nodes from the importance of each.

    Eq. 3 needs a value per pair, Eq. 2 gives one per node; the paper leaves open how one becomes the other. Every
    choice here is symmetric, or the eigenproblem would not be.

    Args:
        importance: (H, W) in [0, 1].
        pairing: how the two values are joined.

    Returns:
        (K, K) float32 in [0, 1], symmetric.
    """
    nodes = importance.reshape(-1)
    first, second = nodes[:, None], nodes[None, :]
    if pairing == "mean":
        return (first + second) / np.float32(2)
    if pairing == "max":
        return np.maximum(first, second)
    if pairing == "min":
        return np.minimum(first, second)
    return first * second


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
