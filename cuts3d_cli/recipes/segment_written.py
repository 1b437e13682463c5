"""What a run of `cuts3d segment` has written so far: known to the next one also where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cuts3d_cli.files import atomic_write_bytes, explained

JOURNAL = ".segment.files"
"""A file beside the results while they are made, with a line for every file before it is there."""


class Journal:
    """Notes files before they are written, below one folder, so that no other file there is taken for one of them."""

    def __init__(self, folder: Path) -> None:
        """Look at nothing yet.

        Args:
            folder: of the results; all files are below it.
        """
        self._folder = folder
        self._path = folder / JOURNAL

    def files(self) -> set[str]:
        """Return the files that were noted, as paths from the folder; some may not have been written."""
        try:
            lines = self._path.read_bytes().split(b"\n")
        except (FileNotFoundError, NotADirectoryError):
            return set()
        found = set()
        for line in lines[:-1]:  # what follows the last one was being noted at a kill, before its file was there
            with suppress(ValueError):  # damaged: its file counts as the user's, which nothing removes
                found.add(str(json.loads(line)))
        return found

    def begin(self, files: Iterable[str]) -> None:
        """Note files that earlier runs have written, and nothing else.

        Raises:
            FileError: it cannot be written.
        """
        atomic_write_bytes(self._path, b"".join(map(_line, sorted(files))))

    def note(self, path: Path) -> None:
        """Note a file that is about to be written.

        Raises:
            FileError: it cannot be noted.
        """
        with explained(self._path), open(self._path, "ab") as file:
            file.write(_line(path.relative_to(self._folder).as_posix()))

    def end(self) -> None:
        """Forget all: the record of the results names them now."""
        with explained(self._path):
            self._path.unlink(missing_ok=True)


def _line(file: str) -> bytes:
    return json.dumps(file).encode("ascii") + b"\n"
