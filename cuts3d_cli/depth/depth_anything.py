"""Depth Anything V2 small through transformers. Not in the paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cuts3d_cli.config import DepthConfig
from cuts3d_cli.depth.base import DepthSpec
from cuts3d_cli.depth.pretrained import load_transformers, missing_package
from cuts3d_cli.depth.torch_network import TorchDepthBackend


class DepthAnything(TorchDepthBackend):
    """Depth Anything: relative disparity, larger = nearer (a metric model: metres, larger = farther).

    Args:
        spec: what it gives.
        model: `DepthAnythingForDepthEstimation`.
        processor: its image processor.
        device: of torch.
        half: autocast to float16.
    """

    def __init__(self, spec: DepthSpec, *, model: Any, processor: Any, device: str, half: bool) -> None:
        """Move the model to the device."""
        super().__init__(spec, device=device, half=half)
        self.model = model.to(self.device)
        self.processor = processor

    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """Return what the network sees, as its image processor makes it."""
        inputs = self.processor(images=image, return_tensors="pt", input_data_format="channels_last")
        return inputs["pixel_values"][0]

    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the maps of a batch."""
        return self.model(pixel_values=batch).predicted_depth


def load_depth_anything(spec: DepthSpec, *, config: DepthConfig, device: str, half: bool) -> DepthAnything:
    """Load Depth Anything; arguments and errors are those of `base.LoadDepth`."""
    try:
        from transformers import DepthAnythingForDepthEstimation, DPTImageProcessor
    except ImportError as error:
        raise missing_package(spec, error) from error
    model, processor = load_transformers(
        DepthAnythingForDepthEstimation, DPTImageProcessor, spec, weights=config.weights
    )
    if model.config.depth_estimation_type == "metric":
        spec = replace(spec, direction="distance", unit="metre")
    return DepthAnything(spec, model=model, processor=processor, device=device, half=half)
