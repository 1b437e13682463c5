"""Finds the depth map of every photo in a folder of maps, by their names."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cuts3d_cli.errors import SettingError
from cuts3d_cli.paths import plain_path
from cuts3d_cli.sidecars.depth_files import MAP_EXTENSIONS, UNREAD_MAP_EXTENSIONS
from cuts3d_cli.stages.listing import Photo, files_in
from cuts3d_cli.stages.own_results import Results
from cuts3d_cli.wording import listed

_OF_MAPS = re.compile(
    r"^((sync[._-]?)?depth|frame)[._-]?(?=.)"
    r"|[._-](depths?|depth[._-]?map|depth[._-](16bit|fp32|meters|raw|zbuffer)|dpt|pred)$"
)
_OF_PHOTOS = re.compile(r"^(rgb|colou?r|frame)[._-]?(?=.)|[._-](rgb|colou?rs?|image|img)$")
"""Words by which people tell maps from photos, at the beginning or end of a name in small letters."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Which depth maps belong to which photos.

    Attributes:
        folder: of the maps.
        files: all of the folder, as paths from it, sorted.
        maps: the file of a photo -> its maps, as paths from the folder; of several there should be one.
        unused: files of the folder that belong to no photo, or are of a kind that is not read.
        results: of cuts3d itself in the folder, which were left out.
    """

    folder: Path
    files: Sequence[str]
    maps: Mapping[str, tuple[str, ...]]
    unused: Sequence[str]
    results: Sequence[Results] = ()


def pair_maps(photos: Sequence[Photo], folder: Path) -> Pairs:
    """Find the depth maps of photos.

    A map lies below the folder as its photo lies below the source, and has its name but for the ending, whatever the
    case of letters. If there is none, it may have a word more, as `a_depth.png`, `depth_a.png` or `a.depth.png` for
    `a.jpg`, `a_rgb.jpg` or `a.color.jpg`, as long as it can belong to one photo alone.

    Args:
        photos: all of them.
        folder: of the maps.

    Returns:
        The pairs.

    Raises:
        SettingError: not one map belongs to a photo.
        UsageError: a folder cannot be listed.
    """
    listing = files_in(folder)
    files = listing.files
    stems: dict[str, list[str]] = {}
    for file in files:
        if _extension(file) in MAP_EXTENSIONS:
            stems.setdefault(_stem(file), []).append(file)
    # By the same name.
    wanted = [photo.file for photo in photos if photo.problem is None]
    maps = {file: _most_alike(file, stems[_stem(file)]) for file in wanted if _stem(file) in stems}
    used = {file for found in maps.values() for file in found}
    # Else by the same name without a word that tells maps from photos, where that leaves no doubt.
    plain: dict[str, list[str]] = {}
    for stem, found in stems.items():
        if found[0] not in used:
            plain.setdefault(_without(_OF_MAPS, stem), []).extend(found)
    claims: dict[str, list[str]] = {}
    for file in wanted:
        name = _without(_OF_PHOTOS, _stem(file))
        if file not in maps and name in plain:
            claims.setdefault(name, []).append(file)
    maps |= {owners[0]: tuple(plain[name]) for name, owners in claims.items() if len(owners) == 1}
    used = {file for found in maps.values() for file in found}
    unused = [file for file in files if file not in used]
    if wanted and not maps:
        raise SettingError("depth_dir", _no_map(folder, wanted[0], unused))
    return Pairs(folder=folder, files=files, maps=maps, unused=unused, results=listing.results)


def unread_kinds(files: Sequence[str]) -> list[str]:
    """Return the endings of files that hold depth maps elsewhere and are not read here, each once."""
    return sorted({f".{_extension(file)}" for file in files} & {f".{name}" for name in UNREAD_MAP_EXTENSIONS})


def _no_map(folder: Path, photo: str, files: Sequence[str]) -> str:
    """Return what is wrong with a folder of which no map is used."""
    example = f"{_without_ending(photo)}.png"
    if not files:
        return f"{folder} holds no files"
    kinds = unread_kinds(files)
    unread = f", and {' and '.join(kinds)} files are not read" if kinds else ""
    return (
        f"{folder} holds no map of any photo: that of {photo} would be {example} (or {', '.join(MAP_EXTENSIONS[1:])}),"
        f" there is {listed(files)}{unread}"
    )


def _most_alike(photo: str, maps: Sequence[str]) -> tuple[str, ...]:
    """Return those of some maps that are named as their photo to the letter; all of them if none is."""
    name = plain_path(_without_ending(photo))
    return tuple(file for file in maps if plain_path(_without_ending(file)) == name) or tuple(maps)


def _extension(file: str) -> str:
    return posixpath.splitext(file)[1][1:].lower()


def _without_ending(file: str) -> str:
    return posixpath.splitext(file)[0]


def _stem(file: str) -> str:
    """Return a path without its ending, in one spelling of its letters."""
    return plain_path(_without_ending(file)).casefold()


def _without(words: re.Pattern[str], stem: str) -> str:
    folder, slash, name = stem.rpartition("/")
    return folder + slash + words.sub("", name)
