"""The focal length of a photo, and what the point cloud in perspective takes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from cuts3d_cli.config import CutSettings

FocalSource = Literal["intrinsics", "exif"]
FOCAL_SOURCES: tuple[FocalSource, ...] = get_args(FocalSource)
DEFAULT_FOCAL = 0.9
"""The focal length where nothing is known, in units of the photo's longer side: that of a phone or a depth camera."""
MIN_FOCAL, MAX_FOCAL = 0.2, 100.0
"""A photo's own focal length lies between these, in units of its longer side: 136 degrees, and a telescope."""


@dataclass(frozen=True, kw_only=True)
class Focal:
    """The focal length of a photo, in units of its sides: the same whatever size the photo is brought to.

    Attributes:
        x: fx / width.
        y: fy / height. In pixels, fx = fy nearly always, since pixels are square.
        source: "intrinsics": it was given with the photo; "exif": it stands in the photo's EXIF data.
    """

    x: float
    y: float
    source: FocalSource

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ValueError: no lens has such a focal length; the reason follows "it".
        """
        for value in (self.x, self.y):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"has a focal length of {value:g}")
        if not MIN_FOCAL <= self.longer <= MAX_FOCAL:
            raise ValueError(
                f"has a focal length of {self.longer:.3g} of the photo's longer side, which no lens has: fx and fy are"
                " in pixels of the photo"
            )

    @property
    def longer(self) -> float:
        """The focal length in units of the side over which the photo sees most, which is its longer one."""
        return min(self.x, self.y)


def in_pixels(fx: float, fy: float, *, size: tuple[int, int], source: FocalSource) -> Focal:
    """Return a focal length that is given in pixels.

    Args:
        fx, fy: along rows and along columns.
        size: (height, width) of the photo, pixels.
        source: where it comes from.

    Raises:
        ValueError: no lens has such a focal length; the reason follows "it".
    """
    return Focal(x=fx / size[1], y=fy / size[0], source=source)


def seen_by(known: Focal | None, *, size: tuple[int, int], settings: CutSettings) -> tuple[float, tuple[float, float]]:
    """Return how a photo is seen: what `perspective_cloud` takes besides its depth.

    A setting goes before what is known of the photo, which goes before the default; these two are taken as of square
    pixels. The principal point plays no part: it moves the cloud, and to first order does not change its slopes.

    Args:
        known: of the photo.
        size: (height, width) of the photo or its map.
        settings: of the cut.

    Returns:
        The focal length in units of the longer side, and (height, width) of what is seen at it, in any unit.
    """
    if settings.focal != "auto":
        return settings.focal, size
    if known is None:
        return DEFAULT_FOCAL, size
    return known.longer, (1.0 / known.y, 1.0 / known.x)
