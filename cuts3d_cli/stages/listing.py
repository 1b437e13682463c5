"""Finds the photos that `pack` is to pack, and gives each an id and a key."""

from __future__ import annotations

import hashlib
import itertools
import os
import posixpath
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cuts3d_cli.errors import SettingError, UsageError
from cuts3d_cli.image_kinds import EXTENSION_OF, image_kind, no_photo
from cuts3d_cli.images import IMAGE_EXTENSIONS
from cuts3d_cli.json_reading import JsonError, is_whole, read_json
from cuts3d_cli.lookalikes import HEAD_BYTES
from cuts3d_cli.shards.keys import is_meta
from cuts3d_cli.stages.coco_names import first_guess, leads_outside, locate
from cuts3d_cli.stages.own_results import PICTURE_ENDING, Results, pictures_among, results_in
from cuts3d_cli.wording import be, counted, listed

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
        extension: the ending that it is stored with, one of `IMAGE_EXTENSIONS`.
        problem: why it cannot be packed, where its name or its first bytes tell.
    """

    file: str
    id: int
    key: str
    extension: str = "jpg"
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All photos of a source.

    Attributes:
        root: the folder that the files' paths start from.
        kind: what the source is; `files` where several paths were named.
        photos: in the order of their paths (folder) or ids (COCO JSON), whatever the file system's order.
        renamed: how many keys had to be made longer because another file has the same.
        passed_over: files of a folder that are no photos, as paths from the root.
        results: of cuts3d itself, which were left out.
    """

    root: Path
    kind: Literal["folder", "coco", "files"]
    photos: Sequence[Photo]
    renamed: int
    passed_over: Sequence[str] = ()
    results: Sequence[Results] = ()


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a folder, however deep.

    Attributes:
        files: as paths from the folder, sorted by their characters.
        results: of cuts3d itself, which were left out.
    """

    files: Sequence[str]
    results: Sequence[Results]


@dataclass(frozen=True, kw_only=True)
class Found:
    """The photos of a folder, however deep.

    Attributes:
        photos: as paths from the folder, with what they look like, sorted.
        passed_over: other files, likewise.
        results: of cuts3d itself, which were left out.
    """

    photos: Sequence[tuple[str, Looks]]
    passed_over: Sequence[str] = ()
    results: Sequence[Results] = ()


@dataclass(frozen=True, slots=True)
class Looks:
    """What a file looks like, from outside.

    Attributes:
        extension: the ending that it is stored with; None if it is no photo that is read.
        problem: why it is not read, though it is named or begins like an image; None if it is, or is no image.
    """

    extension: str | None
    problem: str | None = None


def list_source(source: Path, *, images: Path | None, leave_out: Collection[Path] = ()) -> Listing:
    """List the photos of a folder or of a COCO JSON.

    Of a folder all photos are taken, however deep and whatever the case of their extensions; where the extension tells
    nothing, the first bytes of the file do. Links are followed, hidden files and folders are not taken, nor are results
    of cuts3d itself.

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
        kind: Literal["folder", "coco"] = "folder"
        root, found = source, photos_in(source, leave_out)
        ids = list(range(1, len(found.photos) + 1))
    elif source.is_file():
        entries = _coco_entries(source)
        kind, ids = "coco", [image_id for image_id, _ in entries]
        root = _image_root(source, images, [name for _, name in entries])
        found = Found(photos=[_named_photo(root, name) for _, name in entries])
    else:
        raise UsageError(f"{source} does not exist: pass a folder of photos, or a COCO JSON")
    return photos_of(source, root, found, ids=ids, kind=kind)


