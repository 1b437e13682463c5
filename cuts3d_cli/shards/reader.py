"""Reading of base shards and sidecars, sample by sample, refusing whatever could lose or mix up samples."""

from __future__ import annotations

import tarfile
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from cuts3d_cli.errors import ShardError
from cuts3d_cli.lookalikes import HEAD_BYTES, lookalike
from cuts3d_cli.shards.keys import MAX_MEMBER_BYTES, is_meta, is_utf8, key_problem, split_name
from cuts3d_cli.shards.names import command_for

_BLOCK = 512
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample of a shard.

    Attributes:
        key: its name, with folders and without dots.
        members: contents by lower-case extension, all that follows the key's dot: `jpg`, `json`, `depth.png`; empty
            for a file without an extension.
        file: the tar that it was read from, for errors.
        names: by extension, the names of the members in that tar, whose extensions may have capital letters.
    """

    key: str
    members: dict[str, bytes]
    file: Path | None = field(default=None, compare=False)
    names: Mapping[str, str] = field(default_factory=dict, compare=False)


class _Member(NamedTuple):
    name: str
    key: str
    extension: str
    offset: int
    size: int


def read_shard(path: Path, *, whole: bool = True, max_member_bytes: int = MAX_MEMBER_BYTES) -> Iterator[Sample]:
    """Read the samples of a base shard or sidecar in order, holding one at a time.

    Directories, hidden files and WebDataset's own `__...__` members are passed over, as WebDataset does. A hard link
    has the content of the member that it links to.

    Args:
        path: an uncompressed tar.
        whole: refuse a damaged shard before its first sample, so that no work is done for nothing; else those before
            the damage are given.
        max_member_bytes: larger members, and samples that are larger as a whole, are refused.

    Yields:
        The samples. A key is spelled as its first member spells it; NFC and NFD are one key.

    Raises:
        ShardError: the file is missing, empty, truncated, damaged, no tar, or holds another tar after its end; a key
            returns after another one, or has a dot; a member is double, too large, a symbolic link or a device, or has
            a name that leads out of its folder. The message names the file and the member.
    """
    with _open(path) as file:
        found: list[_Member] = []
        members = _scan(path, file, max_member_bytes)
        for member in list(members) if whole else members:
            if found and found[0].key != member.key:
                yield _sample(path, file, found)
                found = []
            found.append(member)
        if found:
            yield _sample(path, file, found)


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

    def pick(self, key: str, *, only: Collection[str] | None = None) -> Sample | None:
        """Read the sample of a key, in any order. Works with base shards too.

        Args:
            key: of the sample.
            only: extensions of the members to read; None for all.

        Returns:
            The sample, or None if there is none of that key.

        Raises:
            ShardError: the file is damaged.
        """
        if key not in self._members:
            return None
        members = [item for item in self._members[key] if only is None or item.extension in only]
        return _sample(self.path, self._file, members, key=key)

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
    contents: dict[str, tuple[int, int]] = {}
    finished: set[str] = set()
    current, spelled, extensions, size = "", "", set[str](), 0
    for info in _headers(path, file):
        # Pass over what is in no sample, and find what a hard link stands for.
        name = _name_in_folder(path, info.name)
        if info.isdir() or is_meta(name) or name.rpartition("/")[2].startswith("."):
            continue
        content = _content(path, info, contents)
        contents[name] = content
        # The members of a key stand together, and each has an extension of its own.
        key, extension = _checked_split(path, name)
        if (identity := unicodedata.normalize("NFC", key)) != current:
            finished.add(current)
            current, spelled, extensions, size = identity, key, set(), 0
            if identity in finished:
                raise ShardError(
                    f"{path}: member {name!r} returns to key {key!r} after other samples: keys must be unique and the "
                    "members of a sample adjacent, write the tar with `tar --sort=name`"
                )
        if extension in extensions:
            raise ShardError(f"{path}: member {name!r} is there twice (extensions are compared in lower case)")
        extensions.add(extension)
        # A sample is held in memory as a whole.
        size += content[1]
        if size > max_member_bytes:
            alone = content[1] > max_member_bytes
            what = f"member {name!r} has {content[1]}" if alone else f"the members of key {key!r} have together {size}"
            raise ShardError(f"{path}: {what} bytes, more than {max_member_bytes}")
        yield _Member(name, spelled, extension, *content)


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
        if end < 0:
            raise ShardError(f"{path} is {_something_else(file, error)}") from error
        raise ShardError(f"{damaged} ({error})") from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror or error}") from error
    _check_end(path, file, end, damaged)


def _check_end(path: Path, file: BinaryIO, end: int, damaged: str) -> None:
    """Make sure that a tar has an end mark, and that nothing but zeros follows it."""
    file.seek(end)
    place = end
    while chunk := file.read(_CHUNK):
        if rest := chunk.lstrip(b"\0"):
            place += len(chunk) - len(rest)
            place -= place % _BLOCK
            break
        place += len(chunk)
    else:
        if place - end < _BLOCK:
            raise ShardError(f"{damaged} (no end mark)")
        return
    if place == end:
        raise ShardError(f"{damaged} (no valid header at byte {end})")
    file.seek(place)
    try:
        tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise ShardError(f"{damaged} (byte {place}, after the end mark, is not zero)") from error
    raise ShardError(
        f"{path} holds another tar, which begins at byte {place}, after the end of the first one: most programs would "
        "not see it; unpack both with `tar -xif` and write one tar, or join tars with `tar --concatenate`"
    )


def _something_else(file: BinaryIO, error: Exception) -> str:
    """Say what a file is that is no tar, to follow "it is"."""
    file.seek(0)
    if found := lookalike(file.read(HEAD_BYTES)):
        return f"{found.what}, not a plain tar: {found.way_out}"
    return f"not an uncompressed tar, or is damaged: {error}"


def _name_in_folder(path: Path, name: str) -> str:
    """Return a member's name without `./`, as `tar -cf X.tar .` writes it. Raises for a name that is unsafe.

    A name that is not UTF-8 is taken for Latin-1, so that it can be written anywhere.
    """
    if not is_utf8(name):
        name = name.encode("utf-8", "surrogateescape").decode("latin-1")
    if name.startswith("/"):
        raise ShardError(f"{path}: member {name!r} has an absolute name: write the tar from within its folder")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ShardError(f"{path}: member {name!r} leads out of its folder: write the tar from within it")
    return "/".join(parts)


def _content(path: Path, info: tarfile.TarInfo, contents: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Return where the content of a member begins, and its bytes; that of a hard link stands further ahead."""
    if info.islnk():
        if (linked := contents.get(_name_in_folder(path, info.linkname))) is not None:
            return linked
        raise ShardError(f"{path}: member {info.name!r} is a link to {info.linkname!r}, which does not stand before it")
    if info.issym():
        raise ShardError(f"{path}: member {info.name!r} is a symbolic link: write the tar with `tar --dereference`")
    if info.issparse():
        raise ShardError(f"{path}: member {info.name!r} is a sparse file: write the tar without `--sparse`")
    if not info.isreg():
        raise ShardError(f"{path}: member {info.name!r} is not a plain file but a device or pipe: leave it out")
    return info.offset_data, info.size


def _checked_split(path: Path, name: str) -> tuple[str, str]:
    key, extension = split_name(name)
    if problem := key_problem(key):
        raise ShardError(f"{path}: member {name!r}: its key {key!r} {problem}: rename it")
    return key, extension


def _sample(path: Path, file: BinaryIO, members: Sequence[_Member], *, key: str | None = None) -> Sample:
    """Read the members of a key."""
    return Sample(
        key=members[0].key if key is None else key,
        members={member.extension: _read(path, file, member) for member in members},
        file=path,
        names={member.extension: member.name for member in members},
    )


def _read(path: Path, file: BinaryIO, member: _Member) -> bytes:
    try:
        file.seek(member.offset)
        data = file.read(member.size)
    except OSError as error:
        raise ShardError(f"{path}: member {member.name!r} cannot be read: {error.strerror or error}") from error
    if len(data) != member.size:
        raise ShardError(f"{path} is truncated in member {member.name!r}: restore it, or write it again")
    return data
