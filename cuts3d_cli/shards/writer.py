"""Writes shards so that a finished name is always whole.

The bytes of a tar depend on its samples alone: no times, no owners, sorted members. See `files` for how a name becomes
whole at once.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from cuts3d_cli import interrupts
from cuts3d_cli.errors import ShardError, UnwritableError
from cuts3d_cli.files import explained, rename, sweep, temporary_name, to_disk
from cuts3d_cli.shards.keys import MAX_MEMBER_BYTES, extension_problem, key_problem
from cuts3d_cli.shards.names import manifest_path

_BLOCK = 512
_RECORD = 20 * _BLOCK


class ShardWriter:
    """Writes one tar of samples, which appears under its name only when it is whole.

    Used as a context manager. If the block ends with an exception, nothing is left behind and an older tar of the same
    name stays as it was. Otherwise the tar replaces it, and the older manifest, which would speak of other bytes, is
    removed first: a tar without a manifest counts as unfinished.

    The format is GNU tar with UTF-8 names, mode 0644, owner 0, time 0; members are sorted within a sample, samples stay
    in the order written. Memory does not grow with the samples, but for their keys.

    Attributes:
        path: the final name.
        samples: number of samples written so far.
        size: bytes of the finished tar; 0 before.
        sha256: hex digest of the finished tar; empty before.
    """

    def __init__(
        self,
        path: Path,
        *,
        before_publishing: Callable[[], None] | None = None,
        after_publishing: Callable[[], None] | None = None,
    ) -> None:
        """Prepare a writer; nothing is touched before the `with` block.

        Args:
            path: the final name, in an existing folder.
            before_publishing: called when all is on the disk and before anything under the final names is touched.
                What it raises gives the shard up.
            after_publishing: called when the tar has its name, to write its manifest. A signal that comes in between
                waits for it.
        """
        self.path = path
        self._before_publishing = before_publishing
        self._after_publishing = after_publishing
        self.samples = 0
        self.size = 0
        self.sha256 = ""
        self._keys: set[str] = set()
        self._hash = hashlib.sha256()
        self._temporary = temporary_name(path)
        self._file: BinaryIO | None = None
        self._whole = True
        self._noted = ExitStack()

    def __enter__(self) -> ShardWriter:
        with ExitStack() as stack, explained(self.path, error=UnwritableError):
            stack.enter_context(interrupts.unfinished(self._temporary))
            stack.callback(self._temporary.unlink, missing_ok=True)  # should a signal come before all is ready
            self._file = open(self._temporary, "xb")
            sweep(self.path)
            self._noted = stack.pop_all()
        return self

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample.

        Args:
            key: its name, without dots; folders are allowed.
            members: contents by extension (`jpg`, `json`, `depth.png`), at least one.

        Raises:
            ShardError: the key or an extension is one that WebDataset would misread, the key was written before, there
                are no members, or the disk is full.
        """
        if not self._whole:
            raise ShardError(f"{self.path}: an earlier sample was written in part only, so the shard is given up")
        if problem := key_problem(key):
            raise ShardError(f"{self.path}: key {key!r} {problem}: rename the sample")
        if key in self._keys:
            raise ShardError(f"{self.path}: key {key!r} is written twice: keys must be unique in a shard")
        if not members:
            raise ShardError(f"{self.path}: key {key!r} has no members: a sample needs at least one file")
        for extension, data in members.items():
            if problem := extension_problem(extension):
                raise ShardError(f"{self.path}: extension {extension!r} of key {key!r} {problem}")
            if len(data) > MAX_MEMBER_BYTES:
                raise ShardError(f"{self.path}: {key}.{extension} has {len(data)} bytes, more than {MAX_MEMBER_BYTES}")
        self._whole = False
        with explained(self.path, error=UnwritableError):
            for extension in sorted(members):
                self._append(f"{key}.{extension}", members[extension])
        self._whole = True
        self._keys.add(key)
        self.samples += 1

    def _append(self, name: str, data: bytes) -> None:
        # TarInfo's own defaults are mode 0644, owner and group 0 without names, time 0.
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._put(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict"))
        self._put(data)
        self._put(b"\0" * (-len(data) % _BLOCK))

    def _put(self, data: bytes) -> None:
        if self._file is None:
            raise ValueError(f"{self.path} is not open for writing: use ShardWriter in a with statement")
        self._file.write(data)
        self._hash.update(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with explained(self.path, error=UnwritableError):
                    self._finish()
        finally:
            if self._file is not None:
                # A failed close (a full disk) matters only for a file that is kept, and _finish has closed that one.
                with suppress(OSError):
                    self._file.close()
                self._file = None
            self._noted.close()

    def _finish(self) -> None:
        assert self._file is not None
        if not self._whole:
            raise ShardError(f"{self.path}: a sample was written in part only, so the shard is given up")
        self._put(b"\0" * (2 * _BLOCK))
        self._put(b"\0" * (-self._file.tell() % _RECORD))
        size = self._file.tell()
        to_disk(self._file)
        self._file.close()
        with interrupts.held_back():
            if self._before_publishing is not None:
                self._before_publishing()
            manifest_path(self.path).unlink(missing_ok=True)
            rename(self._temporary, self.path)
            self.size = size
            self.sha256 = self._hash.hexdigest()
            if self._after_publishing is not None:
                self._after_publishing()
