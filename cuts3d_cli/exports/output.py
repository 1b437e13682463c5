"""Where an export is written: every file whole or not at all, and no file of the user's replaced without a word."""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from cuts3d_cli import interrupts
from cuts3d_cli.errors import OccupiedError, Setting
from cuts3d_cli.files import explained, make_folder, rename, sweep_folder, temporary_name, to_disk
from cuts3d_cli.paths import plain_path

IfExists = Literal["resume", "overwrite", "fail"]
"""What to do about files that are there: keep those of the same content and refuse others, replace them, refuse all."""
Announce = Callable[[Path, Path], None]
"""Told a file, and another one that will take its name; may raise a Cuts3dError to keep it from that."""
_UNFIT = re.compile(r'[\x00-\x1f\x7f<>:"|?*\ud800-\udfff]')
"""Characters that are in no name of a file on some systems."""


class Stems:
    """Names what is written of photos, of each something else."""

    def __init__(self) -> None:
        """Begin with no name taken."""
        self._taken: set[bytes] = set()

    def of(self, file: str) -> str:
        """Return a path for what is written of a photo: that of its file without the ending.

        Where several photos come to the same path, whatever the case of its letters, the first keeps it and the others
        get `-` and eight hex digits.

        Args:
            file: path of the photo, from whatever source: the result never leads out of the folder.
        """
        parts = [part for part in PurePosixPath(plain_path(file)).parts if part not in ("/", "//", "..", ".")]
        plain = "/".join(_UNFIT.sub("_", part) for part in parts) or "photo"
        stem = plain.removesuffix(PurePosixPath(plain).suffix)
        attempt = 0
        wanted = stem
        while (digest := hashlib.sha256(wanted.lower().encode()).digest()[:8]) in self._taken:
            attempt += 1
            wanted = f"{stem}-{hashlib.sha256(f'{file}#{attempt}'.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
        self._taken.add(digest)
        return wanted


class Output:
    """Writes the files of an export into a folder, and counts them.

    A file that is there with the same content stays as it is, so that an export that was interrupted can be run again.

    Attributes:
        folder: of all files.
        written: number of files that were written.
        same: number of files that were there with the same content.
    """

    def __init__(self, folder: Path, *, if_exists: IfExists = "resume", announce: Announce | None = None) -> None:
        """Make the folder.

        Args:
            folder: for all files.
            if_exists: what to do about files that are there.
            announce: told of every file before it takes its name.

        Raises:
            FileError: the folder cannot be made or written to.
        """
        make_folder(folder)
        self.folder = folder
        self._if_exists = if_exists
        self._announce = announce
        self.written = self.same = 0
        self._stems = Stems()
        self._folders: set[Path] = set()

    def stem_of(self, file: str) -> str:
        """Return a path for what is written of a photo, as `Stems.of`."""
        return self._stems.of(file)

    def write(self, name: str, data: bytes) -> None:
        """Write a file at once. It is not synced to the disk: an export has many, and can be run again.

        Args:
            name: its path from the folder, `/` between folders.
            data: its content.

        Raises:
            FileError: as `open`.
        """
        path = self._prepared(name)
        with _temporary(path) as (file, temporary):
            file.write(data)
            file.close()
            if self._is_new(temporary, path):
                os.replace(temporary, path)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file to write to, which takes its name when the block ends, unless something speaks against it.

        Args:
            name: its path from the folder, `/` between folders.

        Yields:
            The file, open for binary writing.

        Raises:
            FileError: it cannot be written.
            OccupiedError: it is there, and `if_exists` forbids to replace it.
        """
        path = self._prepared(name)
        with _temporary(path) as (file, temporary):
            yield file
            to_disk(file)
            file.close()
            if self._is_new(temporary, path):
                rename(temporary, path)

    def _prepared(self, name: str) -> Path:
        """Return the path of a file, whose folder is made."""
        path = self.folder / name
        if path.parent not in self._folders:
            make_folder(path.parent)
            sweep_folder(path.parent)
            self._folders.add(path.parent)
        if self._if_exists == "fail" and path.exists():
            raise OccupiedError(f"{path} is there: choose another ", Setting("out"))
        return path

    def _is_new(self, temporary: Path, path: Path) -> bool:
        """Count a file that is written, and tell whether it is to take its name."""
        if self._announce is not None:
            self._announce(path, temporary)
        if path.exists() and filecmp.cmp(temporary, path, shallow=False):
            self.same += 1
            return False
        if path.exists() and self._if_exists != "overwrite":
            raise OccupiedError(
                f"{path} is there with another content: choose another ",
                Setting("out"),
                ", or set ",
                Setting("if_exists", "overwrite"),
                " to replace it",
            )
        self.written += 1
        return True


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a temporary file beside another one; it is removed at the end, whatever happens."""
    temporary = temporary_name(path)
    with interrupts.unfinished(temporary), explained(path):
        try:
            with open(temporary, "xb") as file:
                yield file, temporary
        finally:
            temporary.unlink(missing_ok=True)
