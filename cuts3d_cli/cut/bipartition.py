"""From an eigenvector to a semantic bipartition: which side is the foreground, and which node is its seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cuts3d_cli.cut.ncut import TIE_TOLERANCE, argmax_first


@dataclass(frozen=True, kw_only=True)
class Bipartition:
    """The foreground side of a Normalized Cut.

    Attributes:
        mask: (H, W) bool.
        seed: row-major index of the foreground node whose entry lies farthest out: the most foreground point.
        outward: (H, W) float64, the eigenvector with its sign turned so that foreground entries are the larger ones.
    """

    mask: NDArray[np.bool_]
    seed: int
    outward: NDArray[np.float64]


def bipartition(
    vector: NDArray[np.float64], grid: tuple[int, int], *, removed: NDArray[np.bool_] | None = None
) -> Bipartition | None:
    """Split the nodes at the mean of the eigenvector and choose the foreground by MaskCut's rules.

    The foreground is the side that holds the entry of largest absolute value, unless that side holds three or more
    corners of the image: then it is the other one.

    Args:
        vector: (K,) float64, its largest absolute entry +1.
        grid: (H, W), K = H * W.
        removed: (H, W) bool: nodes that belong to earlier instances. Their entries are arbitrary, so they take part in
            nothing: not in the mean, the corners, the seed or the mask. MaskCut itself lets them: leave it out.

    Returns:
        The bipartition, or None where all entries are equal and nothing can be split.
    """
    active = np.ones(vector.shape, dtype=bool) if removed is None else ~removed.reshape(-1)
    if not active.any() or np.ptp(vector[active]) <= TIE_TOLERANCE:
        return None
    signed = vector
    foreground = (signed > signed[active].mean()) & active
    if not foreground[argmax_first(np.abs(vector), active)]:
        signed = -vector
        foreground = active & ~foreground
    if _corners(foreground.reshape(grid)) >= 3:
        signed = -signed
        foreground = active & ~foreground
    return Bipartition(
        mask=foreground.reshape(grid), seed=argmax_first(signed, foreground), outward=signed.reshape(grid)
    )


def core(split: Bipartition, *, share: float) -> NDArray[np.bool_]:
    """Return the seed and its surroundings: several source nodes instead of one (not in the paper).

    Of the foreground nodes, those whose entries lie farthest out are taken, and of these the 4-connected component of
    the seed. Entries equal within `TIE_TOLERANCE` are taken or left together.

    Args:
        split: the bipartition.
        share: of the foreground nodes that may be taken, in [0, 1]; the seed always is.

    Returns:
        (H, W) bool, a subset of the mask that holds the seed.
    """
    entries = split.outward[split.mask]
    place = max(1, math.ceil(share * entries.size))
    least = np.partition(entries, -place)[-place] - TIE_TOLERANCE
    return connected_component(split.mask & (split.outward >= least), split.seed)


def connected_component(mask: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """Return the 4-connected component of a mask that holds the seed, as in MaskCut and TokenCut.

    Args:
        mask: (H, W) bool.
        seed: row-major index inside the mask.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: the seed lies outside the mask.
    """
    labels, _ = ndimage.label(mask)
    label = labels.reshape(-1)[seed]
    if label == 0:
        raise ValueError(f"seed {seed} lies outside the mask")
    component: NDArray[np.bool_] = labels == label
    return component


def _corners(mask: NDArray[np.bool_]) -> int:
    return int(mask[0, 0]) + int(mask[0, -1]) + int(mask[-1, 0]) + int(mask[-1, -1])
