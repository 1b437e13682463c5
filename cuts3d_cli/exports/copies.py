"""Copies of the photos beside what was found in them, byte for byte."""

from __future__ import annotations

from pathlib import PurePosixPath

from cuts3d_cli.exports.output import Output
from cuts3d_cli.exports.photos import FoundPhoto


def copied(photo: FoundPhoto, out: Output, *, folder: str = "", stem: str | None = None) -> str:
    """Write a photo.

    Args:
        photo: to copy.
        out: where to.
        folder: below it; "" for none.
        stem: path of the copy without its ending, where one was chosen; else it is the photo's own.

    Returns:
        The path of the copy from the folder.
    """
    name = f"{stem or out.stem_of(photo.file)}{PurePosixPath(photo.file).suffix}"
    out.write(f"{folder}/{name}" if folder else name, photo.read())
    return name
