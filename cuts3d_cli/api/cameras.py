"""What people hand over as the camera of a photo, and the focal length that the cut takes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.focal import Focal
from cuts3d_cli.depth.camera_files import read_cameras
from cuts3d_cli.depth.intrinsics import Intrinsics, exif_focal, focal_of, parse_camera
from cuts3d_cli.errors import SampleError, SettingError
from cuts3d_cli.images import Upright

IntrinsicsLike = NDArray[Any] | Sequence[Any] | Mapping[str, Any] | str | os.PathLike[str]
"""A camera: a 3x3 matrix K, (fx, fy, cx, cy) in pixels, a mapping with these, or the path of a file."""


def to_intrinsics(intrinsics: IntrinsicsLike) -> Intrinsics:
    """Return a camera.

    Args:
        intrinsics: as `IntrinsicsLike`.

    Raises:
        SettingError: it is none, or a file that holds none, or one a photo.
    """
    if isinstance(intrinsics, str | os.PathLike):
        cameras = read_cameras(Path(intrinsics))
        if cameras.common is None:
            raise SettingError("intrinsics", f"is {cameras.path}, which holds cameras of several photos: give one")
        return cameras.common
    try:
        return parse_camera(_plain(intrinsics))
    except ValueError as error:
        raise SettingError("intrinsics", str(error)) from error


def to_focal(photo: Upright, camera: Intrinsics | None) -> Focal | None:
    """Return the focal length of a photo: by its camera, else by its EXIF data; None where neither is there.

    Raises:
        SettingError: the camera cannot have taken the photo.
    """
    if camera is None:
        return exif_focal(photo.focal_35mm, size=(photo.image.height, photo.image.width))
    try:
        return focal_of(camera, photo)
    except SampleError as error:
        raise SettingError("intrinsics", f"do not fit the photo: {error}") from error


def _plain(value: Any) -> Any:
    """Return arrays, also those in mappings and sequences, as lists."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
