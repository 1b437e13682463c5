"""Where the files of a dataset lie: people unpack the same archives into folders of many names."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from cuts3d_cli.errors import DatasetError
from cuts3d_cli.images import IMAGE_EXTENSIONS

_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_ORIENTATION = 0x0112


def base_folders(root: Path, names: Sequence[str]) -> list[Path]:
    """The folders that a dataset may lie in, of those that are there.

    Args:
        root: the folder of all datasets, or that of this one, or one between.
        names: paths of the dataset's folder below the folder of all datasets.
    """
    inside = [root / name for name in names]
    own = [
        root.joinpath(*parts[place + 1 :])
        for parts in (Path(name).parts for name in names)
        for place, part in enumerate(parts)
        if part == root.resolve().name
    ]
    return [folder for folder in dict.fromkeys((*inside, *own)) if folder.is_dir()]


def first_whole(bases: Sequence[Path], alternatives: Sequence[Sequence[str]]) -> tuple[Path, ...] | None:
    """The first alternative of which every path is there, all in one base folder; None if there is no such."""
    for base in bases:
        for parts in alternatives:
            found = tuple(base / part for part in parts)
            if all(path.exists() for path in found):
                return found
    return None


def first_lack(bases: Sequence[Path], alternatives: Sequence[Sequence[str]]) -> list[Path]:
    """What is missing of the alternative of which most is there, where none is whole."""
    ways = [[base / part for part in parts] for base in bases for parts in alternatives]
    most = max(ways, key=lambda paths: sum(path.exists() for path in paths))
    return [path for path in most if not path.exists()]


def count_photos(folders: Sequence[Path]) -> int:
    """How many photos there are in some folders and all below."""
    return sum(
        Path(name).suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS
        for folder in folders
        for _, _, names in os.walk(folder)
        for name in names
    )


class Photos:
    """Finds photos in folders whatever part of their path the annotations have."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Look at no folder yet.

        Args:
            folders: that photos may lie in; of two photos that could be meant the first folder's is taken.
        """
        self._folders = folders
        self._names: dict[Path, frozenset[str]] = {}

    def find(self, file: str, *, extensions: Sequence[str] = ()) -> Path | None:
        """The photo of a file name, with all its folders, or without the first, or the first two, ...

        Args:
            file: as the annotations have it.
            extensions: others that it may have instead.
        """
        path = PurePosixPath(file)
        parts = [part for part in path.parts if part not in ("/", "..", ".")]
        names = [path.name, *(path.with_suffix(extension).name for extension in extensions)]
        for dropped in range(len(parts)):
            for folder in self._folders:
                parent = folder.joinpath(*parts[dropped:-1])
                for name in names:
                    if name in self._listing(parent):
                        return parent / name
        return None

    def _listing(self, folder: Path) -> frozenset[str]:
        if folder not in self._names:
            self._names[folder] = frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()
        return self._names[folder]


def text_lines(path: Path, *, otherwise: str) -> list[str]:
    """The lines of a text file, without their ends.

    Args:
        path: of the file.
        otherwise: says in the error's line what the file is not, where it is no text.

    Raises:
        DatasetError: the file cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is {otherwise}: fetch it again") from error


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels as a person sees the photo, from the head of its file.

    Raises:
        DatasetError: the file is no photo, or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                turned = image.getexif().get(_ORIENTATION) in _TURNED
    except Exception as error:  # Pillow raises many types on damaged files; all mean the same here.
        raise DatasetError(f"{path} is no photo, or is damaged: fetch it again") from error
    return (height, width) if turned else (width, height)
