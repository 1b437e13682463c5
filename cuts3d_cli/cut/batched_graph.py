"""The semantic graphs of many images at once, with torch, on any device: what `affinity` and `sharpening` do singly.

Sums are taken in another order than NumPy's, so that an affinity may differ in its last digit; an edge differs where
that digit decides, which a few of millions do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cuts3d_cli.config.cutting import Pairing


def unusable(features: Tensor) -> list[str | None]:
    """Return why images have no semantic graph.

    Args:
        features: (B, C, H, W).

    Returns:
        For each image the reason, which `cosine_affinity` raises; None where the features are usable.
    """
    flat = features.flatten(1)
    facts = torch.stack([torch.isfinite(flat).all(dim=1), (flat != 0).any(dim=1)]).cpu()
    return [
        "the features contain NaN or infinite values" if not finite else None if filled else "the features are all zero"
        for finite, filled in zip(*facts.tolist(), strict=True)
    ]


def cosine_affinities(features: Tensor) -> Tensor:
    """Compute the cosine similarity between all patches of each image, clamped to [0, 1] (Sec. 3.1).

    Args:
        features: (B, C, H, W), finite, no image all zero.

    Returns:
        (B, K, K) float32 in [0, 1], K = H * W, nodes in row-major order.
    """
    vectors = features.to(torch.float32).flatten(2)
    norms = vectors.norm(dim=1, keepdim=True)
    vectors = torch.where(norms > 0, vectors / norms, 0.0)
    return torch.bmm(vectors.transpose(1, 2), vectors).clamp_(0.0, 1.0)


def graph_edges(affinity: Tensor, importance: Tensor | None, *, pairing: Pairing, tau_ncut: float) -> Tensor:
    """Compute the edges of the graphs: binarised, and sharpened before that where there is an importance.

    Args:
        affinity: (B, K, K) float32 in [0, 1].
        importance: (B, H, W) float32 in [0, 1], K = H * W; None for graphs that are not sharpened.
        pairing: see `cuts3d_cli.cut.sharpening.pair_importance`.
        tau_ncut: the threshold, in [0, 1).

    Returns:
        (B, K, K) bool.
    """
    if importance is None:
        return binarised(affinity, tau_ncut=tau_ncut)
    return sharpened_edges(affinity, importance, pairing=pairing, tau_ncut=tau_ncut)


def binarised(affinity: Tensor, *, tau_ncut: float) -> Tensor:
    """Compute the edges of the binarised graphs: True where the affinity is strictly above the threshold (Sec. 3.1).

    Args:
        affinity: (B, K, K) float32 in [0, 1].
        tau_ncut: the threshold, in [0, 1).

    Returns:
        (B, K, K) bool.
    """
    return affinity > _threshold(affinity, tau_ncut)


def sharpened_edges(affinity: Tensor, importance: Tensor, *, pairing: Pairing, tau_ncut: float) -> Tensor:
    """Compute the edges of the graphs after sharpening (Eq. 3) and binarising.

    Args:
        affinity: (B, K, K) float32 in [0, 1].
        importance: (B, H, W) float32 in [0, 1], K = H * W.
        pairing: see `cuts3d_cli.cut.sharpening.pair_importance`.
        tau_ncut: the threshold, in [0, 1).

    Returns:
        (B, K, K) bool.
    """
    threshold = _threshold(affinity, tau_ncut)
    nodes = importance.flatten(1)
    exponent = 1.0 - _paired(nodes[:, :, None], nodes[:, None, :], pairing)
    sharpened = torch.pow(affinity, exponent, out=exponent)
    # An exponent of at most 1 lowers nothing, and 0 stays 0 also where the exponent is 0.
    return (affinity > threshold) | ((sharpened > threshold) & (affinity > 0))


def _threshold(affinity: Tensor, tau_ncut: float) -> Tensor:
    """Return the threshold in the affinity's precision, as NumPy compares."""
    return torch.tensor(tau_ncut, dtype=affinity.dtype, device=affinity.device)


def _paired(first: Tensor, second: Tensor, pairing: Pairing) -> Tensor:
    if pairing == "mean":
        return (first + second) / 2.0
    if pairing == "max":
        return torch.maximum(first, second)
    if pairing == "min":
        return torch.minimum(first, second)
    return first * second
