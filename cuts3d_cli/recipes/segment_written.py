"""The files that `cuts3d segment` has written, so that no other one, and none that was changed since, is touched."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cuts3d_cli.errors import OccupiedError, Setting
from cuts3d_cli.files import atomic_write_bytes, explained, sweep_folder

JOURNAL = ".segment.files"
"""A file beside the results while they are made, with a line for every file before it takes its name."""
_AT_ONCE = 1 << 20

Contents = Mapping[str, Sequence[str]]
"""Path from the folder of the results -> what its content may be, as `content_of` says it; the newest is last."""


class WrittenFiles:
    """Keeps account of the files below one folder, also where the run that writes them is killed."""

    def __init__(self, folder: Path) -> None:
        """Look at nothing yet.

        Args:
            folder: of the results; all files are below it.
        """
        self._folder = folder
        self._path = folder / JOURNAL
        self._known: dict[str, list[str]] = {}
        self._replaces = False

    def interrupted(self) -> Contents:
        """Return the files that a run noted which did not end; some may not have been written."""
        try:
            lines = self._path.read_bytes().split(b"\n")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        found: dict[str, list[str]] = {}
        for line in lines[:-1]:  # what follows the last one was being noted at a kill, before its file was there
            with suppress(ValueError):  # damaged: its file counts as the user's, which nothing removes
                file, content = json.loads(line)
                found.setdefault(str(file), []).append(str(content))
        return found

    def begin(self, files: Contents, *, replaces: bool) -> None:
        """Begin with what earlier runs have written, and nothing else.

        Args:
            files: those.
            replaces: files of earlier runs may be replaced though the user has changed them.

        Raises:
            FileError: it cannot be written down.
        """
        self._known = {file: list(contents) for file, contents in files.items()}
        self._replaces = replaces
        lines = [_line(file, content) for file in sorted(self._known) for content in self._known[file]]
        atomic_write_bytes(self._path, b"".join(lines))

    def note(self, path: Path, content: Path) -> None:
        """Note a file that is about to be written.

        Args:
            path: of the file.
            content: a file that will take its name.

        Raises:
            FileError: it cannot be noted.
            OccupiedError: the user's own file is there, or one of ours that the user has changed.
        """
        file = path.relative_to(self._folder).as_posix()
        if path.exists():
            if file not in self._known:
                raise _not_ours(path)
            if not self._replaces:
                self.check_unchanged({file: self._known[file]})
        with explained(self._path):
            new = content_of(content)
            with open(self._path, "ab") as journal:
                journal.write(_line(file, new))
        self._known.setdefault(file, []).append(new)

    def all(self) -> dict[str, str]:
        """Return the files that are there, each with the content that was written, sorted."""
        return {file: self._known[file][-1] for file in self.those_there(self._known)}

    def forget(self) -> None:
        """Remove the notes, once the record of the results is written.

        Raises:
            FileError: they cannot be removed.
        """
        with explained(self._path):
            self._path.unlink(missing_ok=True)

    def those_there(self, files: Iterable[str]) -> list[str]:
        """Return those of some files that are there, sorted."""
        return [file for file in sorted(files) if (self._folder / file).is_file()]

    def check_unchanged(self, files: Contents, *, replaceable: bool = True) -> None:
        """Make sure that files are as they were written, if they are there.

        Args:
            files: with what they may hold.
            replaceable: the user may ask for them to be replaced.

        Raises:
            FileError: one cannot be read.
            OccupiedError: the user has changed one.
        """
        for file in self.those_there(files):
            path = self._folder / file
            with explained(path):
                changed = content_of(path) not in files[file]
            if changed:
                before = "" if replaceable else "or "
                problem = f"{path} was changed since `cuts3d segment` wrote it: move it away, {before}choose another "
                overwrite = (", or set ", Setting("run.if_exists", "overwrite"), " to replace it")
                raise OccupiedError(problem, Setting("out"), *(overwrite if replaceable else ()))

    def remove(self, files: Iterable[str]) -> None:
        """Remove files, and the folders that are empty without them; all others stay.

        Raises:
            FileError: one cannot be removed.
        """
        folders = set()
        for file in self.those_there(files):
            path = self._folder / file
            with explained(path):
                path.unlink()
            folders |= {parent for parent in path.parents if self._folder in parent.parents}
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # it holds other files
                sweep_folder(folder)
                folder.rmdir()


def content_of(path: Path) -> str:
    """Return what tells the content of a file from another one: its size and CRC-32.

    Raises:
        OSError: it cannot be read.
    """
    size = code = 0
    with open(path, "rb") as file:
        while part := file.read(_AT_ONCE):
            size, code = size + len(part), zlib.crc32(part, code)
    return f"{size}-{code:08x}"


def _line(file: str, content: str) -> bytes:
    return json.dumps([file, content]).encode("ascii") + b"\n"


def _not_ours(path: Path) -> OccupiedError:
    problem = f"{path} was not written by `cuts3d segment`: move it away, or choose another "
    return OccupiedError(problem, Setting("out"))
