from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from cuts3d_cli import devices
from cuts3d_cli.devices import graph_device
from cuts3d_cli.errors import UsageError


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


def test_without_a_gpu_nobody_loads_torch_to_find_out():
    code = (
        "import sys; from cuts3d_cli import devices; devices._gpu_driver = lambda: False;"
        "print(devices.graph_device('auto', device='auto'), 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "None False\n"
