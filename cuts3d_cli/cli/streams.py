"""Standard output and error as a command needs them: any name can be printed, and a failure is told once.

Python by itself raises where an ASCII terminal cannot show a name, calls a full disk an error of no file, and
complains once more on its way out.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from cuts3d_cli.errors import FileError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

READER_GONE = 141
"""Exit code where nobody reads the output any more, as in `cuts3d verify . | head -1`: 128 + SIGPIPE."""


def install() -> None:
    """Replace sys.stdout and sys.stderr. Each line leaves at once, so that nothing is left to fail at the very end."""
    if os.name == "posix":
        sys.stdout = _stream(sys.stdout, "standard output")
        sys.stderr = _stream(sys.stderr, None)


def _stream(before: TextIO, name: str | None) -> TextIO:
    try:
        descriptor = before.fileno()
    except (AttributeError, OSError, ValueError):  # it was closed when the command began
        return before
    buffer = io.BufferedWriter(_Output(descriptor, name))
    return io.TextIOWrapper(buffer, encoding=before.encoding, errors="backslashreplace", line_buffering=True)


class _Output(io.FileIO):
    """A descriptor to write to. After a failure nothing more is written."""

    def __init__(self, descriptor: int, name: str | None) -> None:
        """Take a descriptor.

        Args:
            descriptor: an open one, which stays open.
            name: what it is called where it cannot be written; None if that matters to nobody.
        """
        super().__init__(descriptor, "w", closefd=False)
        self._called = name

    def write(self, data: ReadableBuffer, /) -> int:
        """Write bytes.

        Raises:
            SystemExit: with `READER_GONE`.
            FileError: the disk is full, for example.
        """
        try:
            return super().write(data)
        except OSError as error:
            _send_to_nowhere(self.fileno())
            if isinstance(error, BrokenPipeError):
                raise SystemExit(READER_GONE) from error
            if self._called is not None:
                raise FileError(f"{self._called} cannot be written: {error.strerror or error}") from error
            return memoryview(data).nbytes


def _send_to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
