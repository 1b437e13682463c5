"""Ctrl-C and SIGTERM: a command ends soon, whatever it is doing, and leaves nothing half written.

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

GRACE = 1.0
"""Seconds that the main thread has to end in."""
INTERRUPTED = 130
TERMINATED = 128 + signal.SIGTERM
HOW_TO_GO_ON = "what is finished is kept, run the same command again to go on"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _State:
    """Of this process; there is one."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.holds = 0
        self.unfinished: set[Path] = set()
        self.last_word = threading.Lock()


_state = _State()


def install() -> None:
    """Handle SIGINT and SIGTERM from now on. To be called once, in the main thread, before slow imports."""
    for number in _SIGNALS:
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
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def asked() -> int | None:
    """The exit code of the signal that has come, or None."""
    return None if _state.asked is None else _code(_state.asked)


def check() -> None:
    """End the main thread's work if a signal has come, also where its exception was swallowed.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: for SIGTERM.
    """
    if _state.asked is not None:
        _raise(_state.asked)


@contextmanager
def held_back() -> Iterator[None]:
    """Put signals off until the block ends. Processes that are started in it begin with SIGINT blocked.

    Ctrl-C reaches the whole process group, also processes that are still starting.
    """
    _state.holds += 1
    before = None
    try:
        # The mask alone would not do: a signal that one thread has blocked goes to another one.
        if hasattr(signal, "pthread_sigmask"):
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _state.holds -= 1
    if threading.current_thread() is threading.main_thread():
        check()


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
    what = "interrupted" if _state.asked == signal.SIGINT else "terminated"
    return f"cuts3d: {what}; {HOW_TO_GO_ON}"


def leave() -> NoReturn:
    """End the process after its last line, without taking large libraries apart: that alone can take seconds."""
    try:
        atexit._run_exitfuncs()  # of multiprocessing, which removes its semaphores
    finally:
        os._exit(asked() or 0)


def _code(number: int) -> int:
    return INTERRUPTED if number == signal.SIGINT else TERMINATED


def _handle(number: int, frame: FrameType | None) -> None:
    if _state.asked is not None:
        return
    _state.asked = number
    if not _state.holds:
        _raise(number)


def _raise(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(TERMINATED)


def _watch(reader: int) -> None:
    while True:
        number = os.read(reader, 1)[0]
        # Training has handlers of its own.
        if number in _SIGNALS and (_state.asked is not None or signal.getsignal(number) is _handle):
            break
    time.sleep(GRACE)
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
    what = "interrupted" if number == signal.SIGINT else "terminated"
    cursor = "\x1b[?25h\n" if os.isatty(2) else ""  # a progress bar hides it
    try:
        os.write(2, f"{cursor}cuts3d: {what}; {HOW_TO_GO_ON}\n".encode())
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
