"""What people hand over as an image or a depth map, as the arrays that all else works on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.api.cutter import to_stored_precision
from cuts3d_cli.depth.base import Direction, Unit
from cuts3d_cli.depth.fitting import MapRules, TurnedMapError, as_map, fit_map, remarks
from cuts3d_cli.depth.maps import DepthMap, normalise
from cuts3d_cli.errors import SampleError, Setting, SettingError
from cuts3d_cli.images import Upright, decode_upright, upright_rgb
from cuts3d_cli.wording import Say, choose_one, first_line

ImageLike = Image.Image | NDArray[np.uint8] | str | os.PathLike[str]
"""A photo: a PIL image, (h, w, 3) or (h, w) uint8 in RGB or gray, or the path of a JPEG, PNG or WebP file."""
DepthUnit = Literal["metre", "millimetre", "relative"]
"""What the values of a depth map are in; "relative": known up to scale and shift."""
_UNITS = {"mm": "millimetre", "millimeter": "millimetre", "m": "metre", "meter": "metre"}
"""What people write -> the unit that they mean."""
FARTHEST_METRES = 100.0
"""A map of whole numbers whose median lies over this is not in metres: half of what a photo shows is rarely so far
away, and then a sensor or a network gives fractions."""


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
        raise SettingError("image", f"is a {type(image).__name__}: {_as_array(image)}")
    if image.dtype != np.uint8:
        from_floats = ", as (255 * image).astype(np.uint8) does of 0 to 1" if image.dtype.kind == "f" else ""
        raise SettingError("image", f"is an array of {image.dtype}: give uint8, 0 to 255{from_floats}")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3):
        return upright_rgb(Image.fromarray(np.ascontiguousarray(image)))
    problem = f"is an array of shape {image.shape}: give (h, w, 3), RGB, or (h, w), gray"
    raise SettingError("image", problem + _as_rgb(image.shape))


def _as_array(image: Any) -> str:
    """Return what to give in place of something that is no image, to end an error."""
    shape = getattr(image, "shape", None)
    if shape is None:
        return "give a PIL image, a uint8 array, or a path"
    # A tensor of torch, JAX or TensorFlow; torch's photos are (3, h, w), mostly floats.
    wanted = "give a NumPy array, (h, w, 3) of uint8 in RGB"
    if not callable(getattr(image, "permute", None)):
        return f"{wanted}, as np.asarray(image) makes one"
    scaled = "image" if str(getattr(image, "dtype", "")).endswith("uint8") else "(255 * image).byte()"
    order = ".permute(1, 2, 0)" if len(shape) == 3 and shape[0] in (1, 3) else ""
    return f"{wanted}, as {scaled}{order}.cpu().numpy() is"


def _as_rgb(shape: tuple[int, ...]) -> str:
    """Return how to make a photo of an array of another shape, to end an error; nothing where that is unclear."""
    if len(shape) == 3 and shape[2] == 4:
        return "; image[..., :3] leaves out an alpha channel"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return f"; image[:3].transpose(1, 2, 0) brings ({shape[0]}, h, w) there"
    if len(shape) == 4:
        return "; give one photo at a time, as in image[0], or many to batch"
    return ""


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
    check_metres: bool = False,
) -> DepthMap:
    """Return a depth map as the cut takes it.

    Args:
        depth: (h, w) of numbers. 0, negative, NaN, infinite and masked values are missing measurements; with a relative
            `larger_is_nearer` map 0 and negative values are values like any other.
        photo: of the same view.
        unit: "metre", "millimetre", or "relative": known up to scale and shift. Of disparities it is the inverse.
        larger_is_nearer: the map holds disparities (inverse depth) in place of distances.
        rules: of further missing values, and of the orientation; the automatic ones by default.
        say: receives what is doubtful about the map.
        check_metres: refuse whole numbers as metres that can be none; see `FARTHEST_METRES`. The masks would be the
            same, since the cut depends on no unit of length, but a program that is wrong about it errs elsewhere.

    Returns:
        The map, of its own size.

    Raises:
        SettingError: it is no map, of another aspect ratio than the photo, or not in metres.
        SampleError: no pixel is valid.
    """
    # Check the arguments.
    if unit not in get_args(DepthUnit):
        raise SettingError("depth_unit", f"is {unit!r}: {_choose_unit(unit)}")
    if not isinstance(larger_is_nearer, bool | np.bool_):
        raise SettingError("larger_is_nearer", f"is {larger_is_nearer!r}: it must be True or False")
    if isinstance(depth, str | bytes | os.PathLike):
        raise SettingError("depth", f"is {depth!r}, and files of maps are not read: give {_loaded(depth)}")
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
    if check_metres and unit == "metre" and not larger_is_nearer:
        _check_metres(raw)
    source: Unit = "relative" if unit == "relative" else "metre"
    if unit == "millimetre":
        raw = raw * 1000.0 if larger_is_nearer else raw / 1000.0
    found = normalise(raw, direction=direction, unit=source, zero_is_missing=has_no_zero)
    return to_stored_precision(found, direction=direction, unit=source)


def _choose_unit(unit: object) -> str:
    """Return which units there are, and which one was meant, to end an error."""
    short = unit.lower().removesuffix("s") if isinstance(unit, str) else ""
    return choose_one(_UNITS.get(short, short), get_args(DepthUnit))


def _loaded(file: str | bytes | os.PathLike[Any]) -> str:
    """Return how to load a file of a depth map, by its ending, to end an error."""
    name = os.fsdecode(file)
    if name.lower().endswith(".npy"):
        return f"an array, as np.load({name!r}) does"
    picture = f"an array, as np.asarray(PIL.Image.open({name!r})) does"
    return f"{picture}, with depth_unit='millimetre' where it is a PNG of 16 bits, as of most depth cameras"


def _check_metres(raw: NDArray[np.floating[Any]]) -> None:
    """Refuse whole numbers that can be no metres.

    Raises:
        SettingError: their median is too large.
    """
    measured = raw[np.isfinite(raw)]
    if not measured.size or (median := float(np.median(measured))) <= FARTHEST_METRES or (measured % 1).any():
        return
    problem = f"is 'metre', but the depth map holds whole numbers with a median of {median:g}"
    way_out = "if they are millimetres, give depth_unit='millimetre', or divide them by 1000"
    raise SettingError("depth_unit", f"{problem}: {way_out}")
