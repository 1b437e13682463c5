"""Decoding and resizing of photos: the one place that opens image files and decides what their pixels are."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.errors import SampleError
from cuts3d_cli.image_kinds import no_photo
from cuts3d_cli.wording import first_line

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of RGB in [0, 1] over ImageNet, by which all the pretrained networks here want their images normalised."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of RGB in [0, 1] over ImageNet, likewise."""
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
PHOTO_FORMATS = ("JPEG", "PNG", "WEBP")
"""Pillow's names of the formats that are opened. No other decoder of Pillow's sees a file: that of EPS starts
Ghostscript, and each is one more that a stranger's file can attack."""
MIN_SIDE = 16
"""Images with a shorter side than this (pixels) are refused: a patch grid says nothing about them. Not in the paper."""
_ORIENTATION = 0x0112
_EXIF_FOLDER, _FOCAL_35MM, _EXIF_SIDES = 0x8769, 0xA405, (0xA002, 0xA003)
_SAME_ASPECT = 0.01
"""A photo whose aspect ratio differs from the one in its EXIF data by more than this part was cropped since."""
_TURNS: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what brings the stored pixels upright; 1 and unknown ones need nothing."""
SWAPS_SIDES = (5, 6, 7, 8)
"""EXIF orientations of photos that are stored with width and height exchanged."""


class Upright(NamedTuple):
    """A decoded photo.

    Attributes:
        image: upright 8-bit RGB, without metadata.
        orientation: the EXIF orientation that it was turned by, 1 to 8; 1 where the pixels are stored upright.
        focal_35mm: the focal length in millimetres of a lens that sees as much on 35 mm film, as EXIF has it; None
            where it is not known.
    """

    image: Image.Image
    orientation: int
    focal_35mm: float | None = None


def open_image(source: Path | bytes, *, formats: tuple[str, ...] = PHOTO_FORMATS) -> Image.Image:
    """Open an image file by the named decoders alone; pixels are decoded later. A context manager.

    Args:
        source: path or content of the file.
        formats: as Pillow calls them.

    Raises:
        OSError, and what Pillow's decoders raise: the file is of another format, or damaged.
    """
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)


def decode_image(data: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS, upright: bool = True) -> Image.Image:
    """Decode a photo as `decode_upright` does and return its pixels alone.

    Args:
        data, max_pixels: as for `decode_upright`.
        upright: apply the EXIF orientation; else the pixels stay as they are stored.
    """
    return _decoded(data, max_pixels=max_pixels, upright=upright).image


def decode_upright(data: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Upright:
    """Decode an encoded photo to upright 8-bit RGB.

    EXIF orientation is applied, so that width and height are those that a person sees. CMYK is converted, alpha is
    dropped, 16-bit gray is scaled to 8 bits (Pillow would clip it to white). Of an animation the first image is taken.

    Args:
        data: the bytes of a JPEG, PNG or WebP file.
        max_pixels: images with more are refused before they are decoded; at most `MAX_IMAGE_PIXELS`.

    Returns:
        The photo, fully decoded.

    Raises:
        SampleError: the data is empty, truncated, not an image, too large, or has a side under `MIN_SIDE` pixels.
    """
    return _decoded(data, max_pixels=max_pixels, upright=True)


def _decoded(data: bytes, *, max_pixels: int, upright: bool) -> Upright:
    if not data:
        raise SampleError("the image file is empty")
    try:
        with warnings.catch_warnings():
            # About metadata, and large images: they would stand between the lines of the command.
            warnings.simplefilter("ignore")
            image = open_image(data)
            if image.width * image.height > max_pixels:
                raise SampleError(f"the image has {image.width}x{image.height} pixels, more than {max_pixels}")
            image.load()
            return upright_rgb(image) if upright else Upright(_rgb(image), 1)
    except SampleError:
        raise
    except Image.DecompressionBombError as error:
        raise SampleError(f"the image is too large: {first_line(error)}") from error
    except UnidentifiedImageError as error:  # whose message names an address in memory
        raise SampleError(no_photo(data) or "this is not an image of a known format") from error
    except Exception as error:  # Pillow's decoders raise many types on damaged input; all mean the same here.
        raise SampleError(f"the image cannot be decoded: {first_line(error)}") from error


def upright_rgb(image: Image.Image) -> Upright:
    """Bring an image upright and to 8-bit RGB, as `decode_upright` does.

    Args:
        image: of any mode; turned by its EXIF orientation where it carries one.

    Raises:
        SampleError: a side is under `MIN_SIDE` pixels.
    """
    orientation = exif_orientation(image)
    turn = _TURNS.get(orientation)
    focal = exif_focal_35mm(image)
    return Upright(_rgb(image if turn is None else image.transpose(turn)), orientation, focal)


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 where it has none.

    Of EXIF data that is damaged elsewhere the orientation alone is read.
    """
    found: Any
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # Pillow parses all of it, and raises many types on what is damaged.
        found = None
    if found is None:
        found = _orientation_entry(image.info.get("exif"))
    return int(found) if found in _TURNS else 1


