"""Lists the photos that several paths name: files, folders and patterns, or one COCO JSON."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from cuts3d_cli.errors import SettingError, UsageError
from cuts3d_cli.stages.listing import Found, Listing, Looks, list_source, looks_of, photos_in, photos_of
from cuts3d_cli.stages.own_results import PICTURE_ENDING, Results, pictures_among

_NO_PHOTO = "it is no image, by its name and its first bytes"


def list_sources(sources: Sequence[Path], *, images: Path | None, leave_out: Collection[Path] = ()) -> Listing:
    """List the photos that some paths name.

    A folder alone, or a COCO JSON alone, is listed as `listing.list_source` does. Of several paths the photos are named
    from the folder that is common to all of them; a photo that is named twice is listed once.

    Args:
        sources: photos, folders, and patterns such as `photos/*.jpg` that match nothing as they are; or one COCO JSON.
        images: the folder that the JSON's `file_name`s start from, as in `list_source`.
        leave_out: folders whose files are no photos.

    Returns:
        The listing, with at least one photo. A file that was named and is no photo is in it, with its problem.

    Raises:
        UsageError: a path does not exist, a pattern matches nothing, there is no photo, a folder cannot be listed, or a
            JSON stands beside other paths or is not COCO's.
    """
    paths = [path for source in sources for path in _expanded(source)]
    if not paths:
        raise UsageError("name a photo, a folder of photos, or a COCO JSON")
    if len(paths) == 1 and (paths[0].is_dir() or _is_json(paths[0])):
        return list_source(paths[0], images=images, leave_out=leave_out)
    if images is not None:
        raise SettingError("images", "belongs to a COCO JSON, and none is named: leave it out")
    for path in paths:
        _check(path)
    root = _common_folder(paths)
    found: dict[str, Looks] = {}
    passed_over: list[str] = []
    results: dict[tuple[Path, str], Results] = {}
    for path in paths:
        start = _below(path, root)
        if path.is_dir():
            below = photos_in(path, leave_out)
            prefix = "" if start == "." else f"{start}/"
            found |= {prefix + file: looks for file, looks in below.photos}
            passed_over += [prefix + file for file in below.passed_over]
            results |= {(item.folder, item.command): item for item in below.results}
        elif path.name.endswith(PICTURE_ENDING):  # the shell's `*.png` matches pictures of `viz` beside their photos
            passed_over.append(start)
            results |= {(item.folder, item.command): item for item in pictures_among([path])}
        else:
            looks = looks_of(path)
            found[start] = Looks(None, _NO_PHOTO) if looks == Looks(None) else looks
    source = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    photos = Found(photos=sorted(found.items()), passed_over=sorted(set(passed_over)), results=list(results.values()))
    return photos_of(source, root, photos)


def _expanded(source: Path) -> list[Path]:
    """Return the paths that a pattern matches; one that exists stands for itself, whatever is in its name."""
    if os.path.lexists(source) or not glob.has_magic(str(source)):
        return [source]
    matches = sorted(glob.glob(str(source), recursive=True))
    if not matches:
        raise UsageError(f"'{source}' matches no file")
    return [Path(match) for match in matches]


def _check(path: Path) -> None:
    """Check a path of several.

    Raises:
        UsageError: it is not there, or is of a kind that goes alone or to another command.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist: pass photos, folders of photos, or a COCO JSON")
    if _is_json(path):
        raise UsageError(f"{path} is a JSON: a COCO JSON goes alone, without further photos")
    if path.suffix.lower() == ".tar":
        raise UsageError(f"{path} is a tar: pass photos, folders of photos, or a COCO JSON")


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json" and not path.is_dir()


def _common_folder(paths: Sequence[Path]) -> Path:
    """Return the innermost folder that all photos are below, as it was written where that can be told."""
    folders = [path if path.is_dir() else path.parent for path in paths]
    if len({os.path.abspath(folder) for folder in folders}) == 1:
        return folders[0]
    try:
        return Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))
    except ValueError as error:  # two drives of Windows
        raise UsageError("the photos lie on several drives: pass those of one") from error


def _below(path: Path, root: Path) -> str:
    """Return a path from the root, `/` between folders."""
    return Path(os.path.relpath(path, root)).as_posix()
