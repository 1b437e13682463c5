from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from cuts3d_cli.stages.pool import WorkerDiedError, WorkerPool

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
        future = pool.submit(double, 3)
        assert future.done()
        assert future.result() == 6
        assert pool.submit(process_of, 0).result() == os.getpid()
        with pytest.raises(ValueError, match="not 3"):
            pool.submit(fail, 3).result()


def test_processes_work_in_one_thread_each_and_give_errors_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = dict(os.environ)
    # The functions come from a module that a new process can import, whatever the test runner's own modules are.
    with WorkerPool(2) as pool:
        futures = [pool.submit(abs, -value) for value in range(5)]
        assert [future.result() for future in futures] == list(range(5))
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "x").result()
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
    assert dict(os.environ) == before


def test_a_worker_that_dies_is_explained():
    with WorkerPool(1) as pool:
        with pytest.raises(BrokenProcessPool):
            pool.submit(os._exit, 9).result()
        with pytest.raises(WorkerDiedError, match=r"a worker process died.*fewer --workers"):
            pool.submit(abs, 1)


def test_interrupts_are_the_main_processs_affair_from_the_first_moment_on():
    with WorkerPool(1) as pool:
        future = pool.submit(abs, -1)
        assert pool._executor is not None
        (process,) = pool._executor._processes
        for _ in range(50):  # while it starts
            os.kill(process, signal.SIGINT)
            time.sleep(0.01)
        assert future.result() == 1
        os.kill(process, signal.SIGINT)
        assert pool.submit(abs, -2).result() == 2


def test_an_error_does_not_wait_for_work_that_nobody_will_see():
    processes: list[int] = []

    def work() -> None:
        with WorkerPool(1) as pool:
            assert pool.submit(abs, -1).result() == 1
            assert pool._executor is not None
            processes.extend(pool._executor._processes)
            sleeping = pool.submit(time.sleep, 600)
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
        "from cuts3d_cli.stages.pool import WorkerPool\n"
        "if __name__ == '__main__':\n"
        "    with WorkerPool(2) as pool:\n"
        "        futures = [pool.submit(time.sleep, 0.2) for _ in range(4)]\n"
        "        [future.result() for future in futures]\n"
        "        pool.submit(time.sleep, 600)\n"
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
