"""Devices: the one place that resolves and checks what a run is asked to compute on."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cuts3d_cli import interrupts
from cuts3d_cli.config import ALL_GPUS, Graphs, Precision, RunConfig, spread
from cuts3d_cli.errors import Cuts3dError, Parts, Setting, SettingError, UsageError
from cuts3d_cli.wording import counted, first_line

if TYPE_CHECKING:
    import torch


NetworkPrecision = Literal["float32", "tf32", "bfloat16", "float16"]
"""What a network computes in: of `Precision` all but "auto"."""


def choose_device(asked: str) -> str:
    """Resolve "auto", and check that the device is there.

    Args:
        asked: "auto", "cpu", "cuda", "cuda:N" or another of torch's.

    Returns:
        The name of a device that works.

    Raises:
        UsageError: torch has no such device, or it is several.
    """
    import torch

    require_one_device(asked)
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=asked)
    except (RuntimeError, AssertionError) as error:
        raise SettingError("run.device", f"{asked} cannot be used: {first_line(error)}") from error
    return asked


def require_one_device(asked: str) -> None:
    """Make sure that a device is a single one.

    Raises:
        SettingError: it is every GPU, which is for what works in several processes.
    """
    if asked == ALL_GPUS:
        problem = f"is {asked}, which is for what several GPUs do at once: here take auto, cuda, or cuda:0, cuda:1, ..."
        raise SettingError("run.device", problem)


def choose_precision(asked: Precision, *, device: str) -> NetworkPrecision:
    """Resolve "auto", and check that networks can compute so on a device.

    Args:
        asked: "auto" is float16 on CUDA, else float32.
        device: of torch, such as "cpu" or "cuda:1".

    Returns:
        What networks compute in there.

    Raises:
        SettingError: it is for CUDA only, and the device is another one.
    """
    if asked == "auto":
        return "float16" if on_cuda(device) else "float32"
    if asked in ("tf32", "float16") and not on_cuda(device):
        raise SettingError("run.precision", f"is {asked}, which is for CUDA: on {device} take float32 or bfloat16")
    return asked


_TF32 = threading.RLock()
"""Held while a network computes with switches for TF32 of its own, which are the whole process's."""


@contextmanager
def computing(precision: NetworkPrecision, *, device: torch.device) -> Iterator[None]:
    """Let float32 products on CUDA be TF32's or not, as a precision says, for a block; all is restored at its end.

    Args:
        precision: float32 computes convolutions and products in full, tf32 both with TF32's 10 bits of mantissa; with
            the others the switches stay as they are.
        device: of the network; nothing is switched off CUDA.
    """
    import torch

    if device.type != "cuda" or precision not in ("float32", "tf32"):
        yield
        return
    with _TF32:
        convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
        try:
            torch.backends.cudnn.allow_tf32 = precision == "tf32"
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = convolutions
            torch.set_float32_matmul_precision(products)


def autocasting(precision: NetworkPrecision, *, device: torch.device) -> torch.autocast:
    """Return what lets a float32 network compute products and convolutions in 16 bits, where a precision says so."""
    import torch

    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def require_processes(*, without: Setting) -> None:
    """Make sure that worker processes can be started.

    Args:
        without: the setting that does without them.

    Raises:
        Cuts3dError: they cannot, since the system gives no semaphores; Linux keeps these in /dev/shm.
    """
    try:
        # The first semaphore starts a process that keeps account of them: it must outlive a hang-up of the terminal.
        with interrupts.held_back():
            multiprocessing.get_context("spawn").Lock()
    except OSError as error:
        why = f"/dev/shm holds what they share: {error.strerror or error}"
        raise Cuts3dError(f"worker processes cannot be started ({why}): make it writable, or set ", without) from error


def on_cuda(device: str) -> bool:
    """Return whether a device is a CUDA device, by its name."""
    return device.partition(":")[0] == "cuda"


def own_device(name: str, *, alone: bool) -> torch.device:
    """Return the device of this process of a training, and make it torch's current one.

    Args:
        name: "cpu", "cuda", "cuda:1", ...; with several processes the launcher has given each a GPU already.
        alone: whether no other process takes part.

    Raises:
        UsageError: training has no such kind of device.
    """
    import torch

    device = torch.device(name)
    if device.type not in ("cpu", "cuda"):
        raise SettingError("run.device", f"is {name}: training works on cpu and cuda")
    if device.type == "cpu":
        return device
    if alone and device.index is not None:
        torch.cuda.set_device(device)
    return torch.device("cuda", torch.cuda.current_device())


