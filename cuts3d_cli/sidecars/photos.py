"""A sample of a base shard: the photo, what is known of it, and the map of a depth sensor."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.errors import SampleError
from cuts3d_cli.images import IMAGE_EXTENSIONS, decode_image
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.fields import read_json
from cuts3d_cli.sidecars.npy import decode_npy
from cuts3d_cli.sidecars.png import decode_gray16


def photo(sample: Sample, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """The decoded photo of a sample.

    Args:
        sample: of a base shard.
        max_pixels: a photo with more is refused.

    Raises:
        SampleError: there is none, or it cannot be decoded.
    """
    _, data = image_member(sample)
    return decode_image(data, max_pixels=max_pixels)


def sensor_map(sample: Sample) -> NDArray[np.float32]:
    """The map of a depth sensor that was packed with an image.

    Returns:
        (h, w) float32, metres, NaN where nothing was measured.

    Raises:
        SampleError: the sample holds no map, or a damaged one.
    """
    if "sensor.npy" in sample.members:
        return decode_sensor_npy(sample.members["sensor.npy"])
    if "sensor.png" not in sample.members:
        raise SampleError("no sensor map is packed with the image")
    try:
        scale = float(json.loads(sample.members.get("json", b"{}"))["depth"]["scale"])
    except (ValueError, KeyError, TypeError) as error:
        raise SampleError("the sample's JSON does not say what a unit of its sensor map stands for") from error
    return decode_sensor_png(sample.members["sensor.png"], scale=scale)


def image_member(sample: Sample) -> tuple[str, bytes]:
    """Find the photo of a base sample.

    Args:
        sample: a sample of a base shard.

    Returns:
        Its extension, one of `images.IMAGE_EXTENSIONS`, and the encoded bytes.

    Raises:
        SampleError: the sample has no photo, or several.
    """
    found = [extension for extension in IMAGE_EXTENSIONS if extension in sample.members]
    if not found:
        raise SampleError(f"the sample has no image, only {', '.join(sorted(sample.members))}")
    if len(found) > 1:
        raise SampleError(f"the sample has several images: {', '.join(found)}")
    return found[0], sample.members[found[0]]


def image_facts(sample: Sample) -> dict[str, Any]:
    """What a base shard's JSON says of an image; `source` is at least its key."""
    facts = read_json(sample, "json") if "json" in sample.members else {}
    return {"source": sample.key, **facts}


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
    levels = decode_gray16(data, max_pixels=max_pixels)
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
