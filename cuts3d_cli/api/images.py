"""What people hand over as an image or a depth map, as the arrays that all else works on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.api.cutter import to_stored_precision
from cuts3d_cli.depth.base import Direction
from cuts3d_cli.depth.fitting import MapRules, TurnedMapError, as_map, fit_map, remarks
from cuts3d_cli.depth.maps import DepthMap, normalise
from cuts3d_cli.errors import SampleError, Setting, SettingError
from cuts3d_cli.images import Upright, decode_upright, upright_rgb
from cuts3d_cli.wording import Say, first_line

ImageLike = Image.Image | NDArray[np.uint8] | str | os.PathLike[str]
"""A photo: a PIL image, (h, w, 3) or (h, w) uint8 in RGB or gray, or the path of a JPEG, PNG or WebP file."""
DepthUnit = Literal["metre", "relative"]


def to_photo(image: ImageLike) -> Upright:
    """Return a photo as an upright RGB image, with the EXIF orientation that it was turned by.

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
            return decode_upright(data)
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


def _photo_of_pillow(image: Image.Image) -> Upright:
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


def to_depth(
    depth: Any,
    photo: Upright,
    *,
    unit: DepthUnit,
    larger_is_nearer: bool,
    rules: MapRules | None = None,
    say: Say | None = None,
) -> DepthMap:
    """Return a depth map as the cut takes it.

    Args:
        depth: (h, w) of numbers. 0, negative, NaN, infinite and masked values are missing measurements; with a relative
            `larger_is_nearer` map 0 and negative values are values like any other.
        photo: of the same view.
        unit: "metre", or any other unit of length; "relative": known up to scale and shift.
        larger_is_nearer: the map holds disparities (inverse depth) in place of distances.
        rules: of further missing values, and of the orientation; the automatic ones by default.
        say: receives what is doubtful about the map.

    Returns:
        The map, of its own size.

    Raises:
        SettingError: it is no map, or of another aspect ratio than the photo.
        SampleError: no pixel is valid.
    """
    # Check the arguments.
    if unit not in ("metre", "relative"):
        raise SettingError("depth_unit", f"is {unit!r}: choose one of metre, relative")
    if not isinstance(larger_is_nearer, bool | np.bool_):
        raise SettingError("larger_is_nearer", f"is {larger_is_nearer!r}: it must be True or False")
    if isinstance(depth, str | bytes | os.PathLike):
        example = "np.load('depth.npy') or np.asarray(PIL.Image.open('depth.png'))"
        raise SettingError("depth", f"is {depth!r}, and files of maps are not read: give an array, as {example} does")
    try:
        given = np.asarray(depth)
    except (RuntimeError, TypeError, ValueError) as error:  # ragged lists, and tensors with a gradient or on a GPU
        raise SettingError("depth", f"is no array: {first_line(error)}") from error
    if np.ma.is_masked(depth):
        given = np.where(np.ma.getmaskarray(depth).reshape(given.shape), np.nan, given)
    # Fit the map to the photo.
    rules, has_no_zero = rules or MapRules(), not (larger_is_nearer and unit == "relative")
    try:
        fitted = fit_map(
            as_map(given), photo, rules=rules, zero_is_missing=has_no_zero, larger_is_nearer=bool(larger_is_nearer)
        )
    except TurnedMapError as error:
        way_out = (Setting("depth_orientation", "stored"), " turns it along")
        raise SettingError("depth", f"{error}; ", *way_out) from error
    except SampleError as error:
        raise SettingError("depth", str(error)) from error
    if say:
        for line in remarks(fitted, rules=rules):
            say(line)
    # Bring it to [0, 1].
    direction: Direction = "disparity" if larger_is_nearer else "distance"
    raw = np.where(fitted.missing.pixels, np.nan, fitted.values)
    found = normalise(raw, direction=direction, unit=unit, zero_is_missing=has_no_zero)
    return to_stored_precision(found, direction=direction, unit=unit)
