"""Reading of base shards and sidecars, sample by sample, refusing whatever could lose or mix up samples."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from cuts3d_cli.errors import ShardError
from cuts3d_cli.images import IMAGE_EXTENSIONS
from cuts3d_cli.shards.keys import MAX_MEMBER_BYTES, is_meta, key_problem, split_name
from cuts3d_cli.shards.names import command_for, stage_of

_BLOCK = 512
_BASE_COMPOUNDS = ("sensor.png",)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample of a shard.

    Attributes:
        key: its name, with folders and without dots.
        members: contents by lower-case extension, all that follows the key's dot: `jpg`, `json`, `depth.png`.
        file: the tar that it was read from, for errors.
    """

    key: str
    members: dict[str, bytes]
    file: Path | None = field(default=None, compare=False)


class _Member(NamedTuple):
    name: str
    key: str
    extension: str
    offset: int
    size: int


def read_shard(path: Path, *, max_member_bytes: int = MAX_MEMBER_BYTES) -> Iterator[Sample]:
    """Read the samples of a base shard or sidecar in order, holding one at a time.

    Directories, hidden files and WebDataset's own `__...__` members are passed over, as WebDataset does.

    Args:
        path: an uncompressed tar.
        max_member_bytes: larger members are refused.

    Yields:
        The samples. A damaged shard yields those before the damage.

    Raises:
        ShardError: the file is missing, empty, truncated, damaged or no tar; a key returns after another one; a member
            is double, too large, a link or device, without an extension, or has a name that leads out of its folder; a
            key has a dot. The message names the file and the member.
    """
    with _open(path) as file:
        sample: Sample | None = None
        for member in _scan(path, file, max_member_bytes):
            if sample is None or sample.key != member.key:
                if sample is not None:
                    yield sample
                sample = Sample(key=member.key, members={}, file=path)
            sample.members[member.extension] = _read(path, file, member)
        if sample is not None:
            yield sample


class SidecarReader:
    """Reads a sidecar by the keys of its base shard, in their order. A context manager.

    A sidecar holds the samples of its base in the same order, less those that failed. Its headers are read at once,
    which tells a sample that failed from one in the wrong place; contents are read when asked for.

    Attributes:
        path: the sidecar.
        keys: its keys, in order.
    """

    def __init__(self, path: Path) -> None:
        """Read the headers of a sidecar.

        Args:
            path: a tar.

        Raises:
            ShardError: as `read_shard`.
        """
        self.path = path
        self._file = _open(path)
        self._members: dict[str, list[_Member]] = {}
        self._last = -1
        try:
            for member in _scan(path, self._file, MAX_MEMBER_BYTES):
                self._members.setdefault(member.key, []).append(member)
        except BaseException:
            self._file.close()
            raise
        self.keys = tuple(self._members)
        self._places = {key: place for place, key in enumerate(self.keys)}

    def __enter__(self) -> SidecarReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def get(self, key: str) -> Sample | None:
        """Read the sample of a key. Keys must be asked for in the order of the base shard; some may be left out.

        Args:
            key: a key of the base shard.

        Returns:
            The sample, or None if the sidecar has none of that key: it failed in the stage that wrote the sidecar.

        Raises:
            ShardError: the sidecar has the key before one that was asked for earlier, so that it does not belong to the
                base shard as it is now; or the file is damaged.
        """
        place = self._places.get(key)
        if place is None:
            return None
        if place < self._last:
            raise ShardError(
                f"{self.path}: key {key!r} comes before {self.keys[self._last]!r}, unlike in the base shard: run ",
                command_for(self.path, again=True),
            )
        self._last = place
        return self.pick(key)

    def pick(self, key: str) -> Sample | None:
        """Read the sample of a key, in any order. Works with base shards too.

        Returns:
            The sample, or None if there is none of that key.

        Raises:
            ShardError: the file is damaged.
        """
        if key not in self._members:
            return None
        members = {member.extension: _read(self.path, self._file, member) for member in self._members[key]}
        return Sample(key=key, members=members, file=self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise ShardError(f"{path} does not exist: run the stage that makes it, or check the name") from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}") from error


