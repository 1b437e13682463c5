"""The intrinsics of cameras: what people and programs write of them, and the focal length of a photo that follows."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cuts3d_cli.cut.focal import Focal, in_pixels
from cuts3d_cli.depth.maps import has_aspect_of
from cuts3d_cli.errors import SampleError
from cuts3d_cli.images import SWAPS_SIDES, Upright
from cuts3d_cli.json_reading import is_number

FILM_DIAGONAL = math.hypot(36.0, 24.0)
"""Diagonal of 35 mm film, millimetres."""
_FX = ("fx", "fl_x", "f_x", "focal_x", "focal_length_x", "Camera.fx", "Camera1.fx")
_FY = ("fy", "fl_y", "f_y", "focal_y", "focal_length_y", "Camera.fy", "Camera1.fy")
_F = ("focal_length", "focal", "f", "fl")
_CX = ("cx", "ppx", "c_x", "principal_point_x", "Camera.cx", "Camera1.cx")
_CY = ("cy", "ppy", "c_y", "principal_point_y", "Camera.cy", "Camera1.cy")
_WIDTH = ("width", "w", "image_width", "img_width", "Camera.width")
_HEIGHT = ("height", "h", "image_height", "img_height", "Camera.height")
_MATRIX = ("K", "k", "cam_K", "camera_matrix", "cameraMatrix", "intrinsic_matrix")
_INNER = ("camera", "intrinsics", "intrinsic", "camera_intrinsics", "camera_intrinsic")
"""Names under which files have a camera: those of BOP, OpenCV, ROS, Open3D, RealSense, ORB-SLAM, nerfstudio, ..."""
_MIDDLE = (0.25, 0.75)
"""Where the principal point lies in a photo of the size that fx and fy are of, in units of its sides."""
_LEVELS = 3
"""Objects around a camera, as in {"camera": {"intrinsics": {...}}}."""
_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """A camera without distortion.

    Attributes:
        fx, fy: focal length in pixels, along rows and along columns.
        centre: (cx, cy), the principal point in pixels; None where it is not given.
        size: (height, width) of the photos that these pixels are of; None: of each photo's own.
    """

    fx: float
    fy: float
    centre: tuple[float, float] | None = None
    size: tuple[int, int] | None = None


def is_camera(value: Any) -> bool:
    """Return whether a parsed JSON object has a camera's fields, whatever their values are."""
    return isinstance(value, Mapping) and any(
        value.get(name) is not None for names in (_FX, _FY, _F, _MATRIX, _INNER) for name in names
    )


def parse_camera(value: Any) -> Intrinsics:
    """Read a camera as people and programs write it.

    Args:
        value: plain JSON values: an object with fx, fy and, if they are known, cx, cy, width and height, or with a
            matrix (`K`, `cam_K`, `camera_matrix`, `intrinsic_matrix`, ...), by rows or by columns; the four numbers
            fx, fy, cx, cy; or the numbers of a 3x3, 3x4 or 4x4 matrix.

    Raises:
        ValueError: it is none; the reason follows "it", as in "has -3 for fx".
    """
    return _parse(value, levels=_LEVELS)


def _parse(value: Any, *, levels: int) -> Intrinsics:
    if isinstance(value, Mapping):
        return _of_fields(value, levels=levels)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return _of_numbers(value)
    raise ValueError(f"is no camera: {_short(value)}")


def focal_of(camera: Intrinsics, photo: Upright) -> Focal:
    """Return the focal length of a photo that was taken with a camera.

    A photo of another resolution than the camera's has the same focal length in units of its sides. Of a photo that
    EXIF turns by a quarter, the camera may be that of the pixels as they are stored: its size tells, else its
    principal point.

    Args:
        camera: its intrinsics.
        photo: upright.

    Raises:
        SampleError: the camera is of photos of another aspect ratio, or no lens has such a focal length.
    """
    size = (photo.image.height, photo.image.width)
    ways = [camera, _turned(camera)] if photo.orientation in SWAPS_SIDES else [camera]
    fitting = [way for way in ways if _misfit(way, size) is None]
    if not fitting:
        raise SampleError(f"its camera {_misfit(camera, size)}")
    chosen = fitting[0]
    try:
        return in_pixels(chosen.fx, chosen.fy, size=chosen.size or size, source="intrinsics")
    except ValueError as error:
        raise SampleError(f"its camera {error}") from error


def exif_focal(millimetres: float | None, *, size: tuple[int, int]) -> Focal | None:
    """Return the focal length of a photo from the one on 35 mm film that its EXIF data have.

    Two lenses are equivalent that see as much along the diagonal, whatever the aspect ratio (CIPA DCG-001): 27 mm are
    0.78 of the longer side of a photo of 4:3, and 0.75 of one of 3:2, which is that of the film.

    Args:
        millimetres: as `cuts3d_cli.images.Upright` has it, or None.
        size: (height, width) of the photo, pixels.

    Returns:
        The focal length; None where it is not known, or none of a lens.
    """
    if millimetres is None:
        return None
    pixels = millimetres / FILM_DIAGONAL * math.hypot(*size)
    try:
        return in_pixels(pixels, pixels, size=size, source="exif")
    except ValueError:  # what cameras and programs write there is no more than a hint
        return None