def devices_of(run: RunConfig, *, network: bool) -> list[str]:
    """Return the device of each process of a run, one where it is not to have several.

    Args:
        run: its section of the configuration.
        network: whether it runs a neural network; what runs none needs no GPU, and has as many processes as are named.

    Raises:
        SettingError: there are not so many GPUs, or the device is a single one.
    """
    named = ("run.device", run.device) if run.device == ALL_GPUS else ("run.gpus", str(run.gpus))
    run = spread(run)
    if run.gpus == 1:
        return [run.device]
    device = Setting("run.device")
    if run.gpus != "all" and (not network or run.device == "cpu"):
        return [run.device] * run.gpus
    if run.device == "cpu":
        counts = f"is {run.gpus}, which counts GPUs: with "
        raise SettingError("run.gpus", counts, device, " cpu name a number of processes")
    if run.device not in ("auto", "cuda"):
        only = f" is {run.device}: take cuda, or cpu for its cores"
        raise SettingError("run.gpus", f"is {run.gpus}, but ", device, only)
    more = " for so many processes on the cores" if run.gpus != "all" else ""
    instead = ("take ", Setting("run.device", "cpu"), more)
    return [f"cuda:{number}" for number in range(count_gpus(run.gpus, named=named, instead=instead))]


def training_gpus(gpus: int | Literal["all"], *, device: str) -> tuple[str, int]:
    """Return the device of a training and the number of GPUs that share its batches, from what a user asks for.

    Args:
        gpus: their number; "all" is every one.
        device: "auto", "cpu", "cuda", ...; `ALL_GPUS` is the device cuda on every one, whatever `gpus` is.

    Raises:
        SettingError: there is no GPU, or the device is a single one.
    """
    if device == ALL_GPUS:
        return "cuda", count_gpus("all", named=("run.device", device), instead=("take ", Setting("run.device", "cpu")))
    if gpus != "all":
        return device, gpus
    if device not in ("auto", "cuda"):
        raise SettingError("gpus", "is all, but ", Setting("run.device"), f" is {device}: take cuda, or leave it out")
    return device, count_gpus("all", named=("gpus", "all"), instead=("leave it out",))


def count_gpus(wanted: int | Literal["all"], *, named: tuple[str, str], instead: Parts) -> int:
    """Return how many GPUs of this machine are meant, and make sure that it has them.

    Args:
        wanted: their number, or "all" for every one.
        named: the setting that asks for them, as in "run.gpus", and its value.
        instead: the way out where there is none.

    Raises:
        SettingError: there are not so many.
    """
    import torch

    there = torch.cuda.device_count()
    if there < (1 if wanted == "all" else wanted):
        setting, value = named
        fewer = "lower it, or " if there else ""
        raise SettingError(setting, f"is {value}, but this machine has {counted(there, 'GPU')}: {fewer}", *instead)
    return there if wanted == "all" else wanted


def graph_device(graphs: Graphs, *, device: str) -> str | None:
    """Return where semantic graphs are built and solved.

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
    if graphs == "auto":
        return chosen if on_cuda(chosen) else None
    if chosen != "cpu" and not on_cuda(chosen):
        workers = Setting("run.graphs", "workers")
        raise UsageError(f"graphs on a device need double precision, which {chosen} may lack: set ", workers)
    return chosen


def _gpu_driver() -> bool:
    """Return whether there is a driver that torch's CUDA, or ROCm in its place, could use, without loading torch."""
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    return True


_processes = [1]
"""How many processes of a run share this machine's cores, this one among them."""


def share_cores(processes: int) -> None:
    """Leave the other processes of a run their share of this machine's cores, from now on.

    Args:
        processes: how many they are, with this one.
    """
    _processes[:] = [processes]


def core_count() -> int:
    """Return how many cores this process is to use: those that it may, or its share of them, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // _processes[0], 1)


def worker_count(asked: int | None) -> int:
    """Return how many worker processes to start.

    Args:
        asked: a number, or None for one a core that this process is to use.

    Returns:
        The number; 0 works in the main process.
    """
    return core_count() if asked is None else asked
