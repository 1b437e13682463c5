"""Decoding and resizing of photos: the one place that decides what the pixels of an image are."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.errors import SampleError
from cuts3d_cli.wording import first_line

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of RGB in [0, 1] over ImageNet, by which all the pretrained networks here want their images normalised."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of RGB in [0, 1] over ImageNet, likewise."""
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MIN_SIDE = 16
"""Images with a shorter side than this (pixels) are refused: a patch grid says nothing about them. Not in the paper."""


def decode_image(data: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Decode an encoded photo to upright 8-bit RGB.

    EXIF orientation is applied, so that width and height are those that a person sees. CMYK is converted, alpha is
    dropped, 16-bit gray is scaled to 8 bits (Pillow would clip it to white).

    Args:
        data: the bytes of a JPEG, PNG or WebP file.
        max_pixels: images with more are refused before they are decoded; at most `MAX_IMAGE_PIXELS`.

    Returns:
        An RGB image, fully decoded.

    Raises:
        SampleError: the data is empty, truncated, not an image, too large, or has a side under `MIN_SIDE` pixels.
    """
    if not data:
        raise SampleError("the image file is empty")
    try:
        with warnings.catch_warnings():
            # About metadata, and large images: they would stand between the lines of the command.
            warnings.simplefilter("ignore")
            image: Image.Image = Image.open(io.BytesIO(data))
            if image.width * image.height > max_pixels:
                raise SampleError(f"the image has {image.width}x{image.height} pixels, more than {max_pixels}")
            image.load()
            return upright_rgb(image)
    except SampleError:
        raise
    except Image.DecompressionBombError as error:
        raise SampleError(f"the image is too large: {first_line(error)}") from error
    except UnidentifiedImageError as error:  # whose message names an address in memory
        raise SampleError("this is not an image of a known format") from error
    except Exception as error:  # Pillow's decoders raise many types on damaged input; all mean the same here.
        raise SampleError(f"the image cannot be decoded: {first_line(error)}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image upright and in 8-bit RGB, as `decode_image` does.

    Args:
        image: of any mode; turned by its EXIF orientation where it carries one.

    Raises:
        SampleError: a side is under `MIN_SIDE` pixels.
    """
    image = ImageOps.exif_transpose(image)
    if min(image.size) < MIN_SIDE:
        raise SampleError(f"the image is {image.width}x{image.height}, a side is under {MIN_SIDE} pixels")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        image = Image.fromarray(np.clip(values / 257.0 + 0.5, 0, 255).astype(np.uint8))
    return image.convert("RGB")


def resize_square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Resize to a square without keeping the aspect ratio, by LANCZOS, as MaskCut and the paper do.

    Args:
        image: an RGB image.
        size: side of the result, pixels.

    Returns:
        (size, size, 3) uint8, RGB.
    """
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS), dtype=np.uint8)
