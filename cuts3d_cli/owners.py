"""Which process a temporary file or a claim belongs to, and whether that process has ended.

Only the machine on which a process ran can tell. "Machine" is one boot of one system and one container in it: where
process numbers mean the same processes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

_PATTERN = re.compile(r"(?P<machine>[0-9a-f]{10})-(?P<process>[0-9]+)-(?P<start>[0-9]+)")
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
    match = _PATTERN.fullmatch(text)
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
