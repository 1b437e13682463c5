"""Worker processes, or none, behind one `start`. A process that dies takes at most its own image with it."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, TypeVar

from cuts3d_cli import interrupts
from cuts3d_cli.config import RunConfig
from cuts3d_cli.devices import on_cuda, require_processes, worker_count
from cuts3d_cli.engine import worker
from cuts3d_cli.errors import Cuts3dError, Part, SampleError, Setting
from cuts3d_cli.wording import first_line

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")

ATTEMPTS = 2
"""How often an image may end a process that works on nothing else before it is given up."""
LOOK_SECONDS = 1.0
"""Between two looks whether a pool has broken, while a task is waited for."""


@dataclass(kw_only=True, eq=False)
class Task(Generic[_Argument, _Result]):
    """A call of a function with one argument in a worker process. Where that process dies, the call is repeated.

    Attributes:
        function: the function.
        argument: its argument.
        future: of the latest attempt.
    """

    function: Callable[[_Argument], _Result]
    argument: _Argument
    future: Future[_Result]


class WorkerPool:
    """Runs functions in `workers` processes; with 0, at once in this one.

    Processes start with the first task. They are new ones ("spawn"): a fork of a process that has used torch's
    threads or CUDA may hang. Each computes in one thread.

    Attributes:
        workers: number of processes.
        ahead: how many tasks to keep under way: enough to keep all processes busy, few enough to bound memory.
        memory: most megabytes of memory that the tasks of a process may take, or None.
        timeout: most seconds that a task may take, or None.
        deaths: how many processes have ended of themselves, or were ended for a task that took too long.
    """

    def __init__(self, workers: int, *, memory: int | None = None, timeout: float | None = None) -> None:
        """Start no process yet.

        Args:
            workers: number of processes.
            memory: most megabytes that a process may allocate for its tasks, beyond its libraries, where the system
                can limit that; None for no limit. More is a MemoryError in the task.
            timeout: seconds after which a task is given up, with the process that it hangs in; None for no limit.

        Raises:
            SystemExit: this process is itself a worker that still imports the main module of its parent, where nothing
                guards this call. It ends at once, so that its parent notices.
        """
        if workers and getattr(multiprocessing.current_process(), "_inheriting", False):
            raise SystemExit(1)
        self.workers = workers
        self.ahead = 2 * workers
        self.memory = memory
        self.timeout = timeout
        self.deaths = 0
        self._last_end = time.monotonic()
        self._executor: ProcessPoolExecutor | None = None
        self._under_way: list[Task[Any, Any]] = []

    @classmethod
    def of(cls, config: RunConfig) -> WorkerPool:
        """Return the pool that a configuration asks for."""
        return cls(worker_count(config.workers), memory=config.worker_memory, timeout=config.worker_timeout)

    @classmethod
    def for_reading(cls, config: RunConfig, *, device: str) -> WorkerPool:
        """Return the pool that decodes photos for a network on a device.

        On CUDA that is one process a core, if no number is asked for. On the cores, which the network needs itself,
        it is none then.
        """
        if config.workers is None and not on_cuda(device):
            return cls(0)
        return cls.of(config)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is None:
            return
        # Nobody will see what they still do. One that waits for another which was killed would never end of itself.
        self._end_processes()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def in_order(
        self, function: Callable[[_Argument], _Result], pairs: Iterable[tuple[_Item, _Argument | None]]
    ) -> Iterator[tuple[_Item, Future[_Result] | None]]:
        """Run a function over many arguments, a bounded number ahead, and yield the results in order.

        Where a process dies (killed by the system for want of memory, or by a crash in a library), new ones take its
        place, and what was under way is run again, one task at a time, which tells the task that is to blame from
        those beside it. One that ends `ATTEMPTS` processes which work on nothing else has failed.

        Args:
            function: of one argument.
            pairs: what comes back with the result, and the argument; None where there is nothing to run.

        Yields:
            The first of each pair, with its future, or None. The future of a task that processes died of raises
            SampleError.

        Raises:
            WorkerDiedError: processes die also without a task.
        """
        waiting: deque[tuple[_Item, Task[_Argument, _Result] | None]] = deque()
        for item, argument in pairs:
            waiting.append((item, None if argument is None else self.start(function, argument)))
            while len(waiting) > self.ahead:
                yield self._first_of(waiting)
        while waiting:
            yield self._first_of(waiting)

    def start(self, function: Callable[[_Argument], _Result], argument: _Argument) -> Task[_Argument, _Result]:
        """Start a task that is repeated where its process dies, as `in_order` says; `take` gives its result.

        Raises:
            WorkerDiedError: processes die also without a task.
        """
        try:
            future = self._submit(function, argument)
        except BrokenProcessPool:
            self._run_again()
            future = self._submit(function, argument)
        task = Task(function=function, argument=argument, future=future)
        self._under_way.append(task)
        return task

    def take(self, task: Task[_Argument, _Result]) -> Future[_Result]:
        """Wait for a task and return its future; each task is taken once.

        Args:
            task: as `start` gave it.

        Returns:
            The future. That of a task that processes died of raises SampleError.

        Raises:
            WorkerDiedError: processes die also without a task.
        """
        if self._is_lost(task):
            self._run_again()
        self._under_way = [other for other in self._under_way if other is not task]
        return task.future

    def is_done(self, task: Task[Any, Any]) -> bool:
        """Return whether `take` need not wait for a task: it is done, or would have to be started again."""
        if self._is_overdue():
            self._end_processes()
        return task.future.done() or self._is_broken()

    def _is_lost(self, task: Task[Any, Any]) -> bool:
        """Wait for the end of a task and return whether it was lost with a process.

        A task that starts at the moment in which its pool breaks is sometimes forgotten: its future never ends.
        """
        while not self.is_done(task):
            wait([task.future], timeout=LOOK_SECONDS)
        return _was_lost(task.future)

    def _is_overdue(self) -> bool:
        """Return whether tasks are under way and none has ended for so long that each has had its time."""
        if self.timeout is None or time.monotonic() - self._last_end <= self.timeout:
            return False
        return any(not task.future.done() for task in self._under_way)

    def _note_end(self, future: Future[Any]) -> None:
        self._last_end = time.monotonic()

    def _is_broken(self) -> bool:
        return self._executor is not None and bool(self._executor._broken)

    def _submit(self, function: Callable[[_Argument], _Result], argument: _Argument) -> Future[_Result]:
        if self.workers == 0:
            done: Future[_Result] = Future()
            try:
                done.set_result(function(argument))
            except Exception as error:  # handed on: the caller meets it in `result`, as with a process
                done.set_exception(error)
            return done
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            require_processes(without=Setting("run.workers", 0))
            self._executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=worker.set_up)
        if all(task.future.done() for task in self._under_way):
            self._last_end = time.monotonic()  # nobody was at work
        with interrupts.held_back():  # this may start a process
            if self.memory is None:
                future = self._executor.submit(function, argument)
            else:
                future = self._executor.submit(worker.run_limited, function, argument, self.memory)
        future.add_done_callback(self._note_end)
        return future

    def _first_of(
        self, waiting: deque[tuple[_Item, Task[_Argument, _Result] | None]]
    ) -> tuple[_Item, Future[_Result] | None]:
        item, task = waiting.popleft()
        return item, None if task is None else self.take(task)

    def _run_again(self) -> None:
        """Run the tasks that were lost with a process, each with no other beside it."""
        self._drop_processes()
        for task in [task for task in self._under_way if _was_lost(task.future)]:
            for _ in range(ATTEMPTS):
                began = time.monotonic()
                task.future = self._submit(task.function, task.argument)
                process = self._only_process()
                if not self._is_lost(task):
                    break
                self._drop_processes()
                if self.timeout is not None and time.monotonic() - began > self.timeout:
                    _give_up(task, f"it took longer than {self.timeout:g} seconds, see ", Setting("run.worker_timeout"))
                    break
            else:
                self.check_that_workers_live(task.function)
                why = cause_of_end(process)
                _give_up(task, f"the worker process died of it, {ATTEMPTS} times of {ATTEMPTS}: {why}")

    def _drop_processes(self) -> None:
        """End all processes, one of which has died; the next task starts new ones."""
        self.deaths += 1
        if self._executor is not None:
            self._end_processes()
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def _end_processes(self) -> None:
        """End all processes, also one that was started while its pool broke, which the pool itself would wait for."""
        for process in list((self._executor._processes or {}).values()) if self._executor else []:
            process.kill()

    def _only_process(self) -> BaseProcess | None:
        processes = list((self._executor._processes or {}).values()) if self._executor else []
        return processes[0] if len(processes) == 1 else None

    def check_that_workers_live(self, function: Callable[..., Any]) -> None:
        """Start a process, and wait until it has imported what it is to run.

        Args:
            function: of the tasks to come.

        Raises:
            WorkerDiedError: the process dies of it.
        """
        try:
            self._submit(_name_of, function).result()
        except BrokenProcessPool as error:
            raise WorkerDiedError from error


class WorkerDiedError(Cuts3dError):
    """Worker processes end of themselves, whatever they work on."""

    def __init__(self) -> None:
        """Say the likeliest cause and the way out."""
        super().__init__()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the line."""
        return (
            "worker processes die, most often for want of memory: lower ",
            Setting("run.workers"),
            ", or raise ",
            Setting("run.worker_memory"),
            " if that is set; finished shards are kept",
        )


