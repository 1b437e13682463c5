"""Kick Back & Relax (Spencer et al., ICCV 2023), one of the paper's four depth sources (Table 7).

A ConvNeXt-B encoder and the decoder of Monodepth2 (Godard et al., ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from cuts3d_cli.config import DepthConfig
from cuts3d_cli.depth.base import DepthSpec, loaded_spec
from cuts3d_cli.depth.torch_network import TorchDepthBackend, imagenet_normalise, to_unit_tensor
from cuts3d_cli.devices import NetworkPrecision
from cuts3d_cli.errors import WeightsError
from cuts3d_cli.weights.checkpoint import load_into, read_tensors

LANDSCAPE_WIDTH = 640
PORTRAIT_HEIGHT = 384
STRIDE = 32
MIN_SIDE = 2 * STRIDE
"""Reflection padding needs two pixels at the coarsest level."""
ENCODER = "convnext_base"
DECODER_CHANNELS = (256, 128, 64, 32, 16)
"""Of the five levels, from coarse to fine."""
OUTPUT_SCALES = 4
PREFIX = "nets.depth."
DECODER_PREFIX = "decoders.disp.decoder."


class KbrNet(nn.Module):
    """(n, 3, h, w) float, ImageNet-normalised -> (n, h, w) disparity in (0, 1).

    Sides are multiples of 32 and at least 64. `decoder` is one list: two convolutions a level from coarse to fine, then
    the output convolutions of scales 0 to 3, of which only scale 0, the finest, is used.

    Args:
        encoder: a network of timm with `features_only`.
    """

    def __init__(self, encoder: str) -> None:
        """Build the network with random weights."""
        super().__init__()
        import timm

        self.encoder = timm.create_model(encoder, pretrained=False, features_only=True)
        info: Any = self.encoder.feature_info
        strides = info.reduction()
        channels = dict(zip(strides, info.channels(), strict=True))
        self.strides = list(strides)
        self.level_strides = [STRIDE >> (level + 1) for level in range(len(DECODER_CHANNELS))]
        self.decoder = nn.ModuleList()
        width = channels[STRIDE]
        for stride, out_width in zip(self.level_strides, DECODER_CHANNELS, strict=True):
            self.decoder.append(_conv3x3(width, out_width))
            self.decoder.append(_conv3x3(out_width + channels.get(stride, 0), out_width))
            width = out_width
        for scale in range(OUTPUT_SCALES):
            self.decoder.append(_conv3x3(DECODER_CHANNELS[-1 - scale], 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the disparity of a batch of images."""
        skips = dict(zip(self.strides, self.encoder(images), strict=True))
        features = skips[STRIDE]
        for level, stride in enumerate(self.level_strides):
            features = functional.elu(self.decoder[2 * level](features))
            features = functional.interpolate(features, scale_factor=2, mode="nearest")
            if stride in skips:
                features = torch.cat([features, skips[stride]], dim=1)
            features = functional.elu(self.decoder[2 * level + 1](features))
        return torch.sigmoid(self.decoder[2 * len(DECODER_CHANNELS)](features))[:, 0]


class KickBackRelax(TorchDepthBackend):
    """Kick Back & Relax: relative disparity in (0, 1), larger = nearer.

    Args:
        spec: what it gives.
        net: the network.
        device: of torch.
        precision: what it computes in; in 16 bits by autocast.
        files: that it was read from.
    """

    def __init__(
        self, spec: DepthSpec, *, net: KbrNet, device: str, precision: NetworkPrecision, files: Sequence[Path] = ()
    ) -> None:
        """Move the network to the device."""
        super().__init__(spec, device=device, precision=precision, files=files)
        self.net = net.eval().to(self.device)

    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """Return the image at the network's input size, by bilinear without antialiasing, as its authors ran it."""
        size = input_size(*image.shape[:2])
        tensor = functional.interpolate(to_unit_tensor(image)[None], size=size, mode="bilinear", align_corners=False)[0]
        return imagenet_normalise(tensor)

    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the maps of a batch."""
        return self.net(batch)


def input_size(height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) that the network sees: width 640, or height 384 of a portrait; multiples of 32.

    As its authors' code, the other side is first cut to whole pixels, and then rounded.
    """
    if width >= height:
        sides = (LANDSCAPE_WIDTH * height // width, LANDSCAPE_WIDTH)
    else:
        sides = (PORTRAIT_HEIGHT, PORTRAIT_HEIGHT * width // height)
    rows, columns = (max(MIN_SIDE, round(side / STRIDE) * STRIDE) for side in sides)
    return rows, columns


def rename_state(state: Mapping[str, torch.Tensor], *, path: Path) -> dict[str, torch.Tensor]:
    """Rename the tensors of a Lightning checkpoint to the names of `KbrNet`.

    Args:
        state: name -> tensor of the whole checkpoint, `nets.depth.` before each name of the depth network.
        path: of the checkpoint, for errors.

    Returns:
        Name -> tensor: the encoder, and the decoder's convolutions by their place in its list, whatever
        modules wrap them there. Other decoders are left out.

    Raises:
        WeightsError: the names are not those of such a checkpoint.
    """
    depth = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
    renamed: dict[str, torch.Tensor] = {}
    roots = set()
    for key, value in depth.items():
        if key.startswith(DECODER_PREFIX):
            parts = key.removeprefix(DECODER_PREFIX).split(".")
            new_key = f"decoder.{parts[0]}.{parts[-1]}"
            if new_key in renamed:
                raise WeightsError(f"{path} is not kbr: layer {parts[0]} of its decoder has two tensors {parts[-1]}")
            renamed[new_key] = value
        elif not key.startswith("decoders."):
            root, _, rest = key.partition(".")
            roots.add(root)
            renamed[f"encoder.{rest}"] = value
    if len(roots) != 1 or not any(key.startswith("decoder.") for key in renamed):
        raise WeightsError(f"{path} is not kbr: it has no tensors {PREFIX}{DECODER_PREFIX}* beside one encoder")
    return renamed


def load_kbr(spec: DepthSpec, *, config: DepthConfig, device: str, precision: NetworkPrecision) -> KickBackRelax:
    """Load Kick Back & Relax from its Lightning checkpoint, or safetensors with the same names.

    Arguments and errors are those of `base.LoadDepth`.
    """
    weights = config.weights
    if weights is None:
        raise WeightsError(f"{spec.name} is not downloaded by cuts3d: ", *spec.way_out)
    net = KbrNet(ENCODER)
    load_into(net, rename_state(read_tensors(weights), path=weights), what=spec.name, path=weights)
    return KickBackRelax(loaded_spec(spec, weights), net=net, device=device, precision=precision, files=[weights])


def _conv3x3(channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, padding=1, padding_mode="reflect")
