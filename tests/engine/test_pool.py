from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from cuts3d_cli.engine import pool as here
from cuts3d_cli.engine.pool import WorkerDiedError, WorkerPool, result_of
from cuts3d_cli.errors import SampleError

ROOT = Path(__file__).resolve().parents[2]


def double(value: int) -> int:
    return 2 * value


def fail(value: int) -> int:
    raise ValueError(f"not {value}")


def process_of(value: int) -> int:
    return os.getpid()


def is_alive(process: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def wait_for_end(processes: list[int], *, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while any(map(is_alive, processes)):
        assert time.monotonic() < end, "a process is still there"
        time.sleep(0.05)


def test_without_processes_work_is_done_at_once():
    with WorkerPool(0) as pool:
        assert pool.ahead == 0
        future = pool.start(double, 3).future
        assert future.done()
        assert future.result() == 6
        assert pool.start(process_of, 0).future.result() == os.getpid()
        with pytest.raises(ValueError, match="not 3"):
            pool.start(fail, 3).future.result()


def test_processes_work_in_one_thread_each_and_give_errors_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = dict(os.environ)
    # The functions come from a module that a new process can import, whatever the test runner's own modules are.
    with WorkerPool(2) as pool:
        futures = [pool.start(abs, -value).future for value in range(5)]
        assert [future.result() for future in futures] == list(range(5))
        with pytest.raises(ValueError, match="invalid literal"):
            pool.start(int, "x").future.result()
        assert pool.start(os.getenv, "OMP_NUM_THREADS").future.result() == "1"
    assert dict(os.environ) == before


def test_a_worker_that_dies_is_explained():
    with WorkerPool(1) as pool:
        future = pool.start(os._exit, 9).future
        with pytest.raises(BrokenProcessPool):
            future.result()
        with pytest.raises(WorkerDiedError, match=r"worker processes die.*lower run\.workers"):
            result_of(future)


KILLED = "__import__('os').kill(__import__('os').getpid(), 9)"
"""What ends the process that evaluates it, as the system does for want of memory."""


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_that_kill_their_worker_fail_alone_and_all_else_comes_in_order(workers: int):
    tasks: list[str | None] = [str(number) for number in range(12)]
    deadly = {3: KILLED, 4: KILLED, 7: "__import__('os').abort()", 8: "__import__('os')._exit(5)"}
    for place, task in deadly.items():
        tasks[place] = task
    tasks[5] = None
    found: list[tuple[int, object]] = []
    with WorkerPool(workers) as pool:
        for item, future in pool.in_order(eval, enumerate(tasks)):
            try:
                found.append((item, None if future is None else result_of(future)))
            except SampleError as error:
                found.append((item, str(error)))
    died = "the worker process died of it, 2 times of 2: "
    expected: list[object] = list(range(12))
    expected[3] = expected[4] = f"{died}killed by SIGKILL, as the system does for want of memory"
    expected[7], expected[8] = f"{died}killed by SIGABRT", f"{died}it ended with exit code 5"
    expected[5] = None
    assert found == list(enumerate(expected))
    assert pool.deaths >= 8


def test_an_image_beside_one_that_kills_and_one_killed_once_are_not_lost(tmp_path: Path):
    once = f"__import__('os').path.exists({str(tmp_path / 'x')!r}) or [open({str(tmp_path / 'x')!r}, 'w'), {KILLED}]"
    with WorkerPool(2) as pool:
        results = [future.result() for _, future in pool.in_order(eval, [(0, "0"), (1, once), (2, "2")]) if future]
    assert results == [0, True, 2]
    assert pool.deaths == 1


def test_a_worker_that_is_killed_while_it_waits_is_replaced():
    with WorkerPool(1) as pool:
        tasks = iter([(0, -1), (1, -2), (2, -3), (3, -4)])

        def with_a_death() -> Iterator[tuple[int, int]]:
            yield next(tasks)
            assert pool._executor is not None
            (process,) = pool._executor._processes.values()
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            yield from tasks

        assert [future.result() for _, future in pool.in_order(abs, with_a_death()) if future] == [1, 2, 3, 4]


def test_what_a_breaking_pool_forgets_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    """A task that is begun while the pool breaks may get a future that never ends, and a process that nobody ends."""
    missed = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    with WorkerPool(2) as pool:
        assert pool.take(pool.start(abs, -1)).result() == 1
        forgotten = pool.start(abs, -2)
        forgotten.future = Future()
        missed.start()
        monkeypatch.setattr(missed, "terminate", lambda: None)
        assert pool._executor is not None
        workers = list(pool._executor._processes.values())
        pool._executor._processes[missed.pid] = missed
        for worker in workers:
            worker.kill()
        assert pool.take(forgotten).result() == 2
        assert pool.deaths == 1
    assert not missed.is_alive()


def test_where_no_worker_can_live_the_run_ends_and_no_image_is_blamed(monkeypatch: pytest.MonkeyPatch):
    # What the processes are to run cannot be found in them, so that they die before they have looked at an image.
    monkeypatch.setattr(here, "only_in_this_process", lambda value: value, raising=False)
    here.only_in_this_process.__module__ = "cuts3d_cli.engine.pool"
    here.only_in_this_process.__qualname__ = "only_in_this_process"
    with WorkerPool(1) as pool, pytest.raises(WorkerDiedError):
        list(pool.in_order(here.only_in_this_process, [(0, 1)]))


@pytest.mark.skipif(sys.platform != "linux", reason="this system does not limit a process's memory")
def test_memory_over_the_limit_is_that_images_failure():
    with WorkerPool(1, memory=600) as pool:
        tasks = ["len(bytearray(1 << 20))", "len(bytearray(1 << 30))", "len(bytearray(1 << 21))"]
        futures = [future for _, future in pool.in_order(eval, enumerate(tasks)) if future]
        assert [futures[0].result(), futures[2].result()] == [1 << 20, 1 << 21]
        with pytest.raises(SampleError, match="MemoryError"):
            result_of(futures[1])
    assert pool.deaths == 0


@pytest.mark.skipif(sys.platform != "linux", reason="this system does not limit a process's memory")
@pytest.mark.parametrize("memory", [64, 100, 200])
def test_linear_algebra_works_under_the_smallest_limit(memory: int):
    """Without its buffers, OpenBLAS asks for memory again and again."""
    symmetric = "__import__('numpy').eye({0}) + __import__('numpy').ones({0})"
    task = f"float(__import__('scipy').linalg.eigh({symmetric})[0][-1])"
    with WorkerPool(1, memory=memory, timeout=60) as pool:
        tasks = [task.format(400), task.format(10_000), task.format(300)]
        futures = [future for _, future in pool.in_order(eval, enumerate(tasks)) if future]
        assert [futures[0].result(), futures[2].result()] == pytest.approx([401, 301])
        with pytest.raises(SampleError, match="MemoryError"):
            result_of(futures[1])
    assert pool.deaths == 0


def test_a_task_that_takes_too_long_fails_alone():
    hanging = "__import__('time').sleep(600)"
    found: list[object] = []
    with WorkerPool(2, timeout=2) as pool:
        for _, future in pool.in_order(eval, enumerate(["1", hanging, "2", "3", "4", "5", "6"])):
            assert future is not None
            try:
                found.append(result_of(future))
            except SampleError as error:
                found.append(str(error))
    late = "it took longer than 2 seconds, see run.worker_timeout"
    assert found == [1, late, 2, 3, 4, 5, 6]
    assert pool.deaths == 2


def test_time_without_a_task_does_not_count():
    with WorkerPool(1, timeout=5) as pool:
        assert pool.take(pool.start(abs, -1)).result() == 1
        pool._last_end -= 60
        assert pool.take(pool.start(abs, -2)).result() == 2
    assert pool.deaths == 0


def test_interrupts_are_the_main_processs_affair_from_the_first_moment_on():
    with WorkerPool(1) as pool:
        future = pool.start(abs, -1).future
        assert pool._executor is not None
        (process,) = pool._executor._processes
        for _ in range(50):  # while it starts
            os.kill(process, signal.SIGINT)
            time.sleep(0.01)
        assert future.result() == 1
        os.kill(process, signal.SIGINT)
        assert pool.start(abs, -2).future.result() == 2


def test_an_error_does_not_wait_for_work_that_nobody_will_see():
    processes: list[int] = []

    def work() -> None:
        with WorkerPool(1) as pool:
            assert pool.start(abs, -1).future.result() == 1
            assert pool._executor is not None
            processes.extend(pool._executor._processes)
            sleeping = pool.start(time.sleep, 600).future
            while not sleeping.running():
                time.sleep(0.01)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        work()
    wait_for_end(processes)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc to find processes in")
def test_workers_end_with_their_parent_however_it_ends(tmp_path: Path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from cuts3d_cli.engine.pool import WorkerPool\n"
        "if __name__ == '__main__':\n"
        "    with WorkerPool(2) as pool:\n"
        "        futures = [pool.start(time.sleep, 0.2).future for _ in range(4)]\n"
        "        [future.result() for future in futures]\n"
        "        pool.start(time.sleep, 600)\n"
        "        print(*pool._executor._processes, flush=True)\n"
        "        time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) in (1, 2)
    assert all(map(is_alive, workers))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_for_end(workers)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="a process cannot be stopped on this system")
def test_the_end_waits_for_no_worker():
    """One that hangs in a lock, as that of another which was killed at that moment, would never end of itself."""
    pool = WorkerPool(2)

    def use() -> None:
        with pool:
            workers.add(pool.take(pool.start(process_of, 0)).result())
            os.kill(next(iter(workers)), signal.SIGSTOP)

    workers: set[int] = set()
    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    (worker,) = workers
    assert not is_alive(worker)
