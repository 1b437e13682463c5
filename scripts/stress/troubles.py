"""What happens to a run in `torture`, and when: kills and signals, a full disk, a dead worker, a clock that jumps."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from typing import Literal

from cuts3d_cli import files
from stress.moments import FileOperations, Moment

Kind = Literal["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "full disk", "dead worker", "dead process", "clock jump"]
SIGNALS: dict[str, int] = {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129}
"""Those that a run answers -> its exit code then."""
_SHARES: dict[Kind, int] = {
    "SIGKILL": 40,
    "SIGTERM": 12,
    "SIGINT": 12,
    "SIGHUP": 12,
    "full disk": 12,
    "clock jump": 6,
    "dead worker": 6,
    "dead process": 12,
}
"""Kinds, each with its part of the whole."""
_OF_TEAMS: dict[Kind, int] = {"SIGKILL": 25, "SIGTERM": 12, "SIGINT": 12, "SIGHUP": 12, "dead process": 39}
"""Kinds that happen to several processes of one run, each with its part of the whole."""
_JUMPS = (3600.0, 86_400.0, 365 * 86_400.0)
"""Seconds by which clocks jump, forwards and backwards."""
_LINES = 12
"""Lines of the package after an operation on files, within which a run may be struck."""
_ELSEWHERE = "0123456789"
"""Name of another machine."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What happens to a run.

    Attributes:
        kind: of the trouble.
        moment: the operation on files at which it happens; None where `after` says when.
        after: seconds from the start; a signal waits until it would be answered.
        alone: whether a signal reaches the first process only, as from `kill`, and not the whole group, as from a
            terminal.
        anew: whether the executable is started itself, so that a signal can come while it imports.
        elsewhere: whether the run seems to be on another machine.
        jump: seconds by which the clock goes forwards before anything else happens.
        beside: whether a second process runs the same command.
        victim: which of the processes that the run has started, as a share of all, where one of them dies.
    """

    kind: Kind
    moment: Moment | None = None
    after: float | None = None
    alone: bool = False
    anew: bool = False
    elsewhere: bool = False
    jump: float = 0.0
    beside: bool = False
    victim: float = 0.0

    def __str__(self) -> str:
        """Say what happened, but for the place."""
        facts: list[str] = [self.kind]
        facts += [word for word, is_so in (("alone", self.alone), ("elsewhere", self.elsewhere)) if is_so]
        if self.jump:
            facts.append(f"clock {self.jump:+g} s")
        if self.moment is not None:
            facts.append(f"point {self.moment.point} + {self.moment.lines} lines, {self.moment.share:.0%} written")
        if self.after is not None:
            facts.append(f"after {self.after:.2f} s" + (" anew" if self.anew else ""))
        return ", ".join(facts)


def draw(
    chance: random.Random,
    *,
    points: int,
    seconds: float,
    workers: bool,
    shared: bool,
    team: bool = False,
    anew: bool = False,
) -> Trouble:
    """Draw what happens to a run.

    Args:
        chance: draws.
        points: operations on files of an undisturbed run.
        seconds: that it takes.
        workers: whether it has worker processes.
        shared: whether several processes may run it at once, and machines share its folder.
        team: whether it starts processes that do the work.
        anew: start the executable itself, and let a signal come at a random time.
    """
    of_workers = {"dead worker", "dead process"}
    shares = (
        _OF_TEAMS if team else {kind: share for kind, share in _SHARES.items() if workers or kind not in of_workers}
    )
    kind: Kind = chance.choices(list(shares), list(shares.values()))[0]
    if anew:
        kind = chance.choice(("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"))
        return Trouble(kind=kind, after=chance.uniform(0, 6.0), anew=True)
    is_signal = kind == "SIGKILL" or kind in SIGNALS
    alone = is_signal and chance.random() < 0.5
    if team or kind == "dead process" or (is_signal and chance.random() < 0.15):
        return Trouble(kind=kind, after=chance.uniform(0, 1.1 * seconds), alone=alone, victim=chance.random())
    # Where processes are expected, they must have been started first.
    first = 1 if kind != "dead worker" else max(points // 4, 1)
    lines = chance.randint(1, _LINES) if kind != "dead worker" and chance.random() < 0.4 else 0
    moment = Moment(point=chance.randint(first, points), lines=lines, share=chance.choice((0.0, 0.5, chance.random())))
    elsewhere = kind == "SIGKILL" and shared and chance.random() < 0.1
    jumps = kind == "clock jump" or (elsewhere and chance.random() < 0.5)
    return Trouble(
        kind=kind,
        moment=moment,
        alone=alone,
        elsewhere=elsewhere,
        jump=chance.choice(_JUMPS) * chance.choice((1, -1)) if jumps else 0.0,
        beside=kind == "clock jump" and shared,
    )


def prepare(trouble: Trouble | None, operations: FileOperations, *, folder: Path) -> None:
    """Set what happens at the moment of a trouble. Called in the fork that it happens to.

    Args:
        trouble: None for a run that is left alone.
        operations: of the fork, which call what is set here.
        folder: its working folder.
    """
    if trouble is None:
        return
    if trouble.elsewhere:
        files.machine = lambda: _ELSEWHERE  # type: ignore[assignment]

    def full() -> bool:
        operations.is_full = True
        return True

    def strike() -> bool:
        number = getattr(signal, trouble.kind)
        (os.kill if trouble.alone else os.killpg)(os.getpid(), number)
        return True

    deeds: dict[str, Callable[[], bool]] = {
        "full disk": full,
        "dead worker": _kill_a_worker,
        "clock jump": lambda: True,
    }
    deed = deeds.get(trouble.kind, strike)

    def happen() -> bool:
        if trouble.jump:
            _jump(trouble.jump, folder=folder)
        return deed()

    operations.deed = happen


def _kill_a_worker() -> bool:
    workers = active_children()
    if not workers:
        return False
    workers[0].kill()
    return True


def _jump(seconds: float, *, folder: Path) -> None:
    """Let the clock of this process go forwards, and the claims and temporary files seem older by as much.

    Of the times of all other files nothing but a change counts.
    """
    clock, precise = time.time, time.time_ns
    time.time = lambda: clock() + seconds
    time.time_ns = lambda: precise() + int(seconds * 1e9)
    for path in folder.rglob(".*"):
        with suppress(FileNotFoundError):  # gone meanwhile
            state = path.stat()
            os.utime(path, (state.st_atime - seconds, state.st_mtime - seconds))
