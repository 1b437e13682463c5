"""Nearest-neighbour resampling: one rule for masks and confidence, so that both stay aligned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nearest_places(old: int, new: int) -> NDArray[np.int64]:
    """Compute which old pixel holds the centre of each new pixel, along one axis.

    Args:
        old: number of pixels before.
        new: number of pixels after.

    Returns:
        (new,) int64 in [0, old). Integer arithmetic: no rounding error decides at the border of two pixels.
    """
    return (2 * np.arange(new, dtype=np.int64) + 1) * old // (2 * new)
