"""ZoeDepth, the paper's default (Table 7), through transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cuts3d_cli.config import DepthConfig
from cuts3d_cli.depth.base import DepthSpec
from cuts3d_cli.depth.pretrained import load_transformers, missing_package
from cuts3d_cli.depth.torch_network import TorchDepthBackend


class ZoeDepth(TorchDepthBackend):
    """ZoeDepth: metres, larger = farther. Without test-time flipping.

    Args:
        spec: what it gives.
        model: `ZoeDepthForDepthEstimation`.
        processor: its image processor, which pads each image by reflection and removes the padding again.
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
        """Return the maps of a batch.

        A model with an indoor and an outdoor head lets the whole batch vote on the head. Images that were
        outvoted run again among themselves, so that a photo's depth does not depend on its neighbours in the
        batch.
        """
        output = self.model(pixel_values=batch)
        depth = output.predicted_depth
        if output.domain_logits is None:
            return depth
        own = output.domain_logits.argmax(dim=-1)
        outvoted = own != output.domain_logits.sum(dim=0).argmax()
        if outvoted.any():
            depth = depth.clone()
            depth[outvoted] = self.model(pixel_values=batch[outvoted]).predicted_depth
        return depth

    def finish(self, values: torch.Tensor, *, size: tuple[int, int]) -> torch.Tensor:
        """Remove the processor's padding from a map."""
        from transformers.modeling_outputs import DepthEstimatorOutput

        output = DepthEstimatorOutput(predicted_depth=values[None])
        return self.processor.post_process_depth_estimation(output, source_sizes=[size])[0]["predicted_depth"]


def load_zoedepth(spec: DepthSpec, *, config: DepthConfig, device: str, half: bool) -> ZoeDepth:
    """Load ZoeDepth; arguments and errors are those of `base.LoadDepth`."""
    try:
        from transformers import ZoeDepthForDepthEstimation, ZoeDepthImageProcessor
    except ImportError as error:
        raise missing_package(spec, error) from error
    model, processor = load_transformers(
        ZoeDepthForDepthEstimation, ZoeDepthImageProcessor, spec, weights=config.weights
    )
    return ZoeDepth(spec, model=model, processor=processor, device=device, half=half)
