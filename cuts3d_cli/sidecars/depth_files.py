"""Depth maps in files of the formats that people have: PNG, TIFF, NumPy, PFM. Believes nothing that a header says."""

from __future__ import annotations

import io
import warnings
import zipfile
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.depth.fitting import FittedMap, as_map
from cuts3d_cli.errors import SampleError
from cuts3d_cli.image_kinds import image_kind
from cuts3d_cli.images import open_image
from cuts3d_cli.sidecars.npy import decode_npy, encode_npy
from cuts3d_cli.sidecars.photos import SensorFile
from cuts3d_cli.sidecars.png import decode_gray16, encode_gray16
from cuts3d_cli.wording import first_line, listed

MAP_EXTENSIONS = ("png", "npy", "npz", "tif", "tiff", "pfm")
"""Endings of the files that are read, in small letters."""
UNREAD_MAP_EXTENSIONS = ("exr", "h5", "hdf5", "mat", "raw", "bin", "pgm", "jpg", "jpeg")
"""Endings of files that hold depth maps elsewhere, and are not read."""
_READ = "maps are read from 16-bit PNG, TIFF, .npy, .npz and PFM files"
_ARRAY_NAMES = ("depth", "depth_map", "depths", "arr_0")
_HEADER_BYTES = 4096
_MODES = ("I;16", "I;16B", "I;16L", "I", "F")


@dataclass(frozen=True, kw_only=True)
class DepthFile:
    """What the file of a depth map holds.

    Attributes:
        values: (h, w) of integers, units of the file's own, or floats, metres.
        member: "png" or "npy" where a base shard can hold the file as it is.
    """

    values: NDArray[Any]
    member: Literal["png", "npy"] | None

    @property
    def is_metric(self) -> bool:
        """Whether the values are metres by convention, and not multiples of a unit."""
        return self.values.dtype.kind == "f"


def read_depth_file(data: bytes, *, max_pixels: int = MAX_IMAGE_PIXELS) -> DepthFile:
    """Read a depth map, whatever the name of its file.

    Args:
        data: a PNG of one channel of 16 bits; a TIFF of one page and one channel of 16 or 32 bits; a `.npy` of numbers;
            a `.npz` with one such map, or one that is named depth; a PFM of one channel.
        max_pixels: a larger map is refused.

    Returns:
        The map, as it is in the file.

    Raises:
        SampleError: this is no such file, or it is damaged.
    """
    if not data:
        raise SampleError("the depth map is empty")
    kind = image_kind(data)
    member: Literal["png", "npy"] | None = None
    # Read it by what it is, not by its name.
    if data.startswith(b"\x93NUMPY"):
        values, member = _numpy(data, "the depth map"), "npy"
    elif data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        values = _npz(data, most_bytes=_HEADER_BYTES + 8 * max_pixels)
    elif kind == "TIFF":
        values = _pillow(data, "TIFF", max_pixels=max_pixels)
    elif data.startswith(b"Pf"):
        values = _pillow(data, "PPM", max_pixels=max_pixels)
    elif kind == "PNG":
        values, member = decode_gray16(data, max_pixels=max_pixels), "png"
    elif kind == "JPEG":
        raise SampleError(f"the depth map is a JPEG, whose 256 levels are too few for depth: {_READ}")
    elif kind == "OpenEXR":
        raise SampleError("the depth map is an OpenEXR file, which is not read: convert it to .npy or a 32-bit TIFF")
    else:
        raise SampleError(f"the depth map is a {kind or 'file of an unknown kind'}: {_READ}")
    # Check it as an array.
    try:
        flat = as_map(values)
    except SampleError as error:
        raise SampleError(f"the depth map {error}") from error
    if flat.size > max_pixels:
        raise SampleError(f"the depth map has {flat.shape[1]}x{flat.shape[0]} pixels, more than {max_pixels}")
    # A shard holds floats of two axes.
    as_it_is = member if member == "png" or (values.ndim == 2 and values.dtype.kind == "f") else None
    return DepthFile(values=flat, member=as_it_is)


def as_sensor_file(data: bytes, read: DepthFile, fitted: FittedMap, *, scale: float, named: bool) -> SensorFile:
    """Return what a base shard holds of a depth map: the file as it is, where a shard can and the map was not turned.

    Args:
        data: the file.
        read: what it holds.
        fitted: the map, fitted to its photo.
        scale: metres a unit, for integers; floats are metres.
        named: the user named the values that mean "not measured", so that the automatic rule must not be asked again.
    """
    missing = fitted.missing.values if named or fitted.missing.values else None
    unit = 1.0 if read.is_metric else scale
    if read.member is not None and fitted.turn != "turned":
        return SensorFile(data=data, kind=read.member, scale=unit, missing=missing)
    if fitted.values.dtype == np.uint16:
        return SensorFile(data=encode_gray16(fitted.values), kind="png", scale=unit, missing=missing)
    return SensorFile(data=encode_npy(fitted.measured(scale=unit)), kind="npy", scale=1.0, missing=missing)


def _numpy(data: bytes, what: str) -> NDArray[Any]:
    try:
        return decode_npy(data)
    except ValueError as error:
        raise SampleError(f"{what} is not a whole .npy file of numbers: {error}") from error


def _npz(data: bytes, *, most_bytes: int) -> NDArray[Any]:
    """Read the map of a `.npz`: its only one, or the one that is named so."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
            names = [name for name in _ARRAY_NAMES if name in sizes] if len(sizes) > 1 else list(sizes)
            if not names:
                found = f"holds the arrays {listed(sorted(sizes))}" if sizes else "holds no array"
                raise SampleError(f"the depth map's .npz {found}: name one of them depth")
            if sizes[names[0]] > most_bytes:  # before it is unpacked
                raise SampleError(f"the depth map has {sizes[names[0]]} bytes, more than {most_bytes}")
            content = archive.read(f"{names[0]}.npy")
    except SampleError:
        raise
    except Exception as error:  # zipfile and zlib raise many types on damaged files; all mean the same here.
        raise SampleError(f"the depth map is not a whole .npz file: {first_line(error)}") from error
    return _numpy(content, f"array {names[0]!r} of the depth map")


def _pillow(data: bytes, kind: str, *, max_pixels: int) -> NDArray[Any]:
    """Read a map by one of Pillow's decoders."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, and large images
            with open_image(data, formats=(kind,)) as image:
                if image.width * image.height > max_pixels:
                    raise SampleError(f"the depth map has {image.width}x{image.height} pixels, more than {max_pixels}")
                pages = getattr(image, "n_frames", 1)
                if pages > 1:
                    raise SampleError(f"the depth map has {pages} pages: a map is one")
                if image.mode not in _MODES:
                    problem = "a depth map has one channel of 16 or 32 bits"
                    raise SampleError(f"the depth map is a file of mode {image.mode}: {problem}")
                values = np.array(image)
    except SampleError:
        raise
    except Exception as error:  # Pillow raises many types on damaged files; all mean the same here.
        reason = first_line(error) if "cannot identify" not in str(error) else "it is not of 16 or 32 bits, or damaged"
        raise SampleError(f"the depth map cannot be decoded: {reason}") from error
    return values.astype(values.dtype.newbyteorder("="))
