"""Semantic affinity between patches: cosine similarity, binarised into the graph that Normalized Cut works on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.errors import SampleError

EPSILON = 1e-5
"""Weight of an edge at or under the threshold, so that the graph stays connected (MaskCut's value)."""


def cosine_affinity(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Compute the cosine similarity between all patches, clamped to [0, 1] (Sec. 3.1).

    A negative cosine has no real fractional power and lies under every threshold in use, so it becomes 0 (not in the
    paper). A patch whose feature is all zero is similar to nothing, not even to itself.

    Args:
        features: (C, H, W), one vector a patch.

    Returns:
        (K, K) float32 in [0, 1], symmetric, K = H * W, nodes in row-major order.

    Raises:
        SampleError: a value is NaN or infinite, or every feature is zero.
    """
    channels = features.shape[0]
    vectors = np.ascontiguousarray(features.reshape(channels, -1).T, dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise SampleError("the features contain NaN or infinite values")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not norms.any():
        raise SampleError("the features are all zero")
    vectors = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    affinity = vectors @ vectors.T
    return np.clip(affinity, 0.0, 1.0, out=affinity)


def binarise(affinity: NDArray[np.float32], *, tau_ncut: float) -> NDArray[np.bool_]:
    """Compute the edges of the binarised graph: True where the affinity is strictly above the threshold (Sec. 3.1).

    True stands for a weight of 1, False for `EPSILON`.

    Args:
        affinity: (K, K) in [0, 1].
        tau_ncut: the threshold, in [0, 1).

    Returns:
        (K, K) bool.
    """
    return affinity > np.float32(tau_ncut)


def without_nodes(edges: NDArray[np.bool_], removed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Take nodes out of the binarised graph: all their edges fall to `EPSILON`, the one to themselves included.

    This is what MaskCut gets by multiplying the features of found patches by zero. It happens after sharpening: an
    exponent of 0 would otherwise bring a removed node back with weight 1.

    Args:
        edges: (K, K) bool.
        removed: (K,) bool.

    Returns:
        (K, K) bool; `edges` itself when nothing is removed.
    """
    if not removed.any():
        return edges
    kept = ~removed
    return edges & kept[:, None] & kept[None, :]
