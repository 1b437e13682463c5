"""Resampling of masks and confidence: one rule, so that both stay aligned wherever they are resized."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nearest_places(old: int, new: int) -> NDArray[np.int64]:
    """Where the centre of each new pixel lies among the old ones, along one axis.

    Args:
        old: pixels that there are.
        new: pixels that there are to be.

    Returns:
        (new,) int64 in [0, old). In whole numbers, so that no rounding decides at the border of two pixels.
    """
    return (2 * np.arange(new, dtype=np.int64) + 1) * old // (2 * new)