def _misfit(camera: Intrinsics, size: tuple[int, int]) -> str | None:
    """Return why a photo of a (height, width) cannot be the camera's, to follow "its camera"; None if it can."""
    photo = f"it is {size[1]}x{size[0]}"
    if camera.size is not None:
        fits = has_aspect_of(size, camera.size)
        return None if fits else f"takes photos of {camera.size[1]}x{camera.size[0]}, and {photo}"
    if camera.centre is not None:
        shares = (camera.centre[0] / size[1], camera.centre[1] / size[0])
        if not all(_MIDDLE[0] < share < _MIDDLE[1] for share in shares):
            centre = f"({camera.centre[0]:g}, {camera.centre[1]:g})"
            way_out = "if fx and fy are of another resolution, give its width and height along"
            return f"has its principal point at {centre}, far from the middle of the photo, and {photo}: {way_out}"
    return None


def _turned(camera: Intrinsics) -> Intrinsics:
    """Return a camera for photos that are turned by a quarter."""
    return Intrinsics(
        fx=camera.fy,
        fy=camera.fx,
        centre=None if camera.centre is None else camera.centre[::-1],
        size=None if camera.size is None else camera.size[::-1],
    )


def _of_fields(fields: Mapping[str, Any], *, levels: int) -> Intrinsics:
    size = _size(fields)
    # Numbers with names.
    if _has(fields, _FX) or _has(fields, _FY):
        fx, fy = (_positive(fields, names) for names in (_FX, _FY))
        return Intrinsics(fx=fx, fy=fy, centre=_centre(fields), size=size)
    # A matrix, or a camera in the object.
    if name := _has(fields, _MATRIX):
        value = fields[name]
        found = _of_numbers(value["data"] if isinstance(value, Mapping) and "data" in value else value)
        return Intrinsics(fx=found.fx, fy=found.fy, centre=found.centre, size=size)
    if levels and (name := _has(fields, _INNER)):
        found = _parse(fields[name], levels=levels - 1)
        return Intrinsics(fx=found.fx, fy=found.fy, centre=found.centre, size=found.size or size)
    if name := _has(fields, _F):
        if isinstance(fields[name], list) and len(fields[name]) == 2:
            fx, fy = (_positive({name: item}, (name,)) for item in fields[name])
        else:
            fx = fy = _positive(fields, (name,))
        return Intrinsics(fx=fx, fy=fy, centre=_centre(fields), size=size)
    raise ValueError("is no camera: it has no fx and fy, and no matrix K")


def _of_numbers(value: Any) -> Intrinsics:
    """Read fx, fy, cx, cy, or a matrix: nested, or flat, by rows or by columns."""
    rows = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    nested = bool(rows) and all(isinstance(row, list | tuple) for row in rows)
    flat = [item for row in rows for item in row] if nested else list(rows)
    if not all(map(is_number, flat)):
        raise ValueError(f"is no camera: {_short(value)} are not all numbers")
    numbers = [float(item) for item in flat]
    if len(numbers) == 4 and not nested:
        fx, fy, cx, cy = numbers
    else:
        fx, fy, cx, cy = _of_matrix(numbers, width=len(rows[0]) if nested else {9: 3, 12: 4, 16: 4}.get(len(numbers)))
    named = {"fx": fx, "fy": fy}
    return Intrinsics(fx=_positive(named, ("fx",)), fy=_positive(named, ("fy",)), centre=(cx, cy))


def _of_matrix(numbers: Sequence[float], *, width: int | None) -> tuple[float, float, float, float]:
    """Return fx, fy, cx and cy of a flat matrix of `width` columns, or of its transpose."""
    if width is not None and (width, len(numbers)) in ((3, 9), (4, 12), (4, 16)):
        rows = [numbers[start : start + width] for start in range(0, len(numbers), width)]
        for matrix in (rows, [list(column) for column in zip(*rows, strict=True)]):
            below = (matrix[1][0], matrix[2][0], matrix[2][1])
            if not any(below) and matrix[2][2] == 1 and len(matrix) == len(rows):
                return matrix[0][0], matrix[1][1], matrix[0][2], matrix[1][2]
    raise ValueError("is no camera: its numbers are neither fx, fy, cx, cy nor a matrix [fx 0 cx; 0 fy cy; 0 0 1]")


def _centre(fields: Mapping[str, Any]) -> tuple[float, float] | None:
    names = (_has(fields, _CX), _has(fields, _CY))
    if names[0] is None or names[1] is None:
        return None
    values = (fields[names[0]], fields[names[1]])
    for name, value in ((names[0], values[0]), (names[1], values[1])):
        if not is_number(value):
            raise ValueError(_wrong(name, value))
    return float(values[0]), float(values[1])


def _size(fields: Mapping[str, Any]) -> tuple[int, int] | None:
    names = (_has(fields, _HEIGHT), _has(fields, _WIDTH))
    if names[0] is None or names[1] is None:
        return None
    sides = []
    for name in (names[0], names[1]):
        value = fields[name]
        if not (is_number(value) and value >= 1 and value == int(value)):
            raise ValueError(_wrong(name, value))
        sides.append(int(value))
    return sides[0], sides[1]


def _has(fields: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the first of some names that is there and not null."""
    return next((name for name in names if fields.get(name) is not None), None)


def _positive(fields: Mapping[str, Any], names: Sequence[str]) -> float:
    name = _has(fields, names)
    if name is None:
        raise ValueError(f"has no {names[0]}")
    value = fields[name]
    if not (is_number(value) and value > 0):
        raise ValueError(_wrong(name, value))
    return float(value)


def _wrong(name: str, value: Any) -> str:
    return f"has {_short(value)} for {name}"


def _short(value: Any) -> str:
    """Return a value as text of some length at most, also one that YAML's references make endless."""
    text = reprlib.repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
