"""MiDaS small from an ONNX graph: what is done to the image before and to the map after."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.images import IMAGENET_MEAN, IMAGENET_STD

GREEN_ONLY = np.array([0.0, 1.0, 0.0], np.float32).reshape(1, 3, 1, 1)


def save_graph(path: Path, *, sides: list[int | str], normalises: bool, channels: int = 3) -> Path:
    """A depth "network" that gives 3 plus the normalised green channel, and pads by amounts that it computes."""
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Sub", ["shape", "shape"], ["nothing"]),  # Arithmetic on sizes, as exporters write it.
        helper.make_node("Concat", ["nothing", "nothing"], ["pads"], axis=0),
        helper.make_node("Pad", ["image", "pads"], ["padded"]),
    ]
    name = "padded"
    if normalises:
        nodes += [
            helper.make_node("Sub", [name, "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "std"], ["scaled"]),
        ]
        name = "scaled"
    nodes += [
        helper.make_node("Conv", [name, "weight", "bias"], ["features"]),
        helper.make_node("Squeeze", ["features", "axis"], ["depth"]),
    ]
    constants = {
        "mean": np.array(IMAGENET_MEAN, np.float32).reshape(1, 3, 1, 1),
        "std": np.array(IMAGENET_STD, np.float32).reshape(1, 3, 1, 1),
        "weight": GREEN_ONLY[:, :channels],
        "bias": np.array([3.0], np.float32),
        "axis": np.array([1]),
    }
    graph = helper.make_graph(
        nodes,
        "midas",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, *sides])],
        [helper.make_tensor_value_info("depth", TensorProto.FLOAT, [1, *sides])],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("normalises", [True, False])
@pytest.mark.parametrize("sides", [[256, 256], ["height", "width"]], ids=["fixed", "dynamic"])
def test_known_answer(tmp_path: Path, load: Any, sides: list[int | str], normalises: bool) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    network = load("midas-small", save_graph(tmp_path / "midas.onnx", sides=sides, normalises=normalises))
    dark, bright = np.zeros((60, 80, 3), np.uint8), np.zeros((90, 40, 3), np.uint8)
    bright[..., 1] = 255
    maps = network.predict([dark, bright], max_side=80)
    assert [values.shape for values in maps] == [(60, 80), (80, 36)]
    np.testing.assert_allclose(maps[0], 3 + (0 - 0.456) / 0.224, rtol=1e-5)
    np.testing.assert_allclose(maps[1], 3 + (1 - 0.456) / 0.224, rtol=1e-5)
    assert network.spec.direction == "disparity"


def test_damaged_file(tmp_path: Path, load: Any) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path = tmp_path / "midas.onnx"
    path.write_bytes(b"\x08 no graph")
    with pytest.raises(WeightsError, match="cannot be read as an ONNX graph") as caught:
        load("midas-small", path)
    assert "\n" not in str(caught.value)


def test_graph_on_gray_images(tmp_path: Path, load: Any) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path = save_graph(tmp_path / "gray.onnx", sides=[64, 64], normalises=False, channels=1)
    with pytest.raises(WeightsError, match="not one batch of RGB images"):
        load("midas-small", path)


def test_without_onnxruntime(tmp_path: Path, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def fake(name: str, package: str | None = None) -> Any:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, package)

    path = save_graph(tmp_path / "midas.onnx", sides=[64, 64], normalises=False)
    monkeypatch.setattr(importlib, "import_module", fake)
    with pytest.raises(WeightsError, match=r"pip install onnxruntime, or for midas-small: .*\.pt"):
        load("midas-small", path)
