"""Which values of a depth map are no measurements. Not in the paper.

Cameras and data sets mark a missing measurement by 0, a negative number, NaN or infinity, or by a value that no
distance can have: 65535 in 7-Scenes and 2D-3D-S, the largest value of the type elsewhere, 1e10 behind a rendered scene.
Taken for a distance, such a value becomes the farthest point and squeezes all real depth into a sliver.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.errors import SettingError

AUTO = "auto"
"""The rule that finds such values by itself; see `find_missing`."""
LIMIT_GAP = 1.5
"""A type's largest value is no distance if it is farther than the next value by this factor."""
OUTLIER_GAP = 10.0
"""Nor is any other value that several pixels share, at this factor: all else would lie in the nearest tenth."""
TOP_HEAVY = 0.1
"""Share of the measured pixels from which on it is worth a word that all of them have the largest value."""
_MOST_VALUES = 3
_LIMITS = (
    *(float(2**bits - 1) for bits in (11, 12, 13, 14, 15, 16, 31, 32)),
    *(float(np.finfo(kind).max) for kind in (np.float16, np.float32, np.float64)),
    65.535,  # the largest value of 16 bits, millimetres, in metres
)


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What is missing in a depth map.

    Attributes:
        pixels: (h, w) bool, True where nothing was measured.
        values: the values, in the map's own unit, that mean so here besides 0, negative and non-finite ones.
        top: the largest value that counts as measured; NaN where nothing is.
        top_share: share of the measured pixels that have it, in [0, 1].
    """

    pixels: NDArray[np.bool_]
    values: tuple[float, ...]
    top: float
    top_share: float


def invalid_values(given: object, *, setting: str) -> tuple[float, ...] | None:
    """Read the setting that names the values of missing measurements.

    Args:
        given: "auto", or numbers: as text, as in "65535" or "65535,1e10", one alone, or several.
        setting: its name, for errors.

    Returns:
        The values; None for "auto".

    Raises:
        SettingError: it is something else.
    """
    if isinstance(given, str) and given.strip().lower() == AUTO:
        return None
    parts: Iterable[Any] = (given,)
    if isinstance(given, str):
        parts = given.split(",")
    elif isinstance(given, Iterable):
        parts = given
    try:
        return tuple(float(part) for part in parts)
    except (TypeError, ValueError, OverflowError) as error:
        problem = f"is {given!r}: give 'auto', or the values that mean 'not measured', as in 65535 or 65535,1e10"
        raise SettingError(setting, problem) from error


def find_missing(
    values: NDArray[Any], *, invalid: Sequence[float] | None, zero_is_missing: bool = True, distances: bool = True
) -> Missing:
    """Find the pixels of a depth map at which nothing was measured.

    NaN and infinities are always missing. By the automatic rule so is the largest value of the map if it stands apart
    from all others: the largest that its type or a type of 11 to 32 bits can hold, from `LIMIT_GAP` on; any other that
    several pixels share, from `OUTLIER_GAP` on. The rule is asked again of what is left, up to three times.

    Args:
        values: (h, w), any real dtype, in the map's own unit.
        invalid: the values that mean "not measured", in place of the automatic rule; None follows the rule.
        zero_is_missing: take 0 and negative values as missing too.
        distances: larger is farther. Of disparities a large value may be near, so only the limits of types count.

    Returns:
        What is missing.
    """
    is_float = values.dtype.kind == "f"
    pixels = ~np.isfinite(values) if is_float else np.zeros(values.shape, dtype=bool)
    if zero_is_missing:
        pixels |= values <= 0
    taken: list[float] = []
    # The values that were named, each as it is in the type of the map.
    for value in invalid or ():
        hit = (np.isclose(values, value, rtol=1e-6, atol=0.0) if is_float else values == value) & ~pixels
        if hit.any():
            pixels |= hit
            taken.append(value)
    # The largest value, while it stands apart.
    while True:
        measured = values[~pixels]
        if not measured.size:
            return Missing(pixels=pixels, values=tuple(taken), top=float("nan"), top_share=0.0)
        top = measured.max()
        below = measured[measured < top]
        count = measured.size - below.size
        if invalid is None and len(taken) < _MOST_VALUES and _stands_apart(top, below, count, distances=distances):
            pixels |= values == top
            taken.append(float(top))
            continue
        share = count / measured.size
        return Missing(pixels=pixels, values=tuple(taken), top=float(top), top_share=share)


def _stands_apart(top: Any, below: NDArray[Any], count: int, *, distances: bool) -> bool:
    """Return whether the largest value, which `count` pixels have, is too far from all below it to be a distance."""
    # 8 bits hold no measurements, but pictures of them, in which the largest value is used.
    limits = top.dtype.itemsize > 1 and bool(np.isclose(float(top), _LIMITS, rtol=1e-6, atol=0.0).any())
    if not below.size:
        return limits
    gap = float(top) / float(below.max()) if below.max() > 0 else float("inf")
    return (limits and gap >= LIMIT_GAP) or (distances and count > 1 and below.max() > 0 and gap >= OUTLIER_GAP)


def in_unit(values: NDArray[Any], missing: Missing, *, scale: float = 1.0) -> NDArray[np.float32]:
    """Return a map times a scale.

    Args:
        values: (h, w), any real dtype.
        missing: what `find_missing` found in it.
        scale: of one unit of the map.

    Returns:
        (h, w) float32, NaN where nothing was measured or the product is too large.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (values * float(scale)).astype(np.float32)
    scaled[missing.pixels | ~np.isfinite(scaled)] = np.nan
    return scaled
