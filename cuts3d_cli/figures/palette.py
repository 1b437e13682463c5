"""Colours of instances: distinct, also for colour-blind readers, and strong on photos. Not in the paper."""

from __future__ import annotations

import math

RGB = tuple[int, int, int]

# Okabe and Ito's palette without black. What looks alike on a photo, as the two blues, comes far apart: few instances
# are the rule.
_BASE: tuple[RGB, ...] = (
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (0, 114, 178),
    (230, 159, 0),
)
_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
_LIGHTNESS = (0.52, 0.82, 0.66, 0.42)


def instance_colours(count: int) -> list[RGB]:
    """Return colours for `count` instances.

    The first colours are always the same: an instance keeps its colour when others are added.

    Args:
        count: at least 0.

    Returns:
        RGB triples, 0 to 255.

    Raises:
        ValueError: `count` is negative.
    """
    if count < 0:
        raise ValueError(f"count is {count}: it must not be negative")
    further = [
        _oklch(_LIGHTNESS[i % len(_LIGHTNESS)], 0.15, 0.6 + i * _GOLDEN_ANGLE) for i in range(count - len(_BASE))
    ]
    return [*_BASE, *further][:count]


def text_on(colour: RGB) -> RGB:
    """Return black or white, whichever is easier to read on a colour (by WCAG relative luminance)."""
    return (0, 0, 0) if relative_luminance(colour) > 0.179 else (255, 255, 255)


def relative_luminance(colour: RGB) -> float:
    """Compute the WCAG 2 relative luminance, in [0, 1]."""
    red, green, blue = (_to_linear(channel / 255) for channel in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _to_linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)


def _to_srgb(value: float) -> int:
    value = min(max(value, 0.0), 1.0)
    encoded = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    return round(255 * encoded)


def _oklch(lightness: float, chroma: float, hue: float) -> RGB:
    """Convert OKLCH (B. Ottosson's OKLab in polar form; hue in radians) to sRGB, clipped to the gamut."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _to_srgb(4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short),
        _to_srgb(-1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short),
        _to_srgb(-0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short),
    )
