"""Which device a stage computes on."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from cuts3d_cli.config import Graphs
from cuts3d_cli.errors import Setting, SettingError, UsageError
from cuts3d_cli.wording import first_line


def choose_device(asked: str) -> str:
    """Resolve "auto", and check that the device is there.

    Args:
        asked: "auto", "cpu", "cuda", "cuda:N" or another of torch's.

    Returns:
        The name of a device that works.

    Raises:
        UsageError: torch has no such device.
    """
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=asked)
    except (RuntimeError, AssertionError) as error:
        raise SettingError("run.device", f"{asked} cannot be used: {first_line(error)}") from error
    return asked


def graph_device(graphs: Graphs, *, device: str) -> str | None:
    """Where semantic graphs are built and solved.

    Args:
        graphs: "workers"; "device"; or "auto", which is the device where that is CUDA.
        device: as for `choose_device`.

    Returns:
        The device that does it in batches; None where worker processes do it one by one.

    Raises:
        UsageError: torch has no such device, or it lacks double precision.
    """
    if graphs == "workers" or (graphs == "auto" and (device == "cpu" or (device == "auto" and not _gpu_driver()))):
        return None
    chosen = choose_device(device)
    kind = chosen.partition(":")[0]
    if graphs == "auto":
        return chosen if kind == "cuda" else None
    if kind not in ("cpu", "cuda"):
        workers = Setting("run.graphs", "workers")
        raise UsageError(f"graphs on a device need double precision, which {chosen} may lack: set ", workers)
    return chosen


def _gpu_driver() -> bool:
    """Whether a driver is there that torch's CUDA, or ROCm in its place, could use: answers without loading torch."""
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    return True


def worker_count(asked: int | None) -> int:
    """How many worker processes to start.

    Args:
        asked: a number, or None for one a core that this process may use.

    Returns:
        The number; 0 works in the main process.
    """
    if asked is not None:
        return asked
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
