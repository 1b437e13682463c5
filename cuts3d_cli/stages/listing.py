"""Finds the photos that `pack` is to pack, and gives each an id and a key."""

from __future__ import annotations

import hashlib
import itertools
import os
import posixpath
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cuts3d_cli.errors import SettingError, UsageError
from cuts3d_cli.images import IMAGE_EXTENSIONS
from cuts3d_cli.json_reading import JsonError, is_whole, read_json
from cuts3d_cli.shards.keys import is_meta

OTHER_IMAGE_EXTENSIONS = frozenset(
    "avif bmp cr2 dng gif heic heif jfif jp2 jxl nef pgm pnm ppm tga tif tiff".split()  # noqa: SIM905
)
"""Files of these kinds are surely photos too. They are reported as failed rather than left out in silence."""
_UNFIT = re.compile(r"[\x00-\x1f\x7f.\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """One file to be packed.

    Attributes:
        file: its path from the root, `/` between folders, as recorded in the sample.
        id: the image id of the COCO JSON, else its place among all photos, from 1.
        key: the sample's key, unique in the listing.
        problem: why it cannot be packed, where that is known without opening it.
    """

    file: str
    id: int
    key: str
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All photos of a source.

    Attributes:
        root: the folder that the files' paths start from.
        kind: what the source is.
        photos: in the order of their paths (folder) or ids (COCO JSON), whatever the file system's order.
        renamed: how many keys had to be made longer because another file has the same.
    """

    root: Path
    kind: Literal["folder", "coco"]
    photos: Sequence[Photo]
    renamed: int


def list_source(source: Path, *, images: Path | None, leave_out: Collection[Path] = ()) -> Listing:
    """List the photos of a folder or of a COCO JSON.

    Of a folder all photos are taken, however deep and whatever the case of their extensions; links are followed, hidden
    files and folders are not.

    Args:
        source: the folder or the JSON.
        images: the folder that the JSON's `file_name`s start from. Default: the JSON's own, or `images` beside it
            if the first photo is only there.
        leave_out: folders whose files are no photos.

    Returns:
        The listing, with at least one photo.

    Raises:
        UsageError: there is no such source, no photo in it, the JSON is not COCO's, or a folder cannot be listed.
    """
    if source.is_dir():
        if images is not None:
            raise SettingError("images", "belongs to a COCO JSON: for a folder, name the folder of the images itself")
        files = _files_in(source, leave_out)
        kind: Literal["folder", "coco"] = "folder"
        root, problems = source, [_extension_problem(file) for file in files]
        ids = list(range(1, len(files) + 1))
    elif source.is_file():
        entries = _coco_entries(source)
        files = [posixpath.normpath(file) for _, file in entries]
        kind, ids = "coco", [image_id for image_id, _ in entries]
        root = _image_root(source, images, files)
        files = [posixpath.relpath(file, root) if posixpath.isabs(file) else file for file in files]
        problems = [_outside_problem(file) or _extension_problem(file) for file in files]
    else:
        raise UsageError(f"{source} does not exist: pass a folder of photos, or a COCO JSON")
    if not files:
        raise UsageError(f"{source} holds no photos ({', '.join(IMAGE_EXTENSIONS)})")
    keys, renamed = assign_keys(files)
    photos = [
        Photo(file=file, id=image_id, key=key, problem=problem)
        for file, image_id, key, problem in zip(files, ids, keys, problems, strict=True)
    ]
    return Listing(root=root, kind=kind, photos=photos, renamed=renamed)


def assign_keys(files: Sequence[str]) -> tuple[list[str], int]:
    """Give each file a key that is unique and that WebDataset reads as it was meant.

    The key is the path without its extension, with `_` for dots and for what cannot be in a name. Where several
    files come to the same key (`a.jpg` and `a.png`, `a.b.jpg` and `a_b.jpg`), the first keeps it and the others get
    `-` and eight hex digits of their path's sha256.

    Args:
        files: paths, `/` between folders.

    Returns:
        The keys, in the same order, and how many of them were made longer.
    """
    wanted = [_natural_key(file) for file in files]
    taken = set(wanted)
    seen: set[str] = set()
    keys = []
    renamed = 0
    for file, key in zip(files, wanted, strict=True):
        if key in seen:
            renamed += 1
            key = next(longer for longer in _longer_keys(key, file) if longer not in taken)
            taken.add(key)
        seen.add(key)
        keys.append(key)
    return keys, renamed


def _natural_key(file: str) -> str:
    stem = _UNFIT.sub("_", posixpath.splitext(file)[0])
    while is_meta(stem):
        stem = stem[1:]
    return stem


def _longer_keys(key: str, file: str) -> Iterator[str]:
    for attempt in itertools.count():
        text = file if attempt == 0 else f"{file}#{attempt}"  # one file may be listed twice in a COCO JSON
        yield f"{key}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _extension(file: str) -> str:
    return posixpath.splitext(file)[1][1:].lower()


def _extension_problem(file: str) -> str | None:
    extension = _extension(file)
    if extension in IMAGE_EXTENSIONS:
        return None
    return f"files of kind {extension or '(none)'!r} are not read: convert it to PNG or JPEG"


def _outside_problem(file: str) -> str | None:
    return "its name leads out of the image folder" if file.split("/")[0] == ".." else None


def _files_in(root: Path, leave_out: Collection[Path]) -> list[str]:
    """List the image files of a folder, as paths from it, sorted by their characters."""
    unwanted = {_identity(folder) for folder in leave_out}
    files = []
    # Of each folder to do: its path from the root, and the identities of those around it, for links that lead back.
    todo: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while todo:
        folder, around = todo.pop()
        try:
            identity = _identity(root / folder)
            if identity in around or identity in unwanted:
                continue
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        todo.append((path, around | {identity}))
                    elif _extension(path) in IMAGE_EXTENSIONS or _extension(path) in OTHER_IMAGE_EXTENSIONS:
                        files.append(path)
        except OSError as error:
            raise UsageError(f"folder {root / folder} cannot be listed: {error.strerror}") from error
    return sorted(files)


def _identity(folder: Path) -> tuple[int, int]:
    state = folder.stat()
    return state.st_dev, state.st_ino


def _coco_entries(path: Path) -> list[tuple[int, str]]:
    """Read ids and file names of a COCO JSON, sorted by id."""
    try:
        # All else, which is most of such a file, is let go of while it is being read.
        content = read_json(path, max_bytes=None, lenient=True, object_hook=_only_images)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except JsonError as error:
        raise UsageError(f"{path} {error}: pass a folder of photos, or a COCO JSON") from error
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise UsageError(f"{path} is not a COCO JSON: it has no list 'images'")
    entries: dict[int, str] = {}
    for place, image in enumerate(images):
        image_id, file = (image.get("id"), image.get("file_name")) if isinstance(image, dict) else (None, None)
        if not is_whole(image_id) or not isinstance(file, str) or not file:
            raise UsageError(f"{path}: entry {place} of 'images' needs a whole number 'id' and a 'file_name'")
        if image_id in entries:
            raise UsageError(f"{path}: two images have the id {image_id}: make the ids unique")
        entries[image_id] = file
    return sorted(entries.items())


def _only_images(value: dict[str, Any]) -> dict[str, Any] | None:
    if "images" in value:
        return {"images": value["images"]}
    return {name: value.get(name) for name in ("id", "file_name")} if "file_name" in value else None


def _image_root(source: Path, images: Path | None, files: Sequence[str]) -> Path:
    if images is not None:
        if not images.is_dir():
            problem = f"{images} is not a folder: name the one that the JSON's file names start from"
            raise SettingError("images", problem)
        return images
    beside = source.parent / "images"
    if files and not (source.parent / files[0]).exists() and (beside / files[0]).exists():
        return beside
    return source.parent
