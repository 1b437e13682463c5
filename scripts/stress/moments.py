"""Strikes a fork at one of its own operations on files: before it, in the middle of a write, or some lines later.

Kills at random times mostly fall where nothing happens. A run's operations on files (open for writing, write, rename,
remove, touch, make a folder) can be counted, and one of them drawn.
"""

from __future__ import annotations

import builtins
import errno
import io
import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

_AUDITED = {
    "os.rename": "rename",
    "os.link": "link",
    "os.remove": "remove",
    "os.mkdir": "make folder",
    "os.rmdir": "remove folder",
    "os.utime": "touch",
    "os.truncate": "truncate",
}
"""Python's audit events -> what happens. Each comes before its operation."""
_PACKAGE = f"{os.sep}cuts3d_cli{os.sep}"
_open = open


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a run is struck.

    Attributes:
        point: number of an operation on files, from 1.
        lines: of the package that are executed after the operation has begun; 0 strikes before it.
        share: of the bytes that a write still puts into the file, if the operation is one.
    """

    point: int
    lines: int = 0
    share: float = 0.0


class Note:
    """Memory that a fork shares with its parent, and that outlives it."""

    _NUMBER, _TIME, _WHERE = "<q", "<d", "<80s"
    _SIZE = 96

    def __init__(self) -> None:
        """Begin with no operation."""
        self._memory = mmap.mmap(-1, self._SIZE)

    @property
    def number(self) -> int:
        """A number that the fork sets, such as that of its operations on files."""
        return int(struct.unpack_from(self._NUMBER, self._memory, 0)[0])

    @number.setter
    def number(self, number: int) -> None:
        struct.pack_into(self._NUMBER, self._memory, 0, number)

    @property
    def struck_at(self) -> float:
        """When the fork was struck, by `time.monotonic`."""
        return float(struct.unpack_from(self._TIME, self._memory, 8)[0])

    @property
    def struck(self) -> str:
        """Where the fork was struck, as in "rename s-000.tar"; empty if it was not."""
        return str(struct.unpack_from(self._WHERE, self._memory, 16)[0].rstrip(b"\0").decode(errors="replace"))

    @struck.setter
    def struck(self, where: str) -> None:
        struct.pack_into(self._TIME, self._memory, 8, time.monotonic())
        struct.pack_into(self._WHERE, self._memory, 16, where.encode()[:80])


class FileOperations:
    """Counts the operations on files below a folder, and strikes at one. Lives in the fork.

    Args:
        folder: the working folder of the fork.
        note: receives the count, and where the fork was struck.
        moment: when to strike; None only counts.

    Attributes:
        deed: what to do then; returns whether it could be done, else it is tried again at the next operation.
        is_full: whether nothing more can be written, as on a full disk.
    """

    def __init__(self, folder: Path, note: Note, moment: Moment | None) -> None:
        """Watch nothing yet."""
        self.deed: Callable[[], bool] = lambda: True
        self.is_full = False
        self._folder = str(folder)
        self._note = note
        self._moment = moment
        self._lines_left = 0
        self._strikes = False

    def watch(self) -> None:
        """Begin. What is open already is not watched."""
        sys.addaudithook(self._audit)
        builtins.open = io.open = self._watched_open

    def write(self, path: Any, data: Any, write: Callable[[Any], int | None]) -> int | None:
        """Write to a file, of which a part may be the last that the process does.

        Args:
            path: of the file.
            data: what to write.
            write: writes, and returns how many bytes.

        Raises:
            OSError: the disk is full.
        """
        moment = self._moment
        if moment is not None and self._note.number + 1 == moment.point:
            written = write(memoryview(data)[: int(len(data) * moment.share)]) or 0
        else:
            written = 0
        self._reach("write", path)
        if self.is_full:
            raise _disk_full(path)
        return written or write(data)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR) and self._is_below(path):
                self._reach("open", path)
                if self.is_full and flags & os.O_CREAT:
                    raise _disk_full(path)
        elif (what := _AUDITED.get(event)) and self._is_below(arguments[0]):
            self._reach(what, arguments[0])

    def _is_below(self, path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        name = os.fsdecode(path)
        return not name.startswith(os.sep) or name.startswith(self._folder)

    def _watched_open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """Open a file as `open` does; one that is written to tells of its writes."""
        if not set(mode) & set("wxa+") or not self._is_below(file):
            return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = _Watched(file, mode.replace("b", "").replace("t", ""), opener=opener)
        raw.operations = self
        if buffering == 0:
            return raw
        buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffer
        return io.TextIOWrapper(buffer, encoding, errors, newline, line_buffering=buffering == 1)

    def _reach(self, what: str, path: Any) -> None:
        """Count an operation, and strike if it is the one."""
        if self._strikes:
            return  # what the deed does is no operation of the run
        self._note.number += 1
        moment = self._moment
        if moment is None or self._note.number < moment.point:
            return
        where = f"{what} {os.path.basename(os.fsdecode(path))}"
        if moment.lines and threading.current_thread() is threading.main_thread():
            self._moment = None
            self._lines_left = moment.lines
            self._strike_later(where)
        elif self._strike(where):
            self._moment = None

    def _strike(self, where: str) -> bool:
        self._note.struck = where
        self._strikes = True
        try:
            done = self.deed()
        finally:
            self._strikes = False
        if not done:
            self._note.struck = ""
        return done

    def _strike_later(self, where: str) -> None:
        """Strike after some more lines of the package."""

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if _PACKAGE not in frame.f_code.co_filename:
                return None
            if event == "line" and self._lines_left > 0:
                self._lines_left -= 1
                if self._lines_left == 0:
                    sys.settrace(None)
                    self._strike(where)
            return trace

        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if _PACKAGE in frame.f_code.co_filename:
                frame.f_trace = trace
            frame = frame.f_back
        sys.settrace(trace)


class _Watched(io.FileIO):
    """A file that tells of each write."""

    operations: FileOperations

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        return self.operations.write(self.name, data, super().write)


def _disk_full(path: Any) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
