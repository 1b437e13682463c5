"""ZoeDepth, the paper's default (Table 7), through transformers: folders and the authors' own files."""

from __future__ import annotations

from typing import Any

import torch

from cuts3d_cli.config import DepthConfig
from cuts3d_cli.depth.base import DepthSpec, loaded_spec
from cuts3d_cli.depth.pretrained import load_transformers, missing_package, pretrained_files, require_pretrained
from cuts3d_cli.depth.transformers_network import TransformersDepth
from cuts3d_cli.depth.zoedepth_file import load_authors_file
from cuts3d_cli.devices import NetworkPrecision


class ZoeDepth(TransformersDepth):
    """ZoeDepth: metres, larger = farther. Its image processor pads each image by reflection.

    Args:
        spec: what it gives.
        flip: average the maps of an image and of its mirror image, as the authors' `infer` does by default (open).
        settings: the model, a `ZoeDepthForDepthEstimation`, and the rest that `TransformersDepth` takes.
    """

    def __init__(self, spec: DepthSpec, *, flip: bool = False, **settings: Any) -> None:
        """Move the model to the device."""
        super().__init__(spec, **settings)
        self.flip = flip

    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the maps of a batch."""
        depth = self._infer_once(batch)
        if self.flip:
            # The padding is the same on both sides, and is still there.
            depth = (depth + self._infer_once(batch.flip(-1)).flip(-1)) / 2
        return depth

    def _infer_once(self, batch: torch.Tensor) -> torch.Tensor:
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


def load_zoedepth(spec: DepthSpec, *, config: DepthConfig, device: str, precision: NetworkPrecision) -> ZoeDepth:
    """Load ZoeDepth; arguments and errors are those of `base.LoadDepth`."""
    require_pretrained(spec, weights=config.weights)
    try:
        from transformers import ZoeDepthForDepthEstimation, ZoeDepthImageProcessor
    except ImportError as error:
        raise missing_package(spec, error) from error
    if config.weights is not None and config.weights.is_file():
        model, processor = load_authors_file(spec, config.weights)
    else:
        model, processor = load_transformers(
            ZoeDepthForDepthEstimation, ZoeDepthImageProcessor, spec, weights=config.weights
        )
    files = pretrained_files(spec, config.weights)
    spec = loaded_spec(spec, config.weights, kind="ZoeDepth")
    flip = config.zoedepth_flip
    return ZoeDepth(spec, model=model, processor=processor, device=device, precision=precision, flip=flip, files=files)
