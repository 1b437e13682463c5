"""Files that are whole or not there at all, and whose temporary file is whose.

Everything goes to a temporary name in the same folder, to the disk, and then to its own name in one step. A process
that is killed leaves its temporary files behind. Their names say whose they are, and the next writer of the same file
removes those of processes that have ended.

Only the machine on which a process ran can tell whether it has ended. "Machine" is one boot of one system and one
container in it: where process numbers mean the same processes.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cuts3d_cli import interrupts
from cuts3d_cli.errors import FileError, Setting, SettingError

_TEMPORARY = re.compile(r"(?P<owner>[0-9a-f]+-[0-9]+-[0-9]+)\.[0-9a-f]{8}\.tmp")
_HIDDEN = re.compile(r"\..+\." + _TEMPORARY.pattern)
ABANDONED_SECONDS = 86_400.0
"""A temporary file of another machine that has not changed for so long is taken for a dead process's."""
_OWNER = re.compile(r"(?P<machine>[0-9a-f]{10})-(?P<process>[0-9]+)-(?P<start>[0-9]+)")
_UNKNOWN = 0


@dataclass(frozen=True)
class Owner:
    """A process. As text, it fits a file's name.

    Attributes:
        machine: 10 hex digits.
        process: its number there.
        start: when it started, in the system's ticks since it was booted, which tells it from a later process of the
            same number; 0 where the system does not say.
    """

    machine: str
    process: int
    start: int

    def __str__(self) -> str:
        return f"{self.machine}-{self.process}-{self.start}"

    @property
    def is_dead(self) -> bool:
        """True if the process has ended for certain; False if it runs, or ran on another machine."""
        return self.machine == machine() and not _runs(self.process, self.start)


def this_process() -> Owner:
    """The process that asks."""
    process = os.getpid()
    _, start = _state_and_start(process)
    return Owner(machine(), process, start)


def parse_owner(text: str) -> Owner | None:
    """The process that `str(owner)` stood for, or None if the text is of another form."""
    match = _OWNER.fullmatch(text)
    return Owner(match["machine"], int(match["process"]), int(match["start"])) if match else None


@functools.cache
def machine() -> str:
    """What tells this machine from others: 10 hex digits, made of its name, its boot and its container."""
    facts = [socket.gethostname()]
    try:
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        facts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        facts.append("no Linux")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:10]