def photos_of(
    source: Path | str,
    root: Path,
    found: Found,
    *,
    ids: Sequence[int] | None = None,
    kind: Literal["folder", "coco", "files"] = "files",
) -> Listing:
    """Give photos their keys.

    Args:
        source: what the user named, for the error.
        root: the folder that their paths start from.
        found: the photos, in order.
        ids: of each; None numbers them from 1.
        kind: what the source is.

    Raises:
        UsageError: there is no photo.
    """
    if not found.photos:
        others = [f"only {len(found.passed_over)} other files"] if found.passed_over else []
        others += [f"results of `cuts3d {item.command}` in {item.folder} are left out" for item in found.results]
        others += [
            f"and so is {item.folder / item.strangers[0]} among them, which segment has not written: move it away"
            for item in found.results
            if item.strangers
        ]
        raise UsageError(", ".join([f"{source} holds no photos ({', '.join(IMAGE_EXTENSIONS)})", *others]))
    keys, renamed = assign_keys([file for file, _ in found.photos])
    numbers = range(1, len(found.photos) + 1) if ids is None else ids
    photos = [
        Photo(file=file, id=image_id, key=key, extension=looks.extension or "", problem=looks.problem)
        for (file, looks), image_id, key in zip(found.photos, numbers, keys, strict=True)
    ]
    return Listing(
        root=root, kind=kind, photos=photos, renamed=renamed, passed_over=found.passed_over, results=found.results
    )


def left_out_lines(results: Sequence[Results], *, out: Path | None = None) -> list[str]:
    """Say which results of cuts3d were not taken for photos or depth maps: a line a command.

    A further line is about images that lie in folders of results and are none of these.

    Args:
        results: all that were left out.
        out: the folder that is written to, now and before: that its own results are left out goes without saying.
    """
    own = out.absolute() if out is not None else None
    folders: dict[str, set[str]] = {}
    for item in results:
        around = [own] if item.command == "viz" else [own, *(own.parents if own is not None else ())]
        if item.folder.absolute() not in around:
            folders.setdefault(item.command, set()).add(str(item.folder))
    what = {"viz": f"pictures of viz (*{PICTURE_ENDING})"}
    lines = [f"left out {what.get(name, f'results of {name}')}: {listed(sorted(of))}" for name, of in folders.items()]
    strangers = [str(item.folder / file) for item in results for file in item.strangers]
    if strangers:
        them = "it" if len(strangers) == 1 else "them"
        lines.append(
            f"warning: {counted(len(strangers), 'image')} {be(len(strangers))} left out in folders of results of"
            f" segment, which has not written {them}: {listed(strangers)}; to take {them}, move {them} to another"
            " folder"
        )
    return lines


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


def looks_of(path: Path) -> Looks:
    """Look at the ending of a file, and where that does not name a photo that is read, at its first bytes."""
    extension = _extension(path.name)
    if extension in IMAGE_EXTENSIONS:
        return Looks(extension)
    head = _head(path)
    kind = image_kind(head)
    if kind is not None:
        return Looks(EXTENSION_OF.get(kind), no_photo(head))
    if extension in OTHER_IMAGE_EXTENSIONS:
        return Looks(None, f"files of kind {extension!r} are not read: convert it to JPEG, PNG or WebP")
    return Looks(None)


def _head(path: Path) -> bytes:
    """Return the first bytes of a plain file; none where it is something else or cannot be read."""
    try:
        if not path.is_file():  # a pipe would wait for its writer
            return b""
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except (OSError, ValueError):
        return b""


def _named_photo(root: Path, name: str) -> tuple[str, Looks]:
    """Find the photo that a COCO JSON names: its path from the root, and what it looks like."""
    file = locate(root, name)
    if file is not None:
        looks = looks_of(root / file)
        if looks == Looks(None):
            return file, Looks(None, "it is no image, by its name and its first bytes")
        return file, looks
    file = first_guess(root, name)
    if leads_outside(file):
        return file, Looks(None, "its name leads out of the image folder")
    looks = looks_of(root / file)
    return file, Looks("jpg") if looks == Looks(None) else looks  # that it is missing is told when it is to be read


