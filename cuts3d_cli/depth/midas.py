"""MiDaS v2.1 small (Ranftl et al., TPAMI 2022), one of the paper's four depth sources (Table 7).

The network's modules bear the names that the released checkpoint has, so that it loads as it is.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from cuts3d_cli.depth.base import DepthSpec
from cuts3d_cli.depth.torch_network import TorchDepthBackend, imagenet_normalise, to_unit_tensor
from cuts3d_cli.errors import WeightsError
from cuts3d_cli.weights.state_files import fill, read_state

INPUT_SIDE = 256
"""Longer side that the network sees, pixels."""
STRIDE = 32
ENCODER = "tf_efficientnet_lite3"
ENCODER_CHANNELS = (32, 48, 136, 384)
"""Of the encoder's four outputs, at strides 4, 8, 16, 32."""
WIDTHS = (64, 128, 256, 512)
"""Of the decoder's four inputs."""
CACHED_NAMES = ("midas_v21_small_256.pt", "model-small-70d6b9c8.pt")
"""What the released checkpoint is called in torch.hub's cache."""


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions after ReLUs, and a shortcut: (n, c, h, w) -> (n, c, h, w)."""

    def __init__(self, channels: int) -> None:
        """Build it with random weights."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """See the class."""
        inner = self.conv1(functional.relu(features))
        return features + self.conv2(functional.relu(inner))


class FusionBlock(nn.Module):
    """Add a skip connection, refine, double the size: (n, c, h, w) -> (n, out, 2h, 2w)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        """Build it with random weights."""
        super().__init__()
        self.out_conv = nn.Conv2d(channels, out_channels, 1)
        self.resConfUnit1 = ResidualUnit(channels)
        self.resConfUnit2 = ResidualUnit(channels)

    def forward(self, features: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        if skip is not None:
            features = features + self.resConfUnit1(skip)
        features = self.resConfUnit2(features)
        features = functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
        return self.out_conv(features)


class MidasSmallNet(nn.Module):
    """(n, 3, h, w) float, ImageNet-normalised, sides multiples of 32 -> (n, h, w) disparity, 0 and more."""

    def __init__(self) -> None:
        """Build it with random weights."""
        super().__init__()
        import timm

        encoder: Any = timm.create_model(ENCODER, pretrained=False)
        blocks = encoder.blocks
        self.pretrained = nn.Module()
        # The checkpoint counts an activation as layer 2 of the stem; here it is part of the norm before it.
        self.pretrained.layer1 = nn.Sequential(
            OrderedDict([("0", encoder.conv_stem), ("1", encoder.bn1), ("3", blocks[0]), ("4", blocks[1])])
        )
        self.pretrained.layer2 = nn.Sequential(blocks[2])
        self.pretrained.layer3 = nn.Sequential(blocks[3], blocks[4])
        self.pretrained.layer4 = nn.Sequential(blocks[5], blocks[6])

        self.scratch: Any = nn.Module()
        for level, (channels, width) in enumerate(zip(ENCODER_CHANNELS, WIDTHS, strict=True), start=1):
            out_width = width if level == 1 else width // 2
            setattr(self.scratch, f"layer{level}_rn", nn.Conv2d(channels, width, 3, padding=1, bias=False))
            setattr(self.scratch, f"refinenet{level}", FusionBlock(width, out_width))
        width = WIDTHS[0]
        self.scratch.output_conv = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(width // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
            nn.ReLU(),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        skips = []
        features = images
        for level in range(1, 5):
            features = getattr(self.pretrained, f"layer{level}")(features)
            skips.append(getattr(self.scratch, f"layer{level}_rn")(features))
        path = self.scratch.refinenet4(skips[3])
        for level in (3, 2, 1):
            path = getattr(self.scratch, f"refinenet{level}")(path, skips[level - 1])
        return self.scratch.output_conv(path)[:, 0]


class MidasSmall(TorchDepthBackend):
    """MiDaS small: relative disparity, larger = nearer."""

    def __init__(self, spec: DepthSpec, *, net: MidasSmallNet, device: str, half: bool) -> None:
        """Take what was loaded.

        Args:
            spec: what it gives.
            net: the network.
            device: of torch.
            half: autocast to float16.
        """
        super().__init__(spec, device=device, half=half)
        self.net = net.eval().to(self.device)

    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """See `TorchDepthBackend.prepare`: bicubic without antialiasing, as the released network was used."""
        return midas_input(image, size=input_size(*image.shape[:2]))

    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """See `TorchDepthBackend.infer`."""
        return self.net(batch)


def input_size(height: int, width: int) -> tuple[int, int]:
    """The (height, width) that the network sees of an image: the longer side 256, both multiples of 32."""
    scale = INPUT_SIDE / max(height, width)
    return (
        max(STRIDE, round(height * scale / STRIDE) * STRIDE),
        max(STRIDE, round(width * scale / STRIDE) * STRIDE),
    )


def midas_input(image: NDArray[np.uint8], *, size: tuple[int, int], normalised: bool = True) -> torch.Tensor:
    """(h, w, 3) uint8 RGB -> (3, *size) float32, in [0, 1] up to overshoot or ImageNet-normalised."""
    tensor = functional.interpolate(to_unit_tensor(image)[None], size=size, mode="bicubic", align_corners=False)[0]
    return imagenet_normalise(tensor) if normalised else tensor


def load_midas(spec: DepthSpec, *, weights: Path | None, device: str, half: bool) -> TorchDepthBackend:
    """Load MiDaS small from a state dict (`.pt`, `.safetensors`), an `.onnx` file or torch.hub's cache.

    The other arguments and the errors are those of `catalogue.load_depth`.
    """
    if weights is None:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        weights = next((folder / name for name in CACHED_NAMES if (folder / name).is_file()), None)
        if weights is None:
            raise WeightsError(f"weights of {spec.name} are not in {folder}: {spec.weights_hint}")
    if weights.suffix == ".onnx":
        from cuts3d_cli.depth.midas_onnx import load_midas_onnx

        return load_midas_onnx(spec, path=weights)
    net = MidasSmallNet()
    fill(net, read_state(weights, name=spec.name), path=weights, name=spec.name)
    return MidasSmall(spec, net=net, device=device, half=half)
