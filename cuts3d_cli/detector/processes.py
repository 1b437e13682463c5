"""The processes of a training: one for each GPU, started here or by torchrun."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuts3d_cli import interrupts
from cuts3d_cli.detector import FINAL_WEIGHTS
from cuts3d_cli.detector.stopping import StoppedError, stop_signals
from cuts3d_cli.detector.task import Task, TrainingError
from cuts3d_cli.devices import on_cuda
from cuts3d_cli.errors import Cuts3dError
from cuts3d_cli.wording import first_line

if TYPE_CHECKING:
    from cuts3d_cli.detector.run_log import TrainingEvents

_POLL = 0.2
"""Seconds between two looks at the processes and at the signals."""


def rank_by_torchrun() -> int:
    """Return the number of this process among those that torchrun started, on all machines; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def count_by_torchrun() -> int:
    """Return how many processes torchrun started, on all machines; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def train_in_processes(task: Task, events: TrainingEvents, *, gpus: int) -> Path:
    """Train in this process, in one for each GPU, or in those that torchrun started.

    Args:
        task: the training.
        events: receives its events, in the first process.
        gpus: number of processes to start, if torchrun did not.

    Returns:
        The final weights.

    Raises:
        TrainingError: a process ended without an exception.
        Cuts3dError: one that a process raised; each process of torchrun raises the same.
    """
    from cuts3d_cli.detector.training import train

    if (count := count_by_torchrun()) > 1:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        with _joined(task.device, rank=rank_by_torchrun(), local=local, count=count):
            return train(task, events)
    if gpus > 1:
        _start(task, events, count=gpus)
        return task.out / FINAL_WEIGHTS
    return train(task, events)


def _start(task: Task, events: TrainingEvents, *, count: int) -> None:
    """Start a process for each GPU and wait for them. A signal is passed on and waited for: they write a checkpoint.

    Raises:
        As `train_in_processes`.
    """
    from torch import multiprocessing
    from torch.distributed import TCPStore

    context = multiprocessing.get_context("spawn")
    with interrupts.held_back():  # this may start a process
        errors, asked = context.SimpleQueue(), context.RawValue("i", 0)
    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with stop_signals() as stop:
        # What comes while they are starting reaches them by `asked`.
        with interrupts.held_back():
            processes = multiprocessing.start_processes(
                _process,
                args=(count, meeting.port, task, events, errors, asked),
                nprocs=count,
                join=False,
                start_method="spawn",
            )
        try:
            while not processes.join(timeout=_POLL):
                asked.value = stop.signal or 0
        except multiprocessing.ProcessRaisedException as error:
            if errors.empty():
                raise
            raise errors.get() from error
        except multiprocessing.ProcessExitedException as error:  # stopped, or killed, for want of memory perhaps
            if stop.signal is not None:
                raise StoppedError(stop.signal) from error
            raise TrainingError(f"training ended unexpectedly: {first_line(error)}") from error


def _process(rank: int, count: int, port: int, task: Task, events: TrainingEvents, errors: Any, asked: Any) -> None:
    """Train in one of several processes on this machine.

    Args:
        rank: of the process.
        count: number of processes.
        port: of the store where they meet.
        task: the training.
        events: receives its events, in the first process.
        errors: a queue for errors that explain themselves: the launcher passes on their tracebacks alone, as text.
        asked: the number of the signal that the starting process has received, or 0.
    """
    from torch.distributed import TCPStore

    from cuts3d_cli.detector.training import train

    # A signal ends this process by an exit code: the launcher takes KeyboardInterrupt for a success.
    for number in interrupts.ending_signals():
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    if hasattr(signal, "pthread_sigmask"):  # they were held back while it started
        signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupts.ending_signals())
    store = TCPStore("127.0.0.1", port, is_master=False)
    try:
        with _joined(task.device, rank=rank, local=rank, count=count, store=store):
            train(task, events, asked=lambda: asked.value or None)
    except Cuts3dError as error:
        errors.put(error)
        raise


@contextmanager
def _joined(device: str, *, rank: int, local: int, count: int, store: Any = None) -> Iterator[None]:
    """Join the processes of a training, each with its own GPU, until the block ends.

    Args:
        device: "cpu", "cuda", ...
        rank: of this process, on all machines.
        local: its number on this machine.
        count: number of processes.
        store: where they meet; None meets where torchrun says.
    """
    import torch

    cuda = on_cuda(device)
    if cuda:
        torch.cuda.set_device(local)
    where = {} if store is None else {"store": store}
    torch.distributed.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=count, **where)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
