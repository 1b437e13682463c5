"""What people hand over as an image or a depth map, as the arrays that all else works on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.api.cutter import to_stored_precision
from cuts3d_cli.depth.maps import has_aspect_of, normalise
from cuts3d_cli.errors import SampleError, SettingError
from cuts3d_cli.images import decode_image, upright_rgb
from cuts3d_cli.wording import first_line

ImageLike = Image.Image | NDArray[np.uint8] | str | os.PathLike[str]
"""A photo: a PIL image, (h, w, 3) or (h, w) uint8 in RGB or gray, or the path of a JPEG, PNG or WebP file."""
DepthUnit = Literal["metre", "relative"]


def to_photo(image: ImageLike) -> Image.Image:
    """Return a photo as an upright RGB image.

    Args:
        image: as `ImageLike`. EXIF orientation is applied to files and to PIL images that carry it.

    Raises:
        SettingError: it is something else.
        SampleError: the file cannot be read or decoded, or a side is too short.
    """
    if isinstance(image, Image.Image):
        return _photo_of_pillow(image)
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SampleError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise SettingError("image", f"is {str(path)!r}: that is no path, {first_line(error)}") from error
        try:
            return decode_image(data)
        except SampleError as error:
            raise SampleError(f"{path}: {error}") from error
    if not isinstance(image, np.ndarray):
        raise SettingError("image", f"is a {type(image).__name__}: give a PIL image, a uint8 array, or a path")
    if image.dtype != np.uint8:
        raise SettingError("image", f"is an array of {image.dtype}: give uint8, 0 to 255")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3):
        return upright_rgb(Image.fromarray(np.ascontiguousarray(image)))
    raise SettingError("image", f"is an array of shape {image.shape}: give (h, w, 3), RGB, or (h, w), gray")


def _photo_of_pillow(image: Image.Image) -> Image.Image:
    """Return a PIL image upright and in RGB. Its file may not have been decoded yet.

    Raises:
        SettingError: its values are floats, of which nobody knows the range.
        SampleError: it cannot be decoded, or a side is too short.
    """
    if image.mode == "F":
        raise SettingError("image", "is a PIL image of mode F, of floats: give 8 bits, 0 to 255")
    try:
        return upright_rgb(image)
    except SampleError:
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged input, and on a file that was closed.
        raise SampleError(f"the image cannot be decoded: {first_line(error)}") from error


def to_depth(depth: Any, *, size: tuple[int, int], unit: DepthUnit, larger_is_nearer: bool) -> NDArray[np.float32]:
    """Return a depth map as the cut takes it.

    Args:
        depth: (h, w) of numbers. 0, negative, NaN, infinite and masked values are missing measurements; with a relative
            `larger_is_nearer` map 0 and negative values are values like any other.
        size: (height, width) of the photo.
        unit: "metre", or any other unit of length; "relative": known up to scale and shift.
        larger_is_nearer: the map holds disparities (inverse depth) in place of distances.

    Returns:
        (h, w) float32 in [0, 1], larger is farther, NaN where nothing was measured; of the map's own size.

    Raises:
        SettingError: it is no map, or of another aspect ratio than the photo.
        SampleError: no pixel is valid.
    """
    if unit not in ("metre", "relative"):
        raise SettingError("depth_unit", f"is {unit!r}: choose one of metre, relative")
    if not isinstance(larger_is_nearer, bool | np.bool_):
        raise SettingError("larger_is_nearer", f"is {larger_is_nearer!r}: it must be True or False")
    try:
        values = np.asarray(depth)
    except (RuntimeError, TypeError, ValueError) as error:  # ragged lists, and tensors with a gradient or on a GPU
        raise SettingError("depth", f"is no array: {first_line(error)}") from error
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
        raise SettingError("depth", f"is an array of {values.dtype} of shape {values.shape}: give (h, w) of numbers")
    if np.ma.is_masked(depth):
        values = np.where(np.ma.getmaskarray(depth).reshape(values.shape), np.nan, values)
    if not has_aspect_of(size, (values.shape[0], values.shape[1])):
        raise SettingError(
            "depth",
            f"is {values.shape[1]}x{values.shape[0]}, the image {size[1]}x{size[0]}: a map must show the same view, in"
            " the same orientation",
        )
    stored = normalise(
        values,
        direction="disparity" if larger_is_nearer else "distance",
        unit=unit,
        zero_is_missing=not (larger_is_nearer and unit == "relative"),
    ).depth
    return to_stored_precision(stored)
