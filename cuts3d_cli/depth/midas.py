"""MiDaS v2.1 small (Ranftl et al., TPAMI 2022), one of the paper's four depth sources (Table 7).

The network's modules bear the names that the released checkpoint has, so that it loads as it is. An ONNX graph of it
runs by onnxruntime on the CPU.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Sequence
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
from cuts3d_cli.weights.checkpoint import load_into, own_tensors, read_tensors
from cuts3d_cli.weights.sources import torch_hub_file
from cuts3d_cli.wording import cause

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
_ANCHOR = "pretrained.layer1.0.weight"
_SCALING = frozenset({"Sub", "Add", "Mul", "Div"})
_ENDS = frozenset({"Conv", "Shape", "Size"})
"""Behind these it is no longer the image: features, or numbers to pad by."""


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions after ReLUs, and a shortcut: (n, c, h, w) -> (n, c, h, w)."""

    def __init__(self, channels: int) -> None:
        """Build the layers with random weights."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Refine features."""
        inner = self.conv1(functional.relu(features))
        return features + self.conv2(functional.relu(inner))


class FusionBlock(nn.Module):
    """Add a skip connection, refine, double the size: (n, c, h, w) -> (n, out, 2h, 2w)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        """Build the layers with random weights."""
        super().__init__()
        self.out_conv = nn.Conv2d(channels, out_channels, 1)
        self.resConfUnit1 = ResidualUnit(channels)
        self.resConfUnit2 = ResidualUnit(channels)

    def forward(self, features: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """Refine features together with those of the encoder, and double their size."""
        if skip is not None:
            features = features + self.resConfUnit1(skip)
        features = self.resConfUnit2(features)
        features = functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
        return self.out_conv(features)


class MidasSmallNet(nn.Module):
    """(n, 3, h, w) float, ImageNet-normalised, sides multiples of 32 -> (n, h, w) disparity, 0 and more."""

    def __init__(self) -> None:
        """Build the layers with random weights."""
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
        """Compute the disparity of a batch of images."""
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
    """MiDaS small: relative disparity, larger = nearer.

    Args:
        spec: what it gives.
        net: the network.
        device: of torch.
        precision: what it computes in; in 16 bits by autocast.
        files: that it was read from.
    """

    def __init__(
        self,
        spec: DepthSpec,
        *,
        net: MidasSmallNet,
        device: str,
        precision: NetworkPrecision,
        files: Sequence[Path] = (),
    ) -> None:
        """Move the network to the device."""
        super().__init__(spec, device=device, precision=precision, files=files)
        self.net = net.eval().to(self.device)

    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """Return the image at the network's input size, by bicubic without antialiasing, as its authors ran it."""
        return midas_input(image, size=input_size(*image.shape[:2]))

    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the maps of a batch."""
        return self.net(batch)


class MidasOnnx(TorchDepthBackend):
    """MiDaS small from an ONNX graph: relative disparity, larger = nearer. On the CPU, one image at a time.

    Args:
        spec: what it gives.
        session: of onnxruntime.
        normalised: whether the graph wants ImageNet-normalised images; else in [0, 1].
        files: that it was read from.
    """

    def __init__(self, spec: DepthSpec, *, session: Any, normalised: bool, files: Sequence[Path] = ()) -> None:
        """Read the input's name and size from the graph."""
        super().__init__(spec, device="cpu", precision="float32", files=files)
        self.session = session
        self.normalised = normalised
        node = session.get_inputs()[0]
        self.input_name = node.name
        fixed = [side if isinstance(side, int) else None for side in node.shape[2:]]
        self.fixed_size = (fixed[0], fixed[1]) if fixed[0] and fixed[1] else None

    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """Return the image at the input size. A graph of a fixed size gets that size, the aspect not kept."""
        size = self.fixed_size or input_size(*image.shape[:2])
        return midas_input(image, size=size, normalised=self.normalised)

    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the maps of a batch."""
        height, width = batch.shape[-2:]
        maps = [self.session.run(None, {self.input_name: image[None].numpy()})[0] for image in batch]
        return torch.from_numpy(np.stack(maps).reshape(len(batch), height, width))


def find_midas() -> Path | None:
    """Return the released checkpoint in the cache of torch.hub, or None."""
    return torch_hub_file(*CACHED_NAMES)


def load_midas(spec: DepthSpec, *, config: DepthConfig, device: str, precision: NetworkPrecision) -> TorchDepthBackend:
    """Load MiDaS small from a state dict, an `.onnx` file or torch.hub's cache.

    Arguments and errors are those of `base.LoadDepth`.
    """
    weights = config.weights or find_midas()
    if weights is None:
        raise WeightsError(f"weights of {spec.name} are not in {torch.hub.get_dir()}/checkpoints: ", *spec.way_out)
    if weights.suffix.lower() == ".onnx":  # protobuf, which nothing in its content tells from others
        return load_midas_onnx(spec, path=weights)
    net = MidasSmallNet()
    own, others = own_tensors(read_tensors(weights), anchor=_ANCHOR, what=spec.name, path=weights)
    load_into(net, own, what=spec.name, path=weights, unknown=others)
    return MidasSmall(loaded_spec(spec, config.weights), net=net, device=device, precision=precision, files=[weights])


def load_midas_onnx(spec: DepthSpec, *, path: Path) -> MidasOnnx:
    """Load MiDaS small from an ONNX graph.

    Exports differ in whether the ImageNet normalisation is part of the graph: it is where the input is scaled
    or shifted before the first convolution.

    Raises:
        WeightsError: onnxruntime is not installed, or the file is damaged or no depth network on RGB images.
    """
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise WeightsError(
            f"{path} needs onnxruntime: pip install onnxruntime, or for {spec.name}: ", *spec.way_out
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
    return MidasOnnx(loaded_spec(spec, path), session=session, normalised=not _scales_its_input(graph), files=[path])


def _scales_its_input(graph: Any) -> bool:
    """Return whether the graph's image goes through an addition or multiplication before any convolution."""
    weights = {tensor.name for tensor in graph.initializer}
    reached = {node.name for node in graph.input if node.name not in weights}
    for node in graph.node:  # In topological order, by the ONNX standard.
        if reached.intersection(node.input):
            if node.op_type in _SCALING:
                return True
            if node.op_type not in _ENDS:
                reached.update(node.output)
    return False


def input_size(height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) that the network sees of an image: the longer side 256, both multiples of 32."""
    scale = INPUT_SIDE / max(height, width)
    return (
        max(STRIDE, round(height * scale / STRIDE) * STRIDE),
        max(STRIDE, round(width * scale / STRIDE) * STRIDE),
    )


def midas_input(image: NDArray[np.uint8], *, size: tuple[int, int], normalised: bool = True) -> torch.Tensor:
    """Return the input: (h, w, 3) uint8 RGB -> (3, *size) float32, in [0, 1] up to overshoot or ImageNet-normalised."""
    tensor = functional.interpolate(to_unit_tensor(image)[None], size=size, mode="bicubic", align_corners=False)[0]
    return imagenet_normalise(tensor) if normalised else tensor
