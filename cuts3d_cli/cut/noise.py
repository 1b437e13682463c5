"""The noise of metric depth, and how steep a point cloud in perspective may be made with it (not in the paper)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_NOISE = 0.5
"""Largest noise of the points' z, in distances of neighbours on the grid. An edge of a level surface is then kept, at
`cuts3d_cli.cut.localcut.AUTO_TAU`, unless its noise is over one and a half times what is usual."""
_OF_NORMAL = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
_OF_SECOND_DIFFERENCE = 6.0**0.5
"""Standard deviation of a - 2 b + c over that of a, b and c."""


def depth_noise(distance: NDArray[np.float64]) -> float:
    """Estimate the relative noise of a depth map from how neighbours in a row differ from a straight line.

    Slopes cancel out; edges, and what is strongly curved, are few and do not move a median.

    Args:
        distance: (H, W), over 0, NaN where nothing was measured.

    Returns:
        The standard deviation of ln Z; 0 where no three neighbours in a row were measured.
    """
    values = np.log(distance)
    bends = np.concatenate([np.diff(values, 2, axis=axis).reshape(-1) for axis in (0, 1)])
    bends = np.abs(bends[np.isfinite(bends)])
    return float(_OF_NORMAL * np.median(bends) / _OF_SECOND_DIFFERENCE) if bends.size else 0.0


def steady_focal(focal: float, *, noise: float, step: float) -> float:
    """Return the focal length with which noise does not tear a surface apart: the true one, or a smaller one.

    z = f ln Z stretches the noise of depth by f, while the points stay as far apart in x and y. Where the noise of z
    would be over `MOST_NOISE` steps, all slopes are taken as less steep instead.

    Args:
        focal: in units of the photo's longer side.
        noise: standard deviation of ln Z, see `depth_noise`.
        step: distance of neighbours on the grid, in the same unit.
    """
    return min(focal, MOST_NOISE * step / noise) if noise > 0 else focal
