"""Depth networks of transformers: any of them, as its own image processor feeds it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cuts3d_cli.depth.base import DepthSpec
from cuts3d_cli.depth.torch_network import TorchDepthBackend
from cuts3d_cli.devices import NetworkPrecision


class TransformersDepth(TorchDepthBackend):
    """A depth network of transformers.

    Args:
        spec: what it gives.
        model: the network.
        processor: its image processor.
        device: of torch.
        precision: what it computes in; in 16 bits by autocast.
        files: that it was read from.
    """

    def __init__(
        self,
        spec: DepthSpec,
        *,
        model: Any,
        processor: Any,
        device: str,
        precision: NetworkPrecision,
        files: Sequence[Path] = (),
    ) -> None:
        """Move the model to the device."""
        super().__init__(spec, device=device, precision=precision, files=files)
        self.model = model.to(self.device)
        self.processor = processor

    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """Return what the network sees, as its image processor makes it."""
        inputs = self.processor(images=image, return_tensors="pt", input_data_format="channels_last")
        return inputs["pixel_values"][0]

    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the maps of a batch."""
        return self.model(pixel_values=batch).predicted_depth

    def finish(self, values: torch.Tensor, *, size: tuple[int, int]) -> torch.Tensor:
        """Bring a map to the size of its image, as the image processor does."""
        from transformers.modeling_outputs import DepthEstimatorOutput

        output = DepthEstimatorOutput(predicted_depth=values[None])
        return self.processor.post_process_depth_estimation(output, target_sizes=[size])[0]["predicted_depth"]
