"""Runs commands in forks of this process, which has imported everything once, so that a run takes as long as its work.

A fork does what the executable does: signals first, then the command line, then the exit hooks. What a command imports
is learned from its first run. This process itself must never start a thread, nor compute.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cuts3d_cli.__main__ as program
from executable import command, neutral_environment

PATIENCE = 60.0
"""Seconds after which a run is considered hung."""
_POLL = 0.002
_GROUP_SECONDS = 5.0
"""Time that the processes of a run have to end after the first of them."""
TROUBLE = 70
"""Exit code of a fork that could not even begin."""


class HungError(Exception):
    """A run has not ended in time."""


@dataclass
class Fork:
    """A command that runs in a process group of its own.

    Attributes:
        process: number of its first process, and of the group.
    """

    process: int
    _code: int | None = None

    def has_ended(self) -> bool:
        """Return whether the first process has ended."""
        if self._code is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is not None

    def wait(self, seconds: float | None = PATIENCE) -> int:
        """Wait for the first process, and return its exit code, negative for a signal.

        Args:
            seconds: to wait at most; None waits without end.

        Raises:
            HungError: it did not end in time; now it has been killed.
        """
        try:
            wait_for(self.has_ended, seconds=seconds)
        except HungError:
            self.send(signal.SIGKILL)
            wait_for(self.has_ended)
            raise
        assert self._code is not None
        return self._code

    def send(self, number: int, *, alone: bool = False) -> None:
        """Send a signal to the group, as a terminal does, or to the first process alone."""
        with suppress(ProcessLookupError):  # it has ended
            os.kill(self.process, number) if alone else os.killpg(self.process, number)

    def descendants(self) -> list[tuple[int, str]]:
        """List the processes that it has started, and that these have, by number, each with what it is.

        The process in which Python keeps account of semaphores is left out.
        """
        parents: dict[int, int] = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError, ValueError):  # it has ended
                state, parent = status.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[:2]
                command = status.with_name("cmdline").read_bytes()
                if state not in "ZX" and b"resource_tracker" not in command:
                    parents[int(status.parent.name)] = int(parent)
        first = sorted(process for process, parent in parents.items() if parent == self.process)
        second = sorted(process for process, parent in parents.items() if parent in first)
        return [(each, "a process of the first") for each in first] + [
            (each, "a process of another one") for each in second
        ]

    def group_ends(self) -> bool:
        """Wait a little for the other processes of the group. Returns whether they have ended."""
        try:
            wait_for(self._is_group_gone, seconds=_GROUP_SECONDS)
        except HungError:
            self.send(signal.SIGKILL)
            return False
        return True

    def _is_group_gone(self) -> bool:
        try:
            os.killpg(self.process, 0)
        except (ProcessLookupError, PermissionError):
            return True
        return False

    def answers_signals(self) -> bool:
        """Return whether it has a handler for SIGTERM, or has ended; before, Python itself answers."""
        try:
            lines = Path(f"/proc/{self.process}/status").read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return True
        caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")), -1)
        return bool(caught >> (signal.SIGTERM - 1) & 1) or self.has_ended()


def fork(function: Callable[[], int]) -> Fork:
    """Call a function in a fork, in a process group of its own, so that its threads and its memory end with it.

    Args:
        function: returns the exit code; an exception prints its traceback.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        with suppress(PermissionError, ProcessLookupError):  # the fork has done so itself, or has ended
            os.setpgid(process, process)
        return Fork(process)
    code = TROUBLE
    try:
        os.setpgid(0, 0)
        code = function()
        sys.stdout.flush()
    except BaseException:  # whatever it is, no frame of the parent may go on in the fork
        traceback.print_exc()
    finally:
        os._exit(code)


def start(
    words: Sequence[object],
    *,
    folder: Path,
    errors: IO[bytes],
    prepare: Callable[[], None] = lambda: None,
    modules: IO[bytes] | None = None,
    anew: bool = False,
) -> Fork:
    """Start a command.

    Args:
        words: the command and its arguments.
        folder: its working folder.
        errors: receives its stderr; stdout goes nowhere. Not a pipe, which worker processes would keep open.
        prepare: called in the fork, before the command.
        modules: receives the names of all modules that are imported in the end, a line each.
        anew: start the executable itself, with all its imports; `prepare` and `modules` have no effect.
    """

    def run() -> int:
        # Set up the process as a shell does.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for source, target in ((nowhere, 0), (nowhere, 1), (errors.fileno(), 2)):
            os.dup2(source, target)
        sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
        os.chdir(folder)
        environment = neutral_environment(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
        if anew:
            started = command(*words)
            os.execve(started[0], started, environment)
        os.environ.clear()
        os.environ.update(environment)

        # Run the command, and tell what it has imported.
        prepare()
        code = _run([str(word) for word in words])
        if modules is not None:
            modules.write("\n".join(list(sys.modules)).encode())
            modules.flush()
        return code

    return fork(run)


def _run(words: Sequence[str]) -> int:
    """Do what the executable does, to the end of its process."""
    sys.argv = ["cuts3d", *words]
    # Worker processes import the main module of the executable, not that of the test.
    sys.modules["__main__"] = program
    code = 0
    try:
        program.main()
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return code


def learn(names: IO[bytes]) -> None:
    """Import the modules that a run has imported, so that those after it find them."""
    names.seek(0)
    for name in names.read().decode().splitlines():
        if name not in sys.modules and not name.startswith("__"):
            with suppress(Exception):  # some cannot be imported by their names: the runs import them themselves
                importlib.import_module(name)


def memory_folder() -> Path | None:
    """Return a folder of the system for files in memory, so that tests wait for no disk; None where there is none."""
    folder = Path("/dev/shm")
    return folder if os.access(folder, os.W_OK) else None


def wait_for(condition: Callable[[], bool], *, seconds: float | None = PATIENCE) -> None:
    """Wait for a condition.

    Args:
        condition: asked again and again.
        seconds: to wait at most; None waits without end.

    Raises:
        HungError: it was not met in time.
    """
    end = time.monotonic() + (seconds or float("inf"))
    while not condition():
        if seconds is not None and time.monotonic() > end:
            raise HungError(f"it had not ended after {seconds:g} s")
        time.sleep(_POLL)
