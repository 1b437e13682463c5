"""What happens inside a worker process: it computes in one thread, ends with its parent, and keeps to its memory."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cuts3d_cli import interrupts

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_MB = 1 << 20
_WARM_UP_SIZE = 256
"""Rows of the matrices that libraries of linear algebra set up their memory with: small ones take another path."""
_limits: list[int] = []
"""The limit on this process's memory, megabytes, once it is set."""


def set_up() -> None:
    """Prepare a new process for its tasks."""
    # Before NumPy comes with the first task: idle threads of several workers would still fight for the cores.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    # The main process decides what becomes of the workers, by ending them or by its own end, however that comes.
    interrupts.leave_to_parent()
    end_with_parent()


def end_with_parent() -> None:
    """Let this process end as soon as its parent has ended, however that came."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def run_limited(function: Callable[[_Argument], _Result], argument: _Argument, megabytes: int) -> _Result:
    """Run a task that may allocate no more than this, beyond what the process has when its first task begins.

    Libraries are set up before the limit: OpenBLAS, refused its first buffer, would ask for it again without end.

    Raises:
        MemoryError: the task needs more.
    """
    if not _limits:
        _warm_up()
        _limit_memory(megabytes)
        _limits.append(megabytes)
    return function(argument)


def _warm_up() -> None:
    """Let libraries set themselves up: those of linear algebra (NumPy and SciPy bring one each), and the CRF."""
    import numpy as np
    import scipy.linalg
    import scipy.sparse.linalg

    from cuts3d_cli.cut import lattice

    for kind in (np.float32, np.float64):
        matrix = np.eye(_WARM_UP_SIZE, dtype=kind) + np.ones(_WARM_UP_SIZE, dtype=kind)
        symmetric = matrix @ matrix.T
        np.linalg.eigh(symmetric)
        scipy.linalg.eigh(symmetric)
        scipy.linalg.blas.get_blas_funcs("gemm", (symmetric,))(1.0, symmetric, symmetric)
        scipy.sparse.linalg.eigsh(symmetric, k=2)
    # The compiler that the CRF comes with takes more than an image.
    lattice.foreground(np.zeros((4, 4, 3), dtype=np.uint8), [np.ones((4, 4), dtype=np.bool_)], iterations=1)


def _limit_memory(megabytes: int) -> None:
    """Let this process allocate so much more than it has.

    RLIMIT_DATA, not RLIMIT_AS: address space counts hundreds of megabytes of libraries and of space that is merely set
    aside (OpenBLAS, the arenas of malloc), so that a limit on it would refuse images that need little memory.
    """
    try:
        import resource
    except ImportError:  # not on POSIX
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _allocated() + megabytes * _MB
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _allocated() -> int:
    """Return the bytes that RLIMIT_DATA counts by now; 0 where the system does not say."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmData:")]
    return int(found[0]) * 1024 if found else 0


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
