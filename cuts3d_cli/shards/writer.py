"""Writing of shards and small files so that a finished name is always whole.

Everything goes to a temporary name in the same folder, to the disk, and then to its own name in one step. The bytes of
a tar depend on its samples alone: no times, no owners, sorted members.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from cuts3d_cli.errors import ShardError
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

    def __init__(self, path: Path) -> None:
        """Prepare a writer; nothing is touched before the `with` block.

        Args:
            path: the final name, in an existing folder.
        """
        self.path = path
        self.samples = 0
        self.size = 0
        self.sha256 = ""
        self._keys: set[str] = set()
        self._hash = hashlib.sha256()
        self._temporary = _temporary_name(path)
        self._file: BinaryIO | None = None
        self._whole = True

    def __enter__(self) -> ShardWriter:
        with _explained(self.path):
            self._file = open(self._temporary, "xb")
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
        with _explained(self.path):
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
                with _explained(self.path):
                    self._finish()
        finally:
            if self._file is not None:
                # A failed close (a full disk) matters only for a file that is kept, and _finish has closed that one.
                with suppress(OSError):
                    self._file.close()
                self._file = None
            self._temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        assert self._file is not None
        if not self._whole:
            raise ShardError(f"{self.path}: a sample was written in part only, so the shard is given up")
        self._put(b"\0" * (2 * _BLOCK))
        self._put(b"\0" * (-self._file.tell() % _RECORD))
        size = self._file.tell()
        _to_disk(self._file)
        self._file.close()
        manifest_path(self.path).unlink(missing_ok=True)
        _rename(self._temporary, self.path)
        self.size = size
        self.sha256 = self._hash.hexdigest()


def to_json_bytes(value: object) -> bytes:
    """JSON with sorted keys, as bytes that depend on nothing but the value."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that its name holds either the old content or the new, whole, whatever happens.

    Args:
        path: the final name; its folder must exist.
        data: the content.

    Raises:
        ShardError: the file cannot be written; an older one stays as it was.
    """
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes its name when the block ends, whole and on the disk, or never.

    Args:
        path: the final name; its folder must exist.

    Yields:
        The file, open for binary writing.

    Raises:
        ShardError: the file cannot be written; an older one stays as it was.
    """
    temporary = _temporary_name(path)
    with _explained(path):
        try:
            with open(temporary, "xb") as file:
                yield file
                _to_disk(file)
            _rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def atomic_write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write a value as JSON in the way of `atomic_write_bytes`. ASCII only, keys in their own order, one final newline.

    Args:
        path: the final name; its folder must exist.
        value: anything that JSON can hold; NaN and infinities are not in JSON.
        indent: spaces per level, None for one line.

    Raises:
        ShardError: the file cannot be written.
        TypeError, ValueError: the value is not JSON.
    """
    text = json.dumps(value, indent=indent, allow_nan=False)
    atomic_write_bytes(path, f"{text}\n".encode("ascii"))


def _temporary_name(path: Path) -> Path:
    # Hidden and not ending in .tar, so that no glob, folder or other reader takes it for a shard.
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _rename(temporary: Path, path: Path) -> None:
    os.replace(temporary, path)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
                raise
        finally:
            os.close(folder)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ShardError(f"{path} cannot be written: {error.strerror or error}") from error
