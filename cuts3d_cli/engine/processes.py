"""Processes that do a part of this one's work each, tell it how they get on, and end with it, however that comes.

What a process tells goes through a pipe of its own, so that one which is killed within a message harms no other.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

from cuts3d_cli import interrupts
from cuts3d_cli.devices import core_count, on_cuda, require_processes, share_cores
from cuts3d_cli.engine.pool import cause_of_end
from cuts3d_cli.engine.worker import THREAD_VARIABLES
from cuts3d_cli.errors import Cuts3dError, Setting
from cuts3d_cli.wording import first_line

Tell = Callable[..., None]
"""Tells the process that waits something: the kind of it, and what belongs to it; all of it can be pickled."""
Function = Callable[..., None]
"""What a process does: takes a `Tell`, and further arguments."""

_POLL = 0.2
"""Seconds between two looks for a signal whose exception was swallowed."""
_THEIR_GRACE = 0.8
"""Seconds that the processes have to end in, once they are told to."""
_GRACE = 1.5
"""Seconds that this process has then: it waits for them."""
_EXIT_SECONDS = 30.0
"""Time that a process has to end of itself once it has said its last word."""
_TOLD, _DONE, _ERROR, _FAILURE = range(4)
"""What a message is: something told, the end of the work, an error for the user, and one that nobody expects."""


@dataclass(kw_only=True)
class _Process:
    """A process that was started.

    Attributes:
        process: itself.
        pipe: what it says; closed once it has ended.
        is_done: whether it has said that its work is done.
        failure: what it has said of an unexpected end.
    """

    process: BaseProcess
    pipe: Connection
    is_done: bool = False
    failure: str | None = None


def place_of(devices: Sequence[str]) -> str:
    """Return where several processes compute, in words."""
    return ", ".join(devices) if all(map(on_cuda, devices)) else "the cores of this machine"


def run_processes(
    function: Function,
    arguments: Sequence[tuple[Any, ...]],
    *,
    devices: Sequence[str],
    heard: Callable[..., None],
    died: Callable[[int, str], None],
) -> None:
    """Call a function in several processes at once, and wait until all of them have ended.

    Each has its share of the cores. A signal that ends this process ends them first, in about a second; whatever they
    have not finished is taken back.

    Args:
        function: of a module, so that it can be pickled.
        arguments: for each process.
        devices: that each computes on; a CUDA device becomes the current one there.
        heard: receives the number of a process and what it tells.
        died: receives the number of a process that ended before its work was done, and why, as in "killed by
            SIGKILL". The others go on.

    Raises:
        Cuts3dError: the first that a process raised; the others are ended.
    """
    require_processes(without=Setting("run.gpus", 1))
    context = multiprocessing.get_context("spawn")
    running: dict[int, _Process] = {}
    with interrupts.grace(_GRACE):
        try:
            for number, (device, own) in enumerate(zip(devices, arguments, strict=True)):
                with interrupts.held_back():
                    pipe, theirs = context.Pipe(duplex=False)
                    process = context.Process(target=_main, args=(theirs, len(devices), device, function, own))
                    running[number] = _Process(process=process, pipe=pipe)
                    process.start()
                    theirs.close()  # so that the end of the process ends the pipe
            while running:
                _listen(running, heard=heard, died=died)
                interrupts.check()
        finally:
            _stop([each.process for each in running.values()])


def _listen(running: dict[int, _Process], *, heard: Callable[..., None], died: Callable[[int, str], None]) -> None:
    """Take what processes say; those that have ended are no longer among those that run."""
    ready = connection.wait([each.pipe for each in running.values()], timeout=_POLL)
    for number, each in list(running.items()):
        if each.pipe not in ready:
            continue
        try:
            kind, *content = each.pipe.recv()
        except (EOFError, OSError):  # it has ended, perhaps within a message
            _join(each.process, seconds=_EXIT_SECONDS)
            del running[number]
            each.pipe.close()
            if not each.is_done:
                died(number, each.failure or cause_of_end(each.process))
            continue
        if kind == _TOLD:
            heard(number, *content)
        elif kind == _DONE:
            each.is_done = True
        elif kind == _FAILURE:
            each.failure = content[0]
        else:
            raise content[0]


def _stop(processes: Sequence[BaseProcess]) -> None:
    """End processes, and wait until they have cleared up."""
    started = [process for process in processes if process.pid is not None]
    for process in started:
        process.terminate()
    end = time.monotonic() + 1.5 * _THEIR_GRACE
    for process in started:
        _join(process, seconds=end - time.monotonic())


def _join(process: BaseProcess, *, seconds: float) -> None:
    """Wait for the end of a process, which comes in so many seconds at the latest."""
    process.join(max(seconds, 0))
    if process.is_alive():
        process.kill()
        process.join()


def _main(pipe: Connection, processes: int, device: str, function: Function, arguments: tuple[Any, ...]) -> NoReturn:
    """Do what a process does: its share of the cores and its device first, then the function."""
    said = threading.Lock()  # any thread may have something to tell

    def say(*message: Any) -> None:
        with said:
            try:
                pipe.send(message)
            except OSError:  # nobody listens any more
                os.kill(os.getpid(), signal.SIGTERM)

    try:
        _set_up(processes)
        if on_cuda(device):
            import torch

            torch.cuda.set_device(device)
        function(lambda *told: say(_TOLD, *told), *arguments)
        say(_DONE)
    except Cuts3dError as error:
        say(_ERROR, error)
    except Exception as error:  # the process that waits tells of it, and does without this one
        say(_FAILURE, f"{type(error).__name__}: {first_line(error)}")
    except (KeyboardInterrupt, SystemExit):  # by a signal
        pass
    interrupts.last_line()  # clears up; the process that waits has the word
    pipe.close()
    interrupts.leave()


def _set_up(processes: int) -> None:
    """Answer SIGTERM alone, and the end of the process that waits, and leave the others their share of the cores."""
    interrupts.install(silent=True, grace=_THEIR_GRACE)
    interrupts.leave_to_parent()  # which passes on what reaches the whole process group
    threading.Thread(target=_end_with_parent, daemon=True).start()
    share_cores(processes)
    # Before NumPy and torch come. What the user has set stays.
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(core_count()))
    logging.getLogger().addHandler(logging.NullHandler())  # without any, Python prints what libraries log


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
