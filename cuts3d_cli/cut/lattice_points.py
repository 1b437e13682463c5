"""What the permutohedral lattice of the CRF is made of, whichever way it is computed: points, keys and constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GAUSSIAN_SXY = 3
GAUSSIAN_COMPAT = 7
BILATERAL_SXY = 50
BILATERAL_SRGB = 5
BILATERAL_COMPAT = 10
FOREGROUND_PROBABILITY = float(np.e / (np.e + 1.0))
"""Softmax of the one-hot label (0, 1): what MaskCut gives a pixel of the mask, 0.731."""
PRIOR_LOGIT = np.float32(1.0)
"""Logit of `FOREGROUND_PROBABILITY`."""
TINY = np.float32(1e-20)
"""Keeps the normalisation of a kernel finite."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How the coordinates of a vertex fit into one whole number of 64 bits, and what is fixed about d dimensions.

    Attributes:
        bits: of a coordinate.
        scale: (d,) float64, of the coordinates of a point.
        steps: (d + 1,) int64, from a key to that of the neighbour in each direction.
    """

    bits: int
    scale: NDArray[np.float64]
    steps: NDArray[np.int64]

    @classmethod
    def of(cls, dimensions: int) -> Packing:
        """Return the packing for points of so many dimensions."""
        bits = min(62 // dimensions, 31)
        index = np.arange(dimensions, dtype=np.float64)
        scale = math.sqrt(2.0 / 3.0) * (dimensions + 1) / np.sqrt((index + 1.0) * (index + 2.0))
        steps = [-sum(1 << (bits * i) for i in range(dimensions))] * (dimensions + 1)
        for i in range(dimensions):
            steps[i] += (dimensions + 1) << (bits * i)
        return cls(bits=bits, scale=scale, steps=np.array(steps, dtype=np.int64))


def blur_gain(dimensions: int) -> float:
    """Return what the blur multiplies a constant by, the wrong way round: the factor that takes it back."""
    return 1.0 / (1.0 + 2.0**-dimensions)


def position_features(height: int, width: int) -> NDArray[np.float64]:
    """Return x and y of each pixel in units of the Gaussian kernel, (2, h * w) float64."""
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    return np.stack([x / GAUSSIAN_SXY, y / GAUSSIAN_SXY])


def bilateral_features(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return x, y, red, green, blue of each pixel of (h, w, 3) in units of the bilateral kernel, (5, h * w) float64."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].reshape(2, -1)
    colours = image.reshape(-1, 3).T / float(BILATERAL_SRGB)
    return np.concatenate([np.stack([x / BILATERAL_SXY, y / BILATERAL_SXY]), colours])


def prior_logits(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.float32]:
    """Return the logits before the first iteration, (h * w, M) float32, of masks, (h, w) bool each."""
    inside = np.stack([mask.reshape(-1) for mask in masks], axis=1)
    return np.where(inside, PRIOR_LOGIT, -PRIOR_LOGIT)
