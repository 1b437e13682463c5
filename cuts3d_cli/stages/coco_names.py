"""Where the photos of a COCO JSON lie: its file names are often written for another folder, or on another system."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from cuts3d_cli.paths import base_name, file_of, plain_path

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_DRIVE = re.compile(r"[a-z]:[\\/]", re.IGNORECASE)


def locate(root: Path, name: str) -> str | None:
    """Find the photo of a file name below a folder.

    Besides the path as it is, these are tried: with `/` for `\\`; of an absolute path, and of one that begins with
    the folder's own name, what comes below the folder; of a URL its last two parts, or its last; and other spellings
    of the same letters (Unicode's NFC and NFD).

    Args:
        root: the folder that file names should start from.
        name: the file name of an image, or its URL.

    Returns:
        The path from the folder, `/` between folders; None if there is no such file in it.
    """
    for path in _candidates(root, name):
        for spelling in dict.fromkeys((path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path))):
            if not leads_outside(spelling) and _exists(root / spelling):
                return spelling
    return None


def first_guess(root: Path, name: str) -> str:
    """Return the path to name where `locate` finds nothing: one below the folder, if the file name can mean one."""
    inside = (path for path in _candidates(root, name) if not leads_outside(path))
    return next(inside, posixpath.normpath(name))


def leads_outside(path: str) -> bool:
    """Return whether a path, `/` between folders, leads out of the folder that it starts from."""
    return posixpath.isabs(path) or _DRIVE.match(path) is not None or path.split("/")[0] == ".."


def _candidates(root: Path, name: str) -> Iterator[str]:
    if _URL.match(name):
        last = file_of({"coco_url": name})
        yield from dict.fromkeys((plain_path(last) or name, base_name(last) or name))
        return
    yield posixpath.normpath(name)
    path = plain_path(name)
    yield path
    # An absolute path below the folder, be it through links.
    if posixpath.isabs(path):
        for folder, start in ((path, os.path.abspath(root)), (_without_links(path), os.path.realpath(root))):
            yield posixpath.relpath(folder, start)
    # What comes after the folder's own name, on whatever machine the path was written.
    parts = path.split("/")
    own = os.path.basename(os.path.realpath(root))
    for place, part in enumerate(parts[:-1]):
        if own and part == own:
            yield "/".join(parts[place + 1 :])


def _without_links(path: str) -> str:
    """Return a path with the links of its folders followed, but not the file's own."""
    folder, file = posixpath.split(path)
    return posixpath.join(os.path.realpath(folder), file)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no file can have such a name
        return False
