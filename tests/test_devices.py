from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
import torch

from cuts3d_cli import devices
from cuts3d_cli.config import RunConfig
from cuts3d_cli.devices import (
    NetworkPrecision,
    autocasting,
    choose_device,
    choose_precision,
    computing,
    devices_of,
    graph_device,
    own_device,
    training_gpus,
)
from cuts3d_cli.errors import SettingError, UsageError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Pretends that this machine has a GPU, or has none."""

    def pretend(there: bool) -> None:
        monkeypatch.setattr(devices, "_gpu_driver", lambda: there)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
        monkeypatch.setattr(torch, "empty", lambda *_, **__: None)

    return pretend


@pytest.mark.parametrize(
    ("graphs", "device", "there", "expected"),
    [
        ("auto", "auto", False, None),
        ("auto", "auto", True, "cuda"),
        ("auto", "cpu", True, None),
        ("auto", "cuda:1", True, "cuda:1"),
        ("auto", "mps", False, None),
        ("workers", "auto", True, None),
        ("workers", "cuda", True, None),
        ("device", "auto", False, "cpu"),
        ("device", "auto", True, "cuda"),
        ("device", "cpu", True, "cpu"),
    ],
)
def test_where_graphs_are_solved(
    gpus: Callable[[bool], None], graphs: str, device: str, there: bool, expected: str | None
):
    gpus(there)
    assert graph_device(graphs, device=device) == expected


def test_a_device_without_double_precision_is_refused(gpus: Callable[[bool], None]):
    gpus(False)
    with pytest.raises(UsageError, match=r"mps may lack: set run\.graphs='workers'"):
        graph_device("device", device="mps")


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match=r"run\.device qpu cannot be used"):
        graph_device("device", device="qpu")


def test_the_device_of_each_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    all_there = ["cuda:0", "cuda:1", "cuda:2"]
    for network in (True, False):
        assert devices_of(RunConfig(device="cuda:all"), network=network) == all_there
        assert devices_of(RunConfig(device="cuda", gpus="all"), network=network) == all_there
        assert devices_of(RunConfig(device="cuda:1"), network=network) == ["cuda:1"]
    assert devices_of(RunConfig(gpus=2), network=True) == all_there[:2]
    assert devices_of(RunConfig(gpus=4), network=False) == ["auto"] * 4
    with pytest.raises(SettingError, match=r"run\.gpus is 4, but this machine has 3 GPUs: lower it, or take "):
        devices_of(RunConfig(gpus=4), network=True)


def test_the_gpus_of_a_training(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert training_gpus(2, device="cuda") == ("cuda", 2)
    assert training_gpus(1, device="cuda:1") == ("cuda:1", 1)
    assert training_gpus("all", device="auto") == ("auto", 3)
    assert training_gpus(1, device="cuda:all") == training_gpus("all", device="cuda") == ("cuda", 3)
    with pytest.raises(SettingError, match=r"^gpus is all, but run\.device is cuda:1: take cuda, or leave it out"):
        training_gpus("all", device="cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SettingError, match=r"^gpus is all, but this machine has 0 GPUs: leave it out"):
        training_gpus("all", device="auto")
    with pytest.raises(
        SettingError, match=r"^run\.device is cuda:all, but this machine has 0 GPUs: take run\.device='cpu'"
    ):
        training_gpus(1, device="cuda:all")


def test_several_devices_are_no_device():
    with pytest.raises(SettingError, match=r"^run\.device is cuda:all, which is for what several GPUs do at once"):
        choose_device("cuda:all")


def test_without_a_gpu_nobody_loads_torch_to_find_out():
    code = (
        "import sys; from cuts3d_cli import devices; devices._gpu_driver = lambda: False;"
        "print(devices.graph_device('auto', device='auto'), 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "None False\n"


def test_the_gpu_that_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    chosen = [0]
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(device.index))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1])
    assert own_device("cpu", alone=True) == torch.device("cpu")
    assert own_device("cuda", alone=True) == torch.device("cuda:0")
    assert own_device("cuda:1", alone=True) == torch.device("cuda:1")
    assert chosen == [0, 1]
    chosen.append(3)  # by the launcher
    assert own_device("cuda:1", alone=False) == torch.device("cuda:3")
    with pytest.raises(UsageError, match=r"run\.device is mps: training works on cpu and cuda"):
        own_device("mps", alone=True)


def test_the_default_precision_is_half_on_cuda_and_single_elsewhere():
    found = {device: choose_precision("auto", device=device) for device in ("cuda", "cuda:1", "cpu", "mps", "cudax")}
    assert found == {"cuda": "float16", "cuda:1": "float16", "cpu": "float32", "mps": "float32", "cudax": "float32"}


def test_some_precisions_are_for_cuda():
    precisions: tuple[NetworkPrecision, ...] = get_args(NetworkPrecision)
    assert [choose_precision(precision, device="cuda:1") for precision in precisions] == list(precisions)
    for device in ("cpu", "mps", "cudax"):
        for precision in ("float32", "bfloat16"):
            assert choose_precision(precision, device=device) == precision
        for precision in ("tf32", "float16"):
            with pytest.raises(SettingError) as caught:
                choose_precision(precision, device=device)
            said = f"run.precision is {precision}, which is for CUDA: on {device} take float32 or bfloat16"
            assert str(caught.value) == said


def switches() -> tuple[bool, str]:
    """What torch does with float32 on CUDA: convolutions in TF32 or not, and the products' precision."""
    return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("tf32", "cuda", (True, "high")),
        ("float32", "cuda", (False, "highest")),
        ("float16", "cuda", None),
        ("bfloat16", "cuda", None),
        ("float32", "cpu", None),
    ],
)
@pytest.mark.parametrize("before", [(True, "highest"), (False, "high"), (True, "medium")])
def test_switches_for_tf32_are_restored(
    precision: NetworkPrecision, device: str, expected: tuple[bool, str] | None, before: tuple[bool, str]
):
    at_first = switches()
    try:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])
        with computing(precision, device=torch.device(device)):
            assert switches() == (before if expected is None else expected)
        assert switches() == before
        with suppress(KeyError), computing(precision, device=torch.device(device)):
            raise KeyError
        assert switches() == before
    finally:
        torch.backends.cudnn.allow_tf32 = at_first[0]
        torch.set_float32_matmul_precision(at_first[1])


def test_products_are_in_16_bits_under_autocast_alone():
    matrix = torch.eye(3)
    found = {}
    for precision in ("float32", "bfloat16"):
        with autocasting(precision, device=torch.device("cpu")):
            found[precision] = (matrix @ matrix).dtype
    assert found == {"float32": torch.float32, "bfloat16": torch.bfloat16}
    assert (matrix @ matrix).dtype == torch.float32


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no Linux")
def test_what_keeps_account_of_semaphores_outlives_a_hang_up():
    """Python's own process for it ignores SIGINT and SIGTERM alone, and would be missed with a traceback."""
    script = """
from multiprocessing import resource_tracker
from cuts3d_cli.devices import require_processes
from cuts3d_cli.errors import Setting
require_processes(without=Setting("run.workers", 0))
print(open(f"/proc/{resource_tracker._resource_tracker._pid}/status").read())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (blocked,) = [int(line.split()[1], 16) for line in ran.stdout.splitlines() if line.startswith("SigBlk:")]
    assert blocked >> (signal.SIGHUP - 1) & 1
