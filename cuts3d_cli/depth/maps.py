"""Depth maps as arrays. Pure functions; a missing measurement is NaN in every array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.depth.base import Direction, Unit
from cuts3d_cli.errors import SampleError

MAX_ASPECT_ERROR = 0.01
"""A depth map whose width : height differs from the photo's by more than this part is of another view."""


@dataclass(frozen=True, kw_only=True)
class NormalisedDepth:
    """A depth map ready to be stored.

    Attributes:
        depth: (h, w) float32 in [0, 1], larger = farther, NaN where there is no measurement.
        minimum: the smallest valid raw value, in the source's own direction and unit.
        maximum: the largest valid raw value, likewise.
        conversion: the formula from raw values to `depth`, for the manifest.
    """

    depth: NDArray[np.float32]
    minimum: float
    maximum: float
    conversion: str


@dataclass(frozen=True, kw_only=True)
class DepthMap:
    """The depth of a photo as the cut takes it.

    Attributes:
        depth: (h, w) float32 in [0, 1], larger = farther, NaN where there is no measurement. Not always of the photo's
            size.
        distance: (h, w) float64, along the optical axis, over 0, NaN likewise; None where only its order is known.
    """

    depth: NDArray[np.float32]
    distance: NDArray[np.float64] | None


def has_aspect_of(photo: tuple[int, int], depth: tuple[int, int]) -> bool:
    """Return whether a depth map can be of the same view as a photo, by their aspect ratios (not in the paper).

    Args:
        photo: (height, width) of the upright photo.
        depth: (height, width) of the map.
    """
    ratio = (depth[1] * photo[0]) / (depth[0] * photo[1])
    return 1 / (1 + MAX_ASPECT_ERROR) <= ratio <= 1 + MAX_ASPECT_ERROR


def distance_of(
    depth: NDArray[np.floating], *, minimum: float, maximum: float, direction: Direction, unit: Unit
) -> NDArray[np.float64] | None:
    """Undo `normalise`: return the distance along the optical axis where the source is metric.

    Args:
        depth: (h, w) in [0, 1], larger = farther, NaN where there is no measurement.
        minimum, maximum: the smallest and the largest valid raw value.
        direction, unit: of the raw values.

    Returns:
        (h, w) float64 in the unit of the source, NaN where there is no measurement; None for a map whose values are
        known up to a shift only, or whose nearest point does not lie over 0.
    """
    if unit != "metre":
        return None
    if direction == "disparity":
        if minimum <= 0.0:
            return None
        minimum, maximum = 1.0 / maximum, 1.0 / minimum
    return minimum + depth.astype(np.float64) * (maximum - minimum) if minimum > 0.0 else None


def normalise(raw: NDArray[Any], *, direction: Direction, unit: Unit, zero_is_missing: bool = False) -> NormalisedDepth:
    """Bring a raw map to [0, 1], larger = farther.

    Sec. 3.2 takes such a map; how to get there is not in the paper. A disparity becomes a distance 1 / d only where it
    is metric. A relative one, known up to a shift, is flipped: that keeps edges where they are and does not let the sky
    swallow the range.

    Args:
        raw: (h, w), any real dtype. Values that are not finite are missing.
        direction: of the raw values.
        unit: of the raw values.
        zero_is_missing: take values of 0 and less as missing too, as depth sensors mean them.

    Returns:
        The map. A constant map gives 0.0 everywhere, whatever its direction: it has no farther and no nearer.

    Raises:
        SampleError: no pixel is valid.
    """
    if raw.ndim != 2:
        raise ValueError(f"a depth map has two dimensions, not {raw.ndim}")
    values = raw.astype(np.float64)
    valid = np.isfinite(values)
    if zero_is_missing:
        valid &= values > 0
    converted = values
    if direction == "disparity" and unit == "metre":
        valid &= values > 0  # A disparity of 0 is infinitely far.
        with np.errstate(all="ignore"):
            converted = 1.0 / values
        valid &= np.isfinite(converted)
        conversion = "z = 1 / disparity, depth = (z - min z) / (max z - min z)"
    elif direction == "disparity":
        conversion = "depth = 1 - (disparity - min) / (max - min)"
    else:
        conversion = "depth = (distance - min) / (max - min)"
    if not valid.any():
        raise SampleError("the depth map has no valid pixel")

    near, far = float(converted[valid].min()), float(converted[valid].max())
    depth = np.full(values.shape, np.nan, dtype=np.float32)
    if far > near:
        unit_range = (converted[valid] - near) / (far - near)
        depth[valid] = 1.0 - unit_range if conversion.startswith("depth = 1 -") else unit_range
    else:
        depth[valid] = 0.0
    return NormalisedDepth(
        depth=depth,
        minimum=float(values[valid].min()),
        maximum=float(values[valid].max()),
        conversion=conversion,
    )
