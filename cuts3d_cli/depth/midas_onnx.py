"""MiDaS small from an `.onnx` file, by onnxruntime on the CPU."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cuts3d_cli.depth.base import DepthSpec
from cuts3d_cli.depth.midas import input_size, midas_input
from cuts3d_cli.depth.torch_network import TorchDepthBackend
from cuts3d_cli.errors import WeightsError
from cuts3d_cli.wording import cause

_SCALING = frozenset({"Sub", "Add", "Mul", "Div"})
_ENDS = frozenset({"Conv", "Shape", "Size"})
"""Behind these it is no longer the image: features, or numbers to pad by."""


class MidasOnnx(TorchDepthBackend):
    """MiDaS small: relative disparity, larger = nearer. Runs on the CPU, one image at a time."""

    def __init__(self, spec: DepthSpec, *, session: Any, normalised: bool) -> None:
        """Take what was loaded.

        Args:
            spec: what it gives.
            session: of onnxruntime.
            normalised: whether the graph wants ImageNet-normalised images; else in [0, 1].
        """
        super().__init__(spec, device="cpu", half=False)
        self.session = session
        self.normalised = normalised
        node = session.get_inputs()[0]
        self.input_name = node.name
        fixed = [side if isinstance(side, int) else None for side in node.shape[2:]]
        self.fixed_size = (fixed[0], fixed[1]) if fixed[0] and fixed[1] else None

    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """See `TorchDepthBackend.prepare`. A graph of a fixed size gets that size, the aspect not kept."""
        size = self.fixed_size or input_size(*image.shape[:2])
        return midas_input(image, size=size, normalised=self.normalised)

    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """See `TorchDepthBackend.infer`."""
        height, width = batch.shape[-2:]
        maps = [self.session.run(None, {self.input_name: image[None].numpy()})[0] for image in batch]
        return torch.from_numpy(np.stack(maps).reshape(len(batch), height, width))


def load_midas_onnx(spec: DepthSpec, *, path: Path) -> MidasOnnx:
    """Load a graph.

    Exports differ in whether the ImageNet normalisation is part of the graph: it is where the input is scaled
    or shifted before the first convolution.

    Raises:
        WeightsError: onnxruntime is not installed, or the file is damaged or no depth network on RGB images.
    """
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise WeightsError(
            f"{path} needs onnxruntime: pip install onnxruntime, or for {spec.name}: {spec.weights_hint}"
        ) from error
    import onnx

    try:
        graph = onnx.load(str(path)).graph
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # Protobuf and onnxruntime raise types of their own.
        raise WeightsError(f"{path} cannot be read as an ONNX graph: {cause(error)}") from error
    shape = session.get_inputs()[0].shape
    if len(session.get_inputs()) != 1 or len(shape) != 4 or shape[1] != 3:
        raise WeightsError(f"{path} is not {spec.name}: its inputs are not one batch of RGB images")
    return MidasOnnx(spec, session=session, normalised=not _scales_its_input(graph))


def _scales_its_input(graph: Any) -> bool:
    """Whether the graph's image goes through an addition or multiplication before any convolution."""
    weights = {tensor.name for tensor in graph.initializer}
    reached = {node.name for node in graph.input if node.name not in weights}
    for node in graph.node:  # In topological order, by the ONNX standard.
        if reached.intersection(node.input):
            if node.op_type in _SCALING:
                return True
            if node.op_type not in _ENDS:
                reached.update(node.output)
    return False
