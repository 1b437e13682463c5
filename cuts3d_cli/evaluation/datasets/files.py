"""Where the files of a dataset are: people unpack the same archives into folders of many names."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from cuts3d_cli.errors import DatasetError
from cuts3d_cli.evaluation.datasets.frames import PhotoHead
from cuts3d_cli.images import IMAGE_EXTENSIONS, exif_orientation, open_image, oriented_size
from cuts3d_cli.paths import plain_path


def base_folders(root: Path, names: Sequence[str]) -> list[Path]:
    """Return the existing folders that may hold a dataset.

    Args:
        root: the folder of all datasets, or that of this one, or one in between.
        names: paths of the dataset's folder below the folder of all datasets.
    """
    # The root is the folder of all datasets.
    below = [root / name for name in names]
    # The root is a folder on the way to the dataset, or the dataset's own.
    own = [
        root.joinpath(*parts[place + 1 :])
        for parts in (Path(name).parts for name in names)
        for place, part in enumerate(parts)
        if part == root.resolve().name
    ]
    return [folder for folder in dict.fromkeys((*below, *own)) if folder.is_dir()]


def first_complete(bases: Sequence[Path], alternatives: Sequence[Sequence[str]]) -> tuple[Path, ...] | None:
    """Return the first alternative of which every path exists, all below one base folder; None if there is none."""
    for base in bases:
        for parts in alternatives:
            paths = tuple(base / part for part in parts)
            if all(path.exists() for path in paths):
                return paths
    return None


def missing_paths(bases: Sequence[Path], alternatives: Sequence[Sequence[str]]) -> list[Path]:
    """Return what is missing of the alternative that is nearest to complete."""
    candidates = [[base / part for part in parts] for base in bases for parts in alternatives]
    nearest = max(candidates, key=lambda paths: sum(path.exists() for path in paths))
    return [path for path in nearest if not path.exists()]


def count_photos(folders: Sequence[Path]) -> int:
    """Count the photos in some folders, subfolders included."""
    return sum(
        Path(name).suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS
        for folder in folders
        for _, _, names in os.walk(folder)
        for name in names
    )


class Photos:
    """The photos in some folders, found by whatever part of their path the annotations give."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Remember the folders; they are listed when a photo is looked up.

        Args:
            folders: that hold the photos; where several hold a photo of the same name, the first one's is taken.
        """
        self._folders = folders
        self._names: dict[Path, Mapping[str, Path]] = {}

    def find(self, file: str, *, extensions: Sequence[str] = ()) -> Path | None:
        """Return the photo of a file name, looked up with all its folders, then without the first, the first two, ...

        Args:
            file: as in the annotations, however it is written there.
            extensions: others that the photo may have instead.
        """
        path = PurePosixPath(plain_path(file))
        parts = [part for part in path.parts if part not in ("/", "//", "..", ".")]
        names = [path.name, *(path.with_suffix(extension).name for extension in extensions)]
        for dropped in range(len(parts)):
            for folder in self._folders:
                parent = self._below(folder, parts[dropped:-1])
                for name in names:
                    if parent is not None and name in self._listing(parent):
                        return self._listing(parent)[name]
        return None

    def _below(self, folder: Path, parts: Sequence[str]) -> Path | None:
        """Return a folder below another one, part by part, since names on the disk may be written differently."""
        for part in parts:
            found = self._listing(folder).get(part)
            if found is None:
                return None
            folder = found
        return folder

    def _listing(self, folder: Path) -> Mapping[str, Path]:
        """Return what is in a folder, by its name in plain form; nothing where there is no such folder."""
        if folder not in self._names:
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
            self._names[folder] = {plain_path(name): folder / name for name in names}
        return self._names[folder]


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, without their ends.

    Raises:
        DatasetError: the file cannot be read, or is not text.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not a text file, or is damaged: fetch it again") from error


def photo_head(photo: Path | bytes) -> PhotoHead:
    """Read the size and the EXIF orientation of a photo from the head of its file.

    Args:
        photo: its file, or the bytes of one.

    Returns:
        What the head says; no size where this is not a photo, or cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(photo) as image:
                return PhotoHead(size=oriented_size(image), orientation=exif_orientation(image))
    except Exception:  # Pillow raises many types on damaged files; all mean the same here.
        return PhotoHead(size=None)