def photos_in(root: Path, leave_out: Collection[Path]) -> Found:
    """List the photos of a folder and its other files. A picture of `cuts3d viz` is no photo."""
    listing = files_in(root, leave_out)
    photos, others = [], []
    for file in listing.files:
        looks = Looks(None) if file.endswith(PICTURE_ENDING) else looks_of(root / file)
        if looks == Looks(None):
            others.append(file)
        else:
            photos.append((file, looks))
    pictures = pictures_among(root / file for file in others)
    return Found(photos=photos, passed_over=others, results=[*listing.results, *pictures])


def files_in(root: Path, leave_out: Collection[Path] = ()) -> Files:
    """List the files of a folder, however deep.

    Links are followed, but not round in circles; hidden files and folders are left out, and so is what `cuts3d segment`
    and `cuts3d report` wrote, by their own records. What a user keeps beside such results is listed.

    Args:
        root: the folder.
        leave_out: folders in it that are left out.

    Raises:
        UsageError: a folder cannot be listed.
    """
    unwanted = {_identity(folder) for folder in leave_out}
    files: list[str] = []
    results: list[Results] = []
    # Of each folder to do: its path from the root, and the identities of those around it, for links that lead back.
    todo: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while todo:
        folder, around = todo.pop()
        try:
            identity = _identity(root / folder)
            if identity in around or identity in unwanted:
                continue
            with os.scandir(root / folder) as entries:
                found = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
        except OSError as error:
            raise UsageError(f"folder {root / folder} cannot be listed: {error.strerror}") from error
        own = results_in(root / folder, found)
        results += [replace(item, strangers=_strangers(item, found)) for item in own]
        for name in found.keys() - {name for item in own for name in item.names}:
            path = f"{folder}/{name}" if folder else name
            if found[name]:
                todo.append((path, around | {identity}))
            else:
                files.append(path)
    return Files(files=sorted(files), results=sorted(results, key=lambda item: (str(item.folder), item.command)))


def _strangers(results: Results, present: Collection[str]) -> tuple[str, ...]:
    """Return the images in folders of results that are none of these, as paths from their folder, sorted.

    Args:
        results: in one folder.
        present: what lies in it: a record may name anything.
    """
    if results.written is None:
        return ()
    found = []
    for name in results.names.intersection(present):
        for around, folders, files in os.walk(results.folder / name):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            paths = [Path(around, file) for file in files if not file.startswith(".")]
            others = {path.relative_to(results.folder).as_posix(): path for path in paths}
            found += [file for file in others.keys() - results.written if looks_of(others[file]) != Looks(None)]
    return tuple(sorted(found))


def _identity(folder: Path) -> tuple[int, int]:
    state = folder.stat()
    return state.st_dev, state.st_ino


def _coco_entries(path: Path) -> list[tuple[int, str]]:
    """Read ids and file names of a COCO JSON, sorted by id; in LVIS's, URLs take the place of file names."""
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
        facts = image if isinstance(image, dict) else {}
        image_id, file = facts.get("id"), facts.get("file_name") or facts.get("coco_url")
        if not is_whole(image_id) or not isinstance(file, str) or not file:
            raise UsageError(f"{path}: entry {place} of 'images' needs a whole number 'id' and a 'file_name'")
        if image_id in entries:
            raise UsageError(f"{path}: two images have the id {image_id}: make the ids unique")
        entries[image_id] = file
    return sorted(entries.items())


def _only_images(value: dict[str, Any]) -> dict[str, Any] | None:
    if "images" in value:
        return {"images": value["images"]}
    names = ("id", "file_name", "coco_url")
    kept: dict[str, Any] = {name: value[name] for name in names if name in value}
    return kept if "file_name" in kept or "coco_url" in kept else None


def _image_root(source: Path, images: Path | None, names: Sequence[str]) -> Path:
    """Return the folder that the file names of a COCO JSON start from."""
    if images is not None:
        if not images.is_dir():
            problem = f"{images} is not a folder: name the one that the JSON's file names start from"
            raise SettingError("images", problem)
        return images
    beside = source.parent / "images"
    if names and locate(source.parent, names[0]) is None and locate(beside, names[0]) is not None:
        return beside
    return source.parent
