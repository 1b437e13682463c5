"""The dense CRF by a permutohedral lattice of our own (Adams, Baek, Davis 2010; as DenseCRF uses it), on one core.

The masks are those of pydensecrf, up to pixels whose probability is 0.5 to the last digits. `batched_crf` does the same
in torch, on any device and for several images at once.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.lattice_points import (
    BILATERAL_COMPAT,
    GAUSSIAN_COMPAT,
    TINY,
    Packing,
    bilateral_features,
    blur_gain,
    position_features,
    prior_logits,
)


@functools.cache
def has_compiler() -> bool:
    """Return whether Numba is installed, which compiles the lattice for a CPU."""
    return importlib.util.find_spec("numba") is not None


def foreground(
    image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], *, iterations: int
) -> list[NDArray[np.float32]]:
    """Infer the foreground probability of masks by mean-field inference: all masks over one lattice.

    Two labels that sum to one need one column a mask: with k1 the messages of a constant one,
    logit(q) = logit(prior) - k1 + 2 K q.

    Args:
        image: (h, w, 3) uint8, RGB.
        masks: (h, w) bool each.
        iterations: of mean-field inference.

    Returns:
        (h, w) float32 for each mask. Numba changes how fast it comes, nothing else.
    """
    if not masks:
        return []
    if not has_compiler():
        from cuts3d_cli.cut.batched_crf import foreground as in_torch  # torch, which this module does without

        return in_torch([image], [masks], iterations=iterations, device="cpu")[0]
    from cuts3d_cli.cut.lattice_kernels import LANES

    kernels = [_position_kernel(image.shape[0], image.shape[1]), _Kernel(bilateral_features(image), BILATERAL_COMPAT)]
    ones = np.ones((image.shape[0] * image.shape[1], LANES), dtype=np.float32)
    constant = np.zeros_like(ones)
    for kernel in kernels:
        kernel.add_messages(constant, ones, factor=1.0)
    found: list[NDArray[np.float32]] = []
    for start in range(0, len(masks), LANES):
        some = masks[start : start + LANES]
        prior = np.zeros_like(ones)
        prior[:, : len(some)] = prior_logits(some)
        probability = _logistic(-prior)
        for _ in range(iterations):
            # The negative logit, in place.
            logit = constant - prior
            for kernel in kernels:
                kernel.add_messages(logit, probability, factor=-2.0)
            probability = _logistic(logit)
        found += [np.ascontiguousarray(probability[:, i]).reshape(image.shape[:2]) for i in range(len(some))]
    return found


class _Kernel:
    """A kernel, normalised symmetrically, over the points of an image."""

    def __init__(self, features: NDArray[np.float64], compat: float) -> None:
        """Build the lattice of points, (d, N), and normalise its kernel."""
        from cuts3d_cli.cut import lattice_kernels as compiled

        packing = Packing.of(len(features))
        keys, weights = compiled.simplexes(features, packing.scale, packing.steps, packing.bits)
        self._vertices, self._against, self._along = compiled.number_vertices(keys, packing.steps)
        self._factor = compat * blur_gain(len(features))
        # What a constant one becomes says by how much every point counts.
        ones = np.ones((features.shape[1], compiled.LANES), dtype=np.float32)
        spread = np.zeros_like(ones)
        gain = np.float32(blur_gain(len(features)))
        compiled.add_filtered(spread, ones, self._vertices, weights, self._against, self._along, gain)
        self._weights = weights * (np.float32(1.0) / np.sqrt(spread[:, :1] + TINY))

    def add_messages(self, target: NDArray[np.float32], values: NDArray[np.float32], *, factor: float) -> None:
        """Add a factor times the messages of values; both are (N, LANES)."""
        from cuts3d_cli.cut.lattice_kernels import add_filtered

        whole = np.float32(factor * self._factor)
        add_filtered(target, values, self._vertices, self._weights, self._against, self._along, whole)


@functools.lru_cache(maxsize=1)
def _position_kernel(height: int, width: int) -> _Kernel:
    """Return the kernel of the positions alone: the same for all images of a size."""
    return _Kernel(position_features(height, width), GAUSSIAN_COMPAT)


def _logistic(negative: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(x)), written over x."""
    with np.errstate(over="ignore"):  # to infinity, whose inverse is 0
        np.exp(negative, out=negative)
    negative += np.float32(1.0)
    return np.reciprocal(negative, out=negative)