def result_of(future: Future[_Result]) -> _Result:
    """Return the result of a task on one image.

    Raises:
        SampleError: from the task, or in place of whatever the image did to the numerics: its failure, not the shard's.
        Cuts3dError: from the task: what concerns the whole run.
        WorkerDiedError: a process ended of itself.
    """
    with numerics_of_one_image():
        return future.result()


@contextmanager
def numerics_of_one_image() -> Iterator[None]:
    """Turn whatever an image does to the numerics into that image's failure.

    Raises:
        SampleError: in place of it.
        WorkerDiedError: a process ended of itself.
    """
    try:
        yield
    except BrokenProcessPool as error:
        raise WorkerDiedError from error
    except (ArithmeticError, ValueError, RuntimeError, MemoryError) as error:
        raise SampleError(f"it could not be computed: {type(error).__name__}: {first_line(error)}") from error


def _give_up(task: Task[Any, Any], *reason: Part) -> None:
    """Let a task fail for a reason."""
    task.future = Future()
    task.future.set_exception(SampleError(*reason))


def _was_lost(future: Future[Any]) -> bool:
    """Return whether a future of a broken pool has no result."""
    return not future.done() or future.cancelled() or isinstance(future.exception(), BrokenProcessPool)


def _name_of(function: Callable[..., Any]) -> str:
    """Return a function's name: the least that a process can do, which imports the function's module on the way."""
    return getattr(function, "__name__", "")


def cause_of_end(process: BaseProcess | None) -> str:
    """Return how a process ended, as in "killed by SIGSEGV"; None is one of which nothing is known."""
    code = process.exitcode if process is not None else None
    if code is None or code >= 0:
        return "it ended of itself" if code is None else f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    more = ", as the system does for want of memory" if code == -signal.SIGKILL else ""
    return f"killed by {name}{more}"
