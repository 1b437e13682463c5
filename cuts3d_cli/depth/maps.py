"""Depth maps as arrays and bytes. Pure functions; a missing measurement is NaN in every array."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.depth.base import Direction, Unit
from cuts3d_cli.errors import SampleError
from cuts3d_cli.sidecars.npy import decode_npy
from cuts3d_cli.wording import first_line

PNG_STEPS = 65534
"""A stored map has the values 1 .. PNG_STEPS + 1 for 0.0 .. 1.0; 0 is a missing measurement."""
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOURS = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGB with alpha"}


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


def encode_depth_png(depth: NDArray[np.float32]) -> bytes:
    """Store a normalised map as a 16-bit gray PNG: 0 = no measurement, 1 .. 65535 = 0.0 .. 1.0, linear.

    Args:
        depth: (h, w) float in [0, 1], NaN where there is no measurement.

    Returns:
        The file. The same map gives the same bytes with the same version of Pillow; no date or text is
        inside.
    """
    missing = np.isnan(depth)
    values = np.where(missing, 0.0, depth).astype(np.float64)
    if values.ndim != 2 or values.min() < 0.0 or values.max() > 1.0:
        raise ValueError(f"a depth map to store is two-dimensional and in [0, 1], not {values.shape}")
    levels = np.rint(values * PNG_STEPS).astype(np.uint16) + np.uint16(1)
    levels[missing] = 0
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def decode_depth_png(data: bytes) -> NDArray[np.float32]:
    """Read a map that `encode_depth_png` stored; off by 1 / 65534 / 2 at most.

    Args:
        data: the file.

    Returns:
        (h, w) float32 in [0, 1], larger = farther, NaN where there is no measurement.

    Raises:
        SampleError: this is not a whole PNG of one channel of 16 bits.
    """
    levels = _decode_gray16(data)
    depth = ((levels.astype(np.float64) - 1.0) / PNG_STEPS).astype(np.float32)
    depth[levels == 0] = np.nan
    return depth


def decode_sensor_png(data: bytes, *, scale: float, max_pixels: int = MAX_IMAGE_PIXELS) -> NDArray[np.float32]:
    """Read a depth sensor's 16-bit PNG.

    Args:
        data: the file.
        scale: metres a unit: 0.001 where the file holds millimetres, 0.0002 for 5000 units a metre.
        max_pixels: a larger map is refused.

    Returns:
        (h, w) float32, metres, NaN where the file has 0.

    Raises:
        SampleError: this is not a whole PNG of one channel of 16 bits.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a positive number of metres a unit, not {scale}")
    levels = _decode_gray16(data, max_pixels=max_pixels)
    metres = (levels * float(scale)).astype(np.float32)
    metres[levels == 0] = np.nan
    return metres


def decode_sensor_npy(data: bytes) -> NDArray[np.float32]:
    """Read a depth sensor's map from a NumPy file of floats.

    Args:
        data: the bytes of a `.npy` file with an (h, w) array of float16, float32 or float64, metres.

    Returns:
        (h, w) float32, metres, NaN where the file has 0, a negative value, NaN or an infinity.

    Raises:
        SampleError: this is no such file. Pickled objects are never read.
    """
    try:
        array = decode_npy(data)
    except ValueError as error:
        raise SampleError(f"the depth map is not a whole .npy file of numbers: {error}") from error
    if array.ndim != 2 or array.size == 0:
        raise SampleError(f"the depth map has shape {array.shape}, not (height, width)")
    if array.dtype.kind != "f":
        raise SampleError(f"the depth map holds {array.dtype}, not floats in metres: store integers as a 16-bit PNG")
    with np.errstate(over="ignore"):
        metres = array.astype(np.float32)
    metres[~(np.isfinite(metres) & (metres > 0))] = np.nan
    return metres


def _decode_gray16(data: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS) -> NDArray[np.uint16]:
    if not data:
        raise SampleError("the depth map is empty")
    if len(data) < 33 or not data.startswith(_PNG_SIGNATURE) or data[12:16] != b"IHDR":
        raise SampleError("the depth map is not a PNG file")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits, colour = data[24], data[25]
    if (bits, colour) != (16, 0):
        kind = _PNG_COLOURS.get(colour, "unknown")
        reason = "256 levels are too few for depth" if colour == 0 else "a depth map has one channel"
        raise SampleError(f"the depth map is a {bits}-bit {kind} PNG, not 16-bit gray: {reason}")
    if width * height > max_pixels:
        raise SampleError(f"the depth map has {width}x{height} pixels, more than {max_pixels}")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            levels = np.asarray(image)
    except Exception as error:  # Pillow raises many types on damaged files; all mean the same here.
        raise SampleError(f"the depth map cannot be decoded: {first_line(error)}") from error
    return levels.astype(np.uint16)
