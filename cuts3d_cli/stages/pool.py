"""Worker processes, or none, behind one `submit`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from cuts3d_cli.errors import Cuts3dError, SampleError
from cuts3d_cli.stages.batches import first_line

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerPool:
    """Runs functions in `workers` processes; with 0, at once in this one.

    Processes start when tasks come. They are new ones ("spawn"): a fork of a process that has used torch's
    threads or CUDA may hang. Each computes in one thread.

    Attributes:
        workers: number of processes.
        ahead: how many tasks to keep under way: enough to keep all processes busy, few enough to bound memory.
    """

    def __init__(self, workers: int) -> None:
        """Start no process yet."""
        self.workers = workers
        self.ahead = 2 * workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is None:
            return
        if kind is not None:  # do not wait for work that nobody will see
            for process in list((self._executor._processes or {}).values()):
                process.terminate()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def submit(self, function: Callable[[_Argument], _Result], argument: _Argument) -> Future[_Result]:
        """Run a function of one argument; both travel by pickle where there are processes.

        Returns:
            A future; already done where there are none.

        Raises:
            WorkerDiedError: a process ended of itself. The futures of its pool then raise BrokenProcessPool.
        """
        if self.workers == 0:
            done: Future[_Result] = Future()
            try:
                done.set_result(function(argument))
            except Exception as error:  # handed on: the caller meets it in `result`, as with a process
                done.set_exception(error)
            return done
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_set_up_worker)
        try:
            with _interrupts_held_back():  # this may start a process
                return self._executor.submit(function, argument)
        except BrokenProcessPool as error:
            raise WorkerDiedError from error

    def in_order(
        self, function: Callable[[_Argument], _Result], pairs: Iterable[tuple[_Item, _Argument | None]]
    ) -> Iterator[tuple[_Item, Future[_Result] | None]]:
        """Run a function over many arguments, a bounded number ahead, and give the results back in order.

        Args:
            function: of one argument.
            pairs: what comes back with the result, and the argument; None where there is nothing to run.

        Yields:
            The first of each pair, with its future, or None.

        Raises:
            WorkerDiedError: a process ended of itself.
        """
        waiting: deque[tuple[_Item, Future[_Result] | None]] = deque()
        for item, argument in pairs:
            waiting.append((item, None if argument is None else self.submit(function, argument)))
            while len(waiting) > self.ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


class WorkerDiedError(Cuts3dError):
    """A worker process ended of itself: killed from outside, or by a crash in a library."""

    def __init__(self) -> None:
        """Say the likeliest cause and the way out."""
        super().__init__(
            "a worker process died, most often for want of memory: rerun with fewer --workers; finished shards are kept"
        )


def result_of(future: Future[_Result]) -> _Result:
    """The result of a task on one image.

    Raises:
        SampleError: from the task, or in place of whatever the image did to the numerics: its failure, not the shard's.
        Cuts3dError: from the task: what concerns the whole run.
        WorkerDiedError: a process ended of itself.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise WorkerDiedError from error
    except (ArithmeticError, ValueError, RuntimeError, MemoryError) as error:
        raise SampleError(f"it could not be computed: {type(error).__name__}: {first_line(error)}") from error


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    # Ctrl-C reaches the whole process group, also processes that are still starting. They inherit the mask.
    if not hasattr(signal, "pthread_sigmask"):  # not on POSIX
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _set_up_worker() -> None:
    # Before NumPy comes with the first task: idle threads of several workers would still fight for the cores.
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    # The main process decides what becomes of the workers, by ending them or by its own end, however that comes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