def exif_focal_35mm(image: Image.Image) -> float | None:
    """Return the focal length on 35 mm film that the EXIF data of an image has (FocalLengthIn35mmFilm), millimetres.

    Returns:
        The length; None where there is none, or 0, which means unknown; where the data are damaged; and where they are
        of an image of another aspect ratio, since whoever cropped it left the focal length as it was.
    """
    try:
        entries = image.getexif().get_ifd(_EXIF_FOLDER)
        focal = float(entries.get(_FOCAL_35MM) or 0)
        sides = [float(entries.get(tag) or 0) for tag in _EXIF_SIDES]
    except Exception:  # Pillow parses all of it, and raises many types on what is damaged.
        return None
    if not (math.isfinite(focal) and focal > 0):
        return None
    if all(math.isfinite(side) and side > 0 for side in sides):
        # Some programs write the sides of the upright image, others those of the stored one.
        ratio = max(sides) * min(image.size) / (min(sides) * max(image.size))
        if not 1 / (1 + _SAME_ASPECT) <= ratio <= 1 + _SAME_ASPECT:
            return None
    return focal


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) in pixels of an opened image as it is once its EXIF orientation is applied."""
    return image.size[::-1] if exif_orientation(image) in SWAPS_SIDES else image.size


def turned_upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an array that lies as the stored pixels of a photo do, as its EXIF orientation turns the photo.

    Args:
        values: (h, w, ...).
        orientation: of EXIF, 1 to 8.

    Returns:
        The array upright: (w, h, ...) for orientations 5 to 8.
    """
    if orientation in SWAPS_SIDES:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def resize_square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Resize to a square without keeping the aspect ratio, by LANCZOS, as MaskCut and the paper do.

    Args:
        image: an RGB image.
        size: side of the result, pixels.

    Returns:
        (size, size, 3) uint8, RGB.
    """
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS), dtype=np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    """Return an image in 8-bit RGB, without the metadata that would have it turned once more."""
    if min(image.size) < MIN_SIDE:
        raise SampleError(f"the image is {image.width}x{image.height}, a side is under {MIN_SIDE} pixels")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        image = Image.fromarray(np.clip(values / 257.0 + 0.5, 0, 255).astype(np.uint8))
    plain = image.convert("RGB")
    plain.info.clear()
    return plain


def _orientation_entry(exif: object) -> int | None:
    """Find the orientation among the entries of the first directory of EXIF data, whatever else is damaged."""
    if not isinstance(exif, bytes):
        return None
    data = exif.removeprefix(b"Exif\0\0")
    little = data.startswith(b"II")
    if not little and not data.startswith(b"MM"):
        return None

    def whole(start: int, size: int) -> int:
        return int.from_bytes(data[start : start + size], "little" if little else "big")

    first = whole(4, 4) + 2
    for start in range(first, min(first + 12 * whole(first - 2, 2), len(data) - 11), 12):
        if whole(start, 2) == _ORIENTATION:
            return whole(start + 8, 4 if whole(start + 2, 2) == 4 else 2)
    return None