def _scan(path: Path, file: BinaryIO, max_member_bytes: int) -> Iterator[_Member]:
    """Check and list the members of a tar in order, reading no contents. The file may be read between two members."""
    seen: dict[str, set[str]] = {}
    current: str | None = None
    is_base = stage_of(path) is None
    for info in _headers(path, file):
        if not _is_payload(path, info):
            continue
        key, extension = _checked_split(path, info.name, is_base=is_base)
        if info.size > max_member_bytes:
            raise ShardError(f"{path}: member {info.name!r} has {info.size} bytes, more than {max_member_bytes}")
        if key in seen and key != current:
            raise ShardError(
                f"{path}: member {info.name!r} returns to key {key!r} after other samples: keys must be unique and the "
                "members of a sample adjacent, write the tar with sorted names"
            )
        if extension in seen.setdefault(key, set()):
            raise ShardError(f"{path}: member {info.name!r} is there twice (extensions are compared in lower case)")
        seen[key].add(extension)
        current = key
        yield _Member(info.name, key, extension, info.offset_data, info.size)


def _headers(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Iterate over the headers of a tar. Unlike `tarfile` alone, takes no damaged header for the end of the tar."""
    damaged = f"{path} is damaged or truncated: restore it, or write it again"
    end = -1
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            for info in tar:
                if info.size < 0 or tar.offset <= end:  # a forged size would send tarfile round in circles
                    raise ShardError(f"{damaged} (member {info.name!r} has an impossible size)")
                end = tar.offset
                yield info
                # Else the list of all headers grows with the shard.
                tar.members.clear()  # type: ignore[attr-defined]
            end = tar.offset
    except (tarfile.TarError, EOFError, OverflowError, ValueError) as error:
        if file.seek(0, os.SEEK_END) == 0:
            raise ShardError(f"{path} is empty (0 bytes): restore it, or write it again") from error
        if end < 0:
            raise ShardError(f"{path} is not an uncompressed tar, or is damaged: {error}") from error
        raise ShardError(f"{damaged} ({error})") from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror or error}") from error
    file.seek(end)
    block = file.read(_BLOCK)
    if block != b"\0" * _BLOCK:
        what = "no end mark" if not block else f"no valid header at byte {end}"
        raise ShardError(f"{damaged} ({what})")


def _is_payload(path: Path, info: tarfile.TarInfo) -> bool:
    """Tell members that belong to samples from those that WebDataset passes over. Raises for what is unsafe."""
    name = info.name
    if name.startswith("/"):
        raise ShardError(f"{path}: member {name!r} has an absolute name: write the tar from within its folder")
    if ".." in name.split("/"):
        raise ShardError(f"{path}: member {name!r} leads out of its folder: write the tar from within it")
    if info.isdir():
        return False
    if not info.isreg() or info.issparse():
        raise ShardError(f"{path}: member {name!r} is not a plain file but a link, device or sparse file")
    return not (is_meta(name) or name.rpartition("/")[2].startswith("."))


def _checked_split(path: Path, name: str, *, is_base: bool) -> tuple[str, str]:
    key, extension = split_name(name)
    if name.startswith("./"):
        raise ShardError(f"{path}: member {name!r} starts with './': write the tar as `tar -cf X.tar *`")
    if problem := key_problem(key):
        raise ShardError(f"{path}: member {name!r}: its key {key!r} {problem}: rename it")
    if not extension:
        raise ShardError(f"{path}: member {name!r} has no extension, so it belongs to no sample: rename or remove it")
    leading, dot, last = extension.rpartition(".")
    if is_base and dot and last in IMAGE_EXTENSIONS and extension not in _BASE_COMPOUNDS:
        raise ShardError(
            f"{path}: member {name!r} reads as image {extension!r} of key {key!r}: keys must not contain dots, "
            f"rename it to {(key + '.' + leading).replace('.', '_') + '.' + last!r}"
        )
    return key, extension


def _read(path: Path, file: BinaryIO, member: _Member) -> bytes:
    try:
        file.seek(member.offset)
        data = file.read(member.size)
    except OSError as error:
        raise ShardError(f"{path}: member {member.name!r} cannot be read: {error.strerror or error}") from error
    if len(data) != member.size:
        raise ShardError(f"{path} is truncated in member {member.name!r}: restore it, or write it again")
    return data
