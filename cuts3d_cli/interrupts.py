"""Ctrl-C, SIGTERM and SIGHUP: a command ends soon, whatever it is doing, and leaves nothing half written.

The exit code is 128 and the number of the signal. A SIGHUP that was ignored from the start, as `nohup` has it, stays
ignored.

The first signal raises an exception in the main thread, so that what was begun is taken back on the way out. That can
fail: the main thread may be in native code for long, or a library may swallow the exception. So a second thread, which
the system wakes at the moment of the signal, ends the process when the grace is over. Nothing that a signal has
disturbed may be published in between: `check` comes before. Further signals change nothing.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

GRACE = 1.0
"""Seconds that the main thread has to end in."""
INTERRUPTED = 128 + signal.SIGINT
KEPT = "what is finished is kept"
SAME_AGAIN = "run the same command again to go on"
_WORDS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):
    _WORDS[signal.SIGHUP] = "hung up"


class _State:
    """Of this process; there is one."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.holds = 0
        self.unfinished: set[Path] = set()
        self.last_word = threading.Lock()
        self.way_on: Callable[[], str] = lambda: SAME_AGAIN
        self.grace: float | None = None
        self.silent = False


_state = _State()


def install(*, silent: bool = False, grace: float | None = None) -> None:
    """Handle the signals from now on. To be called once, in the main thread, before slow imports.

    Args:
        silent: say nothing, in a process whose parent speaks for it.
        grace: seconds that the main thread has to end in; None for `GRACE`.
    """
    _state.silent, _state.grace = silent, grace
    for number in ending_signals():
        signal.signal(number, _handle)
    sys.unraisablehook = _unless_asked(sys.unraisablehook)
    threading.excepthook = _unless_asked(threading.excepthook)
    if os.name == "posix":
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(reader,), daemon=True, name="signals").start()


def ignore() -> None:
    """Answer no signal any more: on its way out, Python would let them kill the process."""
    for number in _WORDS:
        signal.signal(number, signal.SIG_IGN)


def ending_signals() -> list[int]:
    """Return the signals that ask this process to end: all that are handled here, but for an ignored SIGHUP."""
    return [
        number
        for number in _WORDS
        if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) != signal.SIG_IGN
    ]


def go_on_by(way: Callable[[], str]) -> None:
    """Say how to go on with the command that is running, in place of `SAME_AGAIN`.

    Args:
        way: asked for the words when a signal has come, in any thread: it must be quick and import nothing.
    """
    _state.way_on = way


def how_to_go_on() -> str:
    """Return what is left after a signal and how to go on, for the last line."""
    return f"{KEPT}, {_state.way_on()}"


def end(number: int) -> NoReturn:
    """End the main thread's work as a signal does that arrives now.

    Args:
        number: of the signal.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: for the others.
    """
    _state.asked = number
    _raise(number)


def asked() -> int | None:
    """The exit code of the signal that has come, or None."""
    return None if _state.asked is None else _code(_state.asked)


def check() -> None:
    """End the main thread's work if a signal has come, also where its exception was swallowed.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: for the others.
    """
    if _state.asked is not None:
        _raise(_state.asked)


@contextmanager
def held_back() -> Iterator[None]:
    """Put signals off until the block ends. Processes that are started in it begin with SIGINT and SIGHUP blocked.

    Ctrl-C, and the end of a terminal, reach the whole process group, also processes that are still starting.
    """
    _state.holds += 1
    before = None
    try:
        # The mask alone would not do: a signal that one thread has blocked goes to another one.
        if hasattr(signal, "pthread_sigmask"):
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _of_the_group())
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _state.holds -= 1
    if threading.current_thread() is threading.main_thread():
        check()


@contextmanager
def grace(seconds: float) -> Iterator[None]:
    """Give the main thread so long to end, in place of `GRACE`, if a signal comes within the block."""
    before, _state.grace = _state.grace, seconds
    try:
        yield
    finally:
        if _state.asked is None:  # else the time is still running
            _state.grace = before


def leave_to_parent(*, terminate: bool = False) -> None:
    """Ignore, in a worker process, signals that reach the whole process group: the main process ends its workers.

    Args:
        terminate: ignore SIGTERM, too, which some pools end their processes by.
    """
    for number in _WORDS if terminate else _of_the_group():
        signal.signal(number, signal.SIG_IGN)


def _of_the_group() -> set[int]:
    return set(_WORDS) - {signal.SIGTERM}


@contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """Note a file that is to be removed if the process has to end at once within the block."""
    _state.unfinished.add(path)
    try:
        yield
    finally:
        _state.unfinished.discard(path)


def last_line() -> str | None:
    """Clear up, and say in a line how the run ended; None where no signal has come. For the main thread's very end."""
    if _state.asked is None:
        return None
    if not _state.last_word.acquire(blocking=False):
        time.sleep(2 * GRACE)  # the other thread has the word, and ends the process
    _remove_unfinished()
    return _line(_state.asked)


def leave() -> NoReturn:
    """End the process after its last line, without taking large libraries apart: that alone can take seconds."""
    try:
        atexit._run_exitfuncs()  # of multiprocessing, which removes its semaphores
    finally:
        os._exit(asked() or 0)


def _code(number: int) -> int:
    return 128 + number


def _line(number: int) -> str:
    return f"cuts3d: {_WORDS[number]}; {how_to_go_on()}"


def _handle(number: int, frame: FrameType | None) -> None:
    if _state.asked is not None:
        return
    _state.asked = number
    if not _state.holds:
        _raise(number)


def _raise(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(_code(number))


def _watch(reader: int) -> None:
    while True:
        number = os.read(reader, 1)[0]
        # Training has handlers of its own.
        if number in _WORDS and (_state.asked is not None or signal.getsignal(number) is _handle):
            break
    time.sleep(GRACE if _state.grace is None else _state.grace)
    if _state.last_word.acquire(blocking=False):
        _end_at_once(number)
    # Else the main thread has said its last word. Its libraries may still hang on their way out.
    time.sleep(GRACE / 2)
    os._exit(_code(number))


def _end_at_once(number: int) -> NoReturn:
    _state.asked = number  # the main thread may not have come to its handler
    _remove_unfinished()
    if (processes := sys.modules.get("multiprocessing.process")) is not None:
        for worker in processes.active_children():
            worker.kill()
    cursor = "\x1b[?25h\n" if os.isatty(2) else ""  # a progress bar hides it
    try:
        if not _state.silent:
            os.write(2, f"{cursor}{_line(number)}\n".encode())
    finally:
        os._exit(_code(number))


def _remove_unfinished() -> None:
    for path in list(_state.unfinished):
        try:
            path.unlink(missing_ok=True)
        except OSError:
            continue  # the next run sweeps it


def _unless_asked(hook: Any) -> Any:
    """Errors that the end itself brings about are not worth a traceback."""

    def quiet(*arguments: Any) -> None:
        if _state.asked is None:
            hook(*arguments)

    return quiet
