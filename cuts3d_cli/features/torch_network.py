"""What the backbones share: the check of the images, their normalisation, precision, and the check of the features."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cuts3d_cli.devices import NetworkPrecision, computing
from cuts3d_cli.features.base import Backbone, BackboneSpec
from cuts3d_cli.images import IMAGENET_MEAN, IMAGENET_STD


class TorchBackbone(Backbone):
    """A backbone in torch.

    Args:
        spec: what is fixed about it.
        model: the network with its weights, ready for images of `size`.
        size: side of its input, pixels.
        device: of torch.
        precision: what it computes in; in 16 bits weights are, too.
    """

    def __init__(
        self, *, spec: BackboneSpec, model: nn.Module, size: int, device: str, precision: NetworkPrecision
    ) -> None:
        """Move the model to the device, for inference alone."""
        self.spec = spec
        self.size = size
        self.grid = size // spec.patch
        self.device = torch.device(device)
        self.precision = precision
        self.dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(precision, torch.float32)
        self.model = model.to(device=self.device, dtype=self.dtype).eval().requires_grad_(False)
        mean, std = spec.normalisation or (IMAGENET_MEAN, IMAGENET_STD)
        self._mean = torch.tensor(mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=self.device).view(1, 3, 1, 1)

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Compute features.

        Args:
            pixels: (B, 3, S, S) on the device, in its precision, normalised.

        Returns:
            (B, C, H, W).
        """

    def extract_on_device(self, images: NDArray[np.uint8]) -> Tensor:
        """Compute the features of a batch of images; see `Backbone`.

        Args:
            images: (B, S, S, 3) uint8, RGB, S = `size`.

        Returns:
            (B, C, H, W) float32 on the device, C = `spec.dim`, H = W = `grid`.

        Raises:
            ValueError: the array has another shape or dtype, or the network gives another map than its spec says.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (self.size, self.size, 3):
            raise ValueError(
                f"expected uint8 (B, {self.size}, {self.size}, 3), got {images.dtype} {tuple(images.shape)}"
            )
        with torch.inference_mode(), computing(self.precision, device=self.device):
            pixels = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self.device).permute(0, 3, 1, 2)
            pixels = (pixels.float() / 255.0 - self._mean) / self._std
            features = self.forward(pixels.to(self.dtype))
            wanted = (len(images), self.spec.dim, self.grid, self.grid)
            if tuple(features.shape) != wanted:
                raise ValueError(f"{self.spec.name} gives features {tuple(features.shape)}, not {wanted} as specified")
            return features.float().contiguous()
