"""Depth maps from the bytes of a 16-bit gray PNG, believing nothing that its header says."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.errors import SampleError
from cuts3d_cli.images import open_image
from cuts3d_cli.wording import first_line

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOURS = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGB with alpha"}


def decode_gray16(data: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS) -> NDArray[np.uint16]:
    """Read a PNG of one channel of 16 bits.

    Args:
        data: the file.
        max_pixels: a larger map is refused.

    Returns:
        (h, w) uint16.

    Raises:
        SampleError: this is no such file, or it is cut off or damaged.
    """
    if not data:
        raise SampleError("the depth map is empty")
    if len(data) < 33 or not data.startswith(_PNG_SIGNATURE) or data[12:16] != b"IHDR":
        raise SampleError("the depth map is not a PNG file")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits, colour = data[24], data[25]
    if (bits, colour) != (16, 0):
        kind = _PNG_COLOURS.get(colour, "unknown")
        reason = "256 levels are too few for depth" if colour == 0 else "a depth map has one channel"
        article = "an" if bits == 8 else "a"
        raise SampleError(f"the depth map is {article} {bits}-bit {kind} PNG, not 16-bit gray: {reason}")
    if width * height > max_pixels:
        raise SampleError(f"the depth map has {width}x{height} pixels, more than {max_pixels}")
    try:
        with open_image(data, formats=("PNG",)) as image:
            levels = np.asarray(image)
    except Exception as error:  # Pillow raises many types on damaged files; all mean the same here.
        raise SampleError(f"the depth map cannot be decoded: {first_line(error)}") from error
    return levels.astype(np.uint16)


def encode_gray16(levels: NDArray[np.uint16]) -> bytes:
    """Return (h, w) uint16 as a PNG without metadata: equal arrays give equal bytes by one version of Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(levels)).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
