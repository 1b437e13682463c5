"""Finds the camera of every photo in a file of cameras, by names or numbers."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cuts3d_cli.config import PseudoConfig
from cuts3d_cli.cut.methods import without_camera
from cuts3d_cli.depth.camera_files import CameraFile, read_cameras
from cuts3d_cli.depth.intrinsics import Intrinsics, focal_of
from cuts3d_cli.errors import SampleError, Setting, SettingError
from cuts3d_cli.images import decode_upright
from cuts3d_cli.paths import base_name, plain_path
from cuts3d_cli.stages.listing import Photo
from cuts3d_cli.wording import listed

_TRIED = 20
"""So many photos are looked at before a file is refused whose cameras fit none of them."""
_MOST_DIGITS = 18
"""A longer name is no number of a photo."""


@dataclass(frozen=True, kw_only=True)
class Cameras:
    """Which camera belongs to which photo.

    Attributes:
        path: of the file.
        of: the file of a photo -> its camera.
        unused: names in the file that are no photo's.
    """

    path: Path
    of: Mapping[str, Intrinsics]
    unused: Sequence[str]


def cameras_of(photos: Sequence[Photo], path: Path, *, root: Path, max_pixels: int) -> Cameras:
    """Read a file of cameras and find those of some photos.

    Args:
        photos: all of them.
        path: see `camera_files.read_cameras`.
        root: the folder that the photos' files start from.
        max_pixels: photos with more are not looked at.

    Raises:
        SettingError: it cannot be read, not one camera belongs to a photo, one may belong to several, or none of the
            first photos can have been taken with theirs.
    """
    cameras = pair_cameras([photo.file for photo in photos if photo.problem is None], read_cameras(path))
    _check_first(cameras, root=root, max_pixels=max_pixels)
    return cameras


def check_effect(settings: PseudoConfig) -> None:
    """Refuse cameras that a cut does not look at.

    Raises:
        SettingError: it does not.
    """
    decisive = without_camera(settings)
    if decisive is None:
        return
    value = getattr(settings, decisive)
    way_out = () if decisive == "focal" else (", or take ", Setting("preset", "objects"))
    given = Setting(f"pseudo.{decisive}", value)
    raise SettingError("intrinsics", "has no effect with ", given, ": leave it out", *way_out)


def pair_cameras(photos: Sequence[str], cameras: CameraFile) -> Cameras:
    """Find the cameras of photos.

    A camera is a photo's if it is named as the photo, from the root of the source, with or without its ending; else if
    one of the names is the end of the other, by whole folders; else if its name is a number and the photo's is the same
    one, whatever zeros are before it. What names no photo leaves it to the camera of all, if there is one.

    Args:
        photos: their files.
        cameras: in a file.

    Raises:
        SettingError: not one camera belongs to a photo, or one to several by part of a name or by a number.
    """
    exact: dict[str, str] = {}
    for name in cameras.of_photos:
        exact.setdefault(name, name)
        exact.setdefault(_stem(name), name)
    # By the whole name.
    found = {photo: exact[spelling] for photo in photos for spelling in _spellings(photo) if spelling in exact}
    # By the end of the name, or a number, where that leaves no doubt.
    taken = set(found.values())
    left = [name for name in cameras.of_photos if name not in taken]
    by_last: dict[str, list[str]] = {}
    for name in left:
        by_last.setdefault(_stem(base_name(name)), []).append(name)
    numbers = {int(name): name for name in left if _is_number(name)}
    owners: dict[str, str] = {}
    for photo in photos:
        if photo in found:
            continue
        likely = _by_end(photo, by_last) or _by_number(photo, numbers)
        if likely is not None:
            if likely in owners:
                both = f"{owners[likely]} and {photo}"
                problem = f"{cameras.path}: '{likely}' may be {both}: name photos by their paths, or pack them apart"
                raise SettingError("intrinsics", problem)
            owners[likely] = photo
    found |= {photo: name for name, photo in owners.items()}
    of = {photo: cameras.of_photos[found[photo]] for photo in photos if photo in found}
    if cameras.common is not None:
        of = {photo: of.get(photo, cameras.common) for photo in photos}
    used = set(found.values())
    unused = [name for name in cameras.of_photos if name not in used]
    if photos and not of:
        problem = f"{cameras.path} holds no camera of any photo: there is {listed(unused)}, and no {photos[0]}"
        raise SettingError("intrinsics", problem)
    return Cameras(path=cameras.path, of=of, unused=unused)


def _check_first(cameras: Cameras, *, root: Path, max_pixels: int) -> None:
    """Refuse cameras that none of the first photos that can be read was taken with."""
    problem: tuple[str, SampleError] | None = None
    for file, camera in islice(cameras.of.items(), _TRIED):
        with suppress(OSError, ValueError):  # the reason is told when the photo is packed
            try:
                photo = decode_upright((root / file).read_bytes(), max_pixels=max_pixels)
            except SampleError:
                continue
            try:
                focal_of(camera, photo)
            except SampleError as error:
                problem = problem or (file, error)
                continue
            return
    if problem is not None:
        raise SettingError("intrinsics", f"{cameras.path} does not fit {problem[0]}: ", *problem[1].parts)


def _spellings(photo: str) -> tuple[str, str]:
    """Return how a photo may be named, the more certain way last."""
    return _stem(plain_path(photo)), plain_path(photo)


def _by_end(photo: str, by_last: Mapping[str, Sequence[str]]) -> str | None:
    """Return the name that ends as a photo's path does, or that the path ends with; None if there is none, or two."""
    own = f"/{_stem(plain_path(photo))}"
    alike = [
        name
        for name in by_last.get(base_name(own), ())
        if own.endswith(f"/{_stem(name)}") or f"/{_stem(name)}".endswith(own)
    ]
    return alike[0] if len(alike) == 1 else None


def _by_number(photo: str, numbers: Mapping[int, str]) -> str | None:
    stem = base_name(_stem(plain_path(photo)))
    return numbers.get(int(stem)) if _is_number(stem) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]
