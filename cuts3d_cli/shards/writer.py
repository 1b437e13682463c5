"""Writing of shards and small files so that a finished name is always whole.

Everything goes to a temporary name in the same folder, to the disk, and then to its own name in one step. The bytes of
a tar depend on its samples alone: no times, no owners, sorted members.

A process that is killed leaves its temporary files behind. Their names say whose they are, and the next writer of the
same file removes those of processes that have ended.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from cuts3d_cli import interrupts
from cuts3d_cli.errors import ShardError
from cuts3d_cli.owners import Owner, parse_owner, this_process
from cuts3d_cli.shards.keys import MAX_MEMBER_BYTES, extension_problem, key_problem
from cuts3d_cli.shards.names import manifest_path

_BLOCK = 512
_RECORD = 20 * _BLOCK
_TEMPORARY = re.compile(r"(?P<owner>[0-9a-f]+-[0-9]+-[0-9]+)\.[0-9a-f]{8}\.tmp")
ABANDONED_SECONDS = 86_400.0
"""A temporary file of another machine that has not changed for so long is taken for a dead process's."""


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
        with ExitStack() as stack, explained(self.path):
            stack.enter_context(interrupts.unfinished(self._temporary))
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
        with explained(self.path):
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
                with explained(self.path):
                    self._finish()
        finally:
            if self._file is not None:
                # A failed close (a full disk) matters only for a file that is kept, and _finish has closed that one.
                with suppress(OSError):
                    self._file.close()
                self._file = None
            self._temporary.unlink(missing_ok=True)
            self._noted.close()

    def _finish(self) -> None:
        assert self._file is not None
        if not self._whole:
            raise ShardError(f"{self.path}: a sample was written in part only, so the shard is given up")
        self._put(b"\0" * (2 * _BLOCK))
        self._put(b"\0" * (-self._file.tell() % _RECORD))
        size = self._file.tell()
        _to_disk(self._file)
        self._file.close()
        with interrupts.held_back():
            if self._before_publishing is not None:
                self._before_publishing()
            manifest_path(self.path).unlink(missing_ok=True)
            _rename(self._temporary, self.path)
            self.size = size
            self.sha256 = self._hash.hexdigest()
            if self._after_publishing is not None:
                self._after_publishing()


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
    temporary = temporary_name(path)
    with interrupts.unfinished(temporary), explained(path):
        try:
            with open(temporary, "xb") as file:
                sweep(path)
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


def temporary_name(path: Path) -> Path:
    """Name a temporary file in a file's own folder: hidden, no shard for any reader, and telling whose it is."""
    return path.with_name(f".{path.name}.{this_process()}.{secrets.token_hex(4)}.tmp")


def sweep(path: Path, *, claimed: bool = False) -> None:
    """Remove temporary files that killed writers of a file have left behind.

    Those of processes that have ended on this machine go; those of other machines, which cannot be asked, when nothing
    has been written to them for `ABANDONED_SECONDS` of the file system's own time. Files that cannot be removed stay.

    Args:
        path: the file.
        claimed: it is this process's to write, so that any other writer is dead or has lost it: all but its own go.
    """
    own = this_process()
    found = _left_behind(path)
    # The file system's own time: that of a temporary file which this process is writing.
    now = max((item.stat().st_mtime for item, owner in found if owner == own), default=0.0)
    for item, owner in found:
        if owner == own:
            continue
        with suppress(OSError):  # gone meanwhile, or not ours to remove
            elsewhere = owner.machine != own.machine
            if claimed or owner.is_dead or (elsewhere and now - item.stat().st_mtime > ABANDONED_SECONDS):
                item.unlink()


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
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the system within the block into a line about a file.

    Raises:
        ShardError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise ShardError(f"{path} cannot be written: {error.strerror or error}") from error


def _left_behind(path: Path) -> list[tuple[Path, Owner]]:
    """The temporary files of a file, with their writers."""
    prefix = f".{path.name}."
    endings = [item[len(prefix) :] for item in os.listdir(path.parent) if item.startswith(prefix)]
    return [
        (path.with_name(prefix + ending), owner)
        for ending in endings
        if (match := _TEMPORARY.fullmatch(ending)) and (owner := parse_owner(match["owner"]))
    ]
