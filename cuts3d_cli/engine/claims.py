"""Claims on shards, so that many processes, on one machine or many, share the work in one folder.

A claim is a small hidden file beside the tar that is to be written, `.NAME-000.STAGE.tar.0.claim`. It is created in a
way that succeeds for one process only (a hard link, else O_EXCL, also on NFS; no locks of the system are used). Its
owner touches it regularly, as a heartbeat. A claim without a heartbeat for some time is expired, and one whose process
has ended on this machine is so at once; ages are differences of the file system's own times, never of a machine's
clock.

An expired claim is not removed but outbid: whoever creates the file of the next number, `.NAME-000.STAGE.tar.1.claim`,
has the shard, and again only one process can. The highest number holds. A process that was only asleep finds out before
it publishes anything. (Was it asleep between that look and the renaming that follows, two processes write the same
bytes.)
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import socket
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cuts3d_cli import interrupts
from cuts3d_cli.errors import ShardError, UnwritableError
from cuts3d_cli.files import explained, parse_owner, sweep, temporary_name, this_process
from cuts3d_cli.json_reading import JsonError, read_json
from cuts3d_cli.shards.names import manifest_path

BEATS = 8
"""Heartbeats within the time after which a claim expires."""
LONGEST_BEAT = 15.0
"""Seconds between two heartbeats at most."""
MISSED_BEATS = 4.0
"""Heartbeats that a claim may miss before it expires, whatever time-out another process has been given."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""Errors of file systems that know no hard links, or no more of them."""
_ENDING = re.compile(r"(?P<number>[0-9]{1,9})\.claim")


class ClaimLostError(Exception):
    """Another process has taken a shard over, since this one has sent no heartbeat for too long."""


@dataclass(frozen=True)
class HeldElsewhere:
    """A shard that another process holds.

    Attributes:
        owner: the machine's name and the number of the process, or "another process".
    """

    owner: str


class Claim:
    """The right to write a shard, as long as `check` does not raise. A context manager that gives it back at the end.

    Attributes:
        tar: what may be written.
        lost: True once it is known that another process has taken the shard over.
    """

    def __init__(self, tar: Path, *, number: int, token: str, beat: float) -> None:
        """Keep a claim that `claim` has created."""
        self.tar = tar
        self.lost = False
        self._path = _path(tar, number)
        self._number = number
        self._token = token
        self._end = threading.Event()
        self._noted = ExitStack()
        self._noted.enter_context(interrupts.unfinished(self._path))
        self._heart = threading.Thread(target=self._beat, args=(beat,), daemon=True, name=f"claim {tar.name}")
        self._heart.start()

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def check(self) -> None:
        """Check that the shard is still this process's.

        Raises:
            ClaimLostError: another process has taken it over.
            ShardError: the folder cannot be read.
        """
        with explained(self.tar, error=UnwritableError):
            if self.lost or not self._holds():
                raise ClaimLostError(f"{self.tar.name}: another process has taken it over")

    def check_before_publishing(self) -> None:
        """Check that the shard is still this process's, and that the process was not asked to end.

        Raises:
            ClaimLostError, ShardError: as `check`.
            KeyboardInterrupt, SystemExit: what a signal has disturbed must not be published.
        """
        interrupts.check()
        self.check()

    def sweep(self) -> None:
        """Remove the temporary files of those who had the shard before."""
        with explained(self.tar, error=UnwritableError):
            for path in (self.tar, manifest_path(self.tar)):
                sweep(path, claimed=True)

    def release(self) -> None:
        """Give the shard back and remove the claim, with those that it has outbid."""
        self._stop()
        with suppress(OSError):  # the file system has gone: the claim will expire
            if self._holds():
                # The highest goes last, so that a shard is never without an owner in between.
                for number in sorted(_numbers(self.tar)):
                    _path(self.tar, number).unlink(missing_ok=True)
            elif _read(self._path).get("token") == self._token:
                self._path.unlink(missing_ok=True)
        self._noted.close()

    def withdraw(self) -> None:
        """Remove this claim alone: it should not have been made."""
        self._stop()
        self._path.unlink(missing_ok=True)
        self._noted.close()

    def _stop(self) -> None:
        self._end.set()
        self._heart.join()

    def _holds(self) -> bool:
        return max(_numbers(self.tar), default=-1) == self._number and _read(self._path).get("token") == self._token

    def _beat(self, seconds: float) -> None:
        while not self._end.wait(seconds):
            with suppress(OSError):  # out of reach for now: `check` will tell
                if not self._holds():
                    self.lost = True
                    return
                os.utime(self._path)  # sets the file system's time, not this machine's


def claim(tar: Path, *, timeout: float) -> Claim | HeldElsewhere:
    """Claim a shard.

    Args:
        tar: what is to be written.
        timeout: seconds after which another process's claim that nobody touches is taken over.

    Returns:
        The claim, or who has the shard.

    Raises:
        ShardError: the folder cannot be written to.
    """
    with explained(tar, error=UnwritableError):
        expired: _Seen | None = None
        while True:
            number = expired.number + 1 if expired else 0
            mine = _create(tar, number, beat=min(timeout / BEATS, LONGEST_BEAT))
            if mine is not None:
                if max(_numbers(tar), default=-1) == number and (
                    expired is None or expired == _look(tar, expired.number)
                ):
                    return mine
                mine.withdraw()  # this process was slow: others have been here meanwhile
            expired = _look(tar, max(_numbers(tar), default=-1))
            if expired is not None and expired.is_held(timeout=timeout):
                return HeldElsewhere(expired.held_by)


