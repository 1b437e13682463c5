"""Which device a stage computes on."""

from __future__ import annotations

import os

from cuts3d_cli.errors import UsageError


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
        raise UsageError(f"--device {asked} cannot be used: {str(error).splitlines()[0]}") from error
    return asked


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