def _runs(process: int, start: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or no number of a process
        return True
    state, started = _state_and_start(process)
    if state in ("Z", "X"):  # it has ended, and its parent has not asked how
        return False
    return _UNKNOWN in (start, started) or start == started


def _state_and_start(process: int) -> tuple[str, int]:
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "", _UNKNOWN
    fields = text.rpartition(")")[2].split()  # a process's name may hold anything
    return fields[0], int(fields[19])


def to_json_bytes(value: object) -> bytes:
    """JSON with sorted keys, as bytes that depend on nothing but the value."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that its name holds either the old content or the new, whole, whatever happens.

    Args:
        path: the final name; its folder must exist.
        data: the content.

    Raises:
        FileError: the file cannot be written; an older one stays as it was.
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
        FileError: the file cannot be written; an older one stays as it was.
    """
    temporary = temporary_name(path)
    with interrupts.unfinished(temporary), explained(path):
        try:
            with open(temporary, "xb") as file:
                sweep(path)
                yield file
                to_disk(file)
            rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def atomic_write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write a value as JSON in the way of `atomic_write_bytes`. ASCII only, keys in their own order, one final newline.

    Args:
        path: the final name; its folder must exist.
        value: anything that JSON can hold; NaN and infinities are not in JSON.
        indent: spaces per level, None for one line.

    Raises:
        FileError: the file cannot be written.
        TypeError, ValueError: the value is not JSON.
    """
    text = json.dumps(value, indent=indent, allow_nan=False)
    atomic_write_bytes(path, f"{text}\n".encode("ascii"))


def make_folder(folder: Path) -> None:
    """Make a folder to write into, unless it is there, so that a run learns of a bad one before it begins its work.

    Args:
        folder: with those above it.

    Raises:
        FileError: it cannot be made, or nothing can be written into it.
    """
    with explained(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as problem:
            raise FileError(f"{folder} is not a folder, and a folder is needed: name another") from problem
        if not os.access(folder, os.W_OK | os.X_OK):
            raise FileError(f"{folder} cannot be written to: permission denied")


@contextmanager
def one_writer(folder: Path, *, lock: str) -> Iterator[None]:
    """Keep other runs out of a folder of results within the block; the folder is made.

    Args:
        folder: of the results.
        lock: name of a file in it, which is there only meanwhile.

    Raises:
        FileError: another run is in it, or it cannot be written to.
    """
    from filelock import FileLock, Timeout

    make_folder(folder)
    path = folder / lock
    held = FileLock(path)
    with explained(folder):
        try:
            held.acquire(timeout=0)
        except Timeout as error:  # an OSError, too
            problem = f"{folder} is being written by another run: wait for it, or choose another "
            raise FileError(problem, Setting("out")) from error
    try:
        yield
    finally:
        with suppress(OSError):  # gone, or not ours to remove: the lock itself ends with the process
            path.unlink()
        held.release()


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


def sweep_folder(folder: Path) -> None:
    """Remove temporary files of processes that have ended on this machine from a folder, whatever they were to become.

    For a writer of many files, to whom listing the folder for each would take too long.
    """
    for name in os.listdir(folder):
        match = _HIDDEN.fullmatch(name)
        owner = parse_owner(match["owner"]) if match else None
        if owner is not None and owner.is_dead:
            with suppress(OSError):  # gone meanwhile, or not ours to remove
                (folder / name).unlink()


def to_disk(file: BinaryIO) -> None:
    """Flush a file all the way to the disk."""
    file.flush()
    os.fsync(file.fileno())


def rename(temporary: Path, path: Path) -> None:
    """Give a file its name in one step, and make sure that the folder remembers it."""
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


def check_target(path: Path, *, setting: str) -> None:
    """Make sure, before hours of work, that a file can be written at their end.

    Args:
        path: the file; it may exist.
        setting: that names it, for the error.

    Raises:
        SettingError: its folder does not exist or cannot be written to, or it is a folder itself.
    """
    if path.is_dir():
        raise SettingError(setting, f"is {path}, which is a folder: name a file")
    if not path.parent.is_dir():
        raise SettingError(setting, f"is {path}, but there is no folder {path.parent}: make it first")
    _check_writable(path.parent, path, setting)


def check_folder(path: Path, *, setting: str) -> None:
    """Make sure, before hours of work, that a folder can be made and written to.

    Args:
        path: the folder; it and those that it is in need not exist.
        setting: that names it, for the error.

    Raises:
        SettingError: something else is in its place, or nothing can be written there.
    """
    there = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise SettingError(setting, f"is {path}, but {there} is no folder: choose another one")
    _check_writable(there, path, setting)


def _check_writable(folder: Path, path: Path, setting: str) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SettingError(setting, f"is {path}, but the folder {folder} cannot be written to: choose another one")


@contextmanager
def explained(path: Path, *, error: type[FileError] = FileError) -> Iterator[None]:
    """Turn an error of the system within the block into a line about a file.

    Args:
        path: the file.
        error: the kind of error to raise.

    Raises:
        FileError: in place of any OSError.
    """
    try:
        yield
    except OSError as problem:
        raise error(f"{path} cannot be written: {problem.strerror or problem}") from problem


def _left_behind(path: Path) -> list[tuple[Path, Owner]]:
    """The temporary files of a file, with their writers."""
    prefix = f".{path.name}."
    endings = [item[len(prefix) :] for item in os.listdir(path.parent) if item.startswith(prefix)]
    return [
        (path.with_name(prefix + ending), owner)
        for ending in endings
        if (match := _TEMPORARY.fullmatch(ending)) and (owner := parse_owner(match["owner"]))
    ]