def claimed_or_left(tars: Iterable[Path]) -> set[Path]:
    """Return the tars that have claims or temporary files beside them, whoever left them; lists each folder once.

    Args:
        tars: to look for; they need not exist.
    """
    by_folder: dict[Path, dict[str, Path]] = {}
    for tar in tars:
        names = by_folder.setdefault(tar.parent, {})
        names |= {tar.name: tar, manifest_path(tar).name: tar}
    found = set()
    for folder, names in by_folder.items():
        with suppress(OSError):  # what cannot be listed cannot be written to: others will say so
            for item in os.listdir(folder):
                if item.startswith(".") and item.endswith((".claim", ".tmp")):
                    # `.NAME.NUMBER.claim` or `.NAME.OWNER.RANDOM.tmp`
                    name = item[1:].rsplit(".", 2 if item.endswith(".claim") else 3)[0]
                    if name in names:
                        found.add(names[name])
    return found


def tidy(tar: Path, *, timeout: float) -> None:
    """Remove what a killed process left beside a finished shard, unless one that lives is at it."""
    with suppress(ShardError):  # a folder that cannot be written to: what lies there does no harm
        claimed = claim(tar, timeout=timeout)
        if isinstance(claimed, Claim):
            with claimed:
                claimed.sweep()


def _path(tar: Path, number: int) -> Path:
    return tar.with_name(f".{tar.name}.{number}.claim")


def _numbers(tar: Path) -> list[int]:
    prefix = f".{tar.name}."
    endings = [item[len(prefix) :] for item in os.listdir(tar.parent) if item.startswith(prefix)]
    return [int(match["number"]) for ending in endings if (match := _ENDING.fullmatch(ending))]


def _create(tar: Path, number: int, *, beat: float) -> Claim | None:
    """Create the claim of a number; None where there is one, or another process has had the shard meanwhile.

    It is written under another name, and linked to its own, which also succeeds for one process only: were a process
    killed in the midst of a claim under its own name, nobody could tell whose it is.
    """
    path, token = _path(tar, number), secrets.token_hex(8)
    content = {"owner": str(this_process()), "host": socket.gethostname(), "token": token, "beat": beat}
    draft = temporary_name(tar)
    with interrupts.held_back(), interrupts.unfinished(draft):
        try:
            with open(draft, "x", encoding="ascii") as file:
                json.dump(content, file)
            try:
                os.link(draft, path)
            except FileExistsError:
                # A network file system may have linked it, and lost the answer.
                if _read(path).get("token") != token:
                    return None
            except FileNotFoundError:  # whoever has the shard has swept the draft away
                return None
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                if not _create_in_place(path, content):
                    return None
        finally:
            draft.unlink(missing_ok=True)
        return Claim(tar, number=number, token=token, beat=beat)


def _create_in_place(path: Path, content: Mapping[str, object]) -> bool:
    """Create a claim on a file system without hard links; False where there is one."""
    try:
        file = open(path, "x", encoding="ascii")  # noqa: SIM115 - closed below, and removed if that fails
    except FileExistsError:
        return False
    try:
        with file:
            json.dump(content, file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


def _read(path: Path) -> dict[str, object]:
    """Read what a claim says; nothing where it is gone, or was never written to its end."""
    try:
        found = read_json(path)
    except (FileNotFoundError, JsonError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class _Seen:
    """A claim as another process sees it. Equal if it is the same one, and was not touched in between."""

    tar: Path
    number: int
    token: object
    touched: int
    inode: int
    owner: str
    host: str
    beat: float

    def is_held(self, *, timeout: float) -> bool:
        owner = parse_owner(self.owner)
        if owner is not None and owner.is_dead:
            return False
        # A time to come is of a clock that was set back since: whoever lives has touched the claim again.
        return abs(_now(self.tar) - self.touched / 1e9) <= max(timeout, MISSED_BEATS * self.beat)

    @property
    def held_by(self) -> str:
        owner = parse_owner(self.owner)
        return f"{self.host}, process {owner.process}" if owner is not None else "another process"


def _look(tar: Path, number: int) -> _Seen | None:
    """Read the claim of a number; None where there is none (any more)."""
    path = _path(tar, number)
    try:
        facts, state = _read(path), path.stat()
    except FileNotFoundError:
        return None
    beat = facts.get("beat")
    return _Seen(
        tar=tar,
        number=number,
        token=facts.get("token"),
        touched=state.st_mtime_ns,
        inode=state.st_ino,
        owner=str(facts.get("owner")),
        host=str(facts.get("host")),
        beat=beat if isinstance(beat, (int, float)) else 0.0,
    )


def _now(tar: Path) -> float:
    """Return the time by the clock of the file system that a tar is in, seconds since 1970."""
    probe = temporary_name(tar)
    with interrupts.unfinished(probe):
        try:
            with open(probe, "xb") as file:
                file.write(b".")
                file.flush()
                os.fsync(file.fileno())  # so that the time is the server's
                return os.fstat(file.fileno()).st_mtime
        finally:
            probe.unlink(missing_ok=True)
