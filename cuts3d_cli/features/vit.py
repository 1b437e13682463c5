"""ViTs of timm: keys of the last block, or output tokens.

Of those with absolute positions (DINO, DINOv2), timm's `VisionTransformer`, the positions are resampled to the grid;
those with rotary ones (DINOv3), timm's `Eva`, compute them for any grid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from cuts3d_cli.features.base import BackboneSpec
from cuts3d_cli.features.torch_network import TorchBackbone
from cuts3d_cli.weights.checkpoint import fit, own_tensors, read_tensors

KEYS, TOKENS = "keys", "tokens"
"""What `BackboneSpec.tensor` may be: keys of the last block's attention, before any rotation and with its heads
concatenated; or the output tokens after the final norm."""
_ANCHOR = "patch_embed.proj.weight"
_POSITIONS = "pos_embed"
_HEADS = re.compile(
    r"(module\.)?"
    r"(head\w*|fc_norm|fc|last_layer|dino_head|ibot_head|dino_loss|ibot_patch_loss|projection_head)\."
)
# Heads of DINO ("head"), DiffNCuts ("head1", "head2", "head2d_proj", "head2d_pred"), DINOv2 and of
# classifiers.
_TRAINING_ONLY = "mask_token"
# DINOv2 puts it in the place of hidden patches during training; no forward pass on a whole image reads it.


class VitBackbone(TorchBackbone):
    """A ViT. `model` is timm's, with positions for the grid of `size`."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute features: (B, 3, S, S) to (B, C, H, W), prefix tokens (CLS, registers) dropped."""
        model: Any = self.model
        last = len(model.blocks) - 1
        if self.spec.tensor == TOKENS:
            features = self._block_output(pixels, index=last, norm=True)
        else:
            # A key depends on its own token alone, so the last block's norm and the key third of its qkv layer are all
            # that is needed of that block: no hook, no attention, no MLP.
            tokens = self._block_output(pixels, index=last - 1, norm=False)
            block = model.blocks[last]
            qkv = block.attn.qkv
            # timm lays the rows of qkv out as (3, heads, head_dim): rows [d, 2d) are the keys, heads concatenated.
            dim = qkv.out_features // 3
            keys = slice(dim, 2 * dim)
            bias = None if qkv.bias is None else qkv.bias[keys]
            features = nn.functional.linear(block.norm1(tokens), qkv.weight[keys], bias)
        batch, _, channels = features.shape
        return features.transpose(1, 2).reshape(batch, channels, self.grid, self.grid)

    def _block_output(self, pixels: Tensor, *, index: int, norm: bool) -> Tensor:
        outputs = cast(Any, self.model).forward_intermediates(
            pixels, indices=[index], norm=norm, stop_early=True, output_fmt="NLC", intermediates_only=True
        )
        return cast(list[Tensor], outputs)[0]


def load_vit(spec: BackboneSpec, *, size: int, weights: Path, device: str, half: bool) -> VitBackbone:
    """Build a ViT of timm and load its weights; arguments and errors are those of `base.LoadBackbone`."""
    if spec.tensor not in (KEYS, TOKENS):
        raise ValueError(f"the tensor of {spec.name} is {spec.tensor!r}: of a ViT it is {KEYS!r} or {TOKENS!r}")
    state = vit_tensors(spec, weights)
    if _POSITIONS in state:
        state[_POSITIONS] = interpolate_pos_embed(
            state[_POSITIONS], grid=size // spec.patch, prefix=_prefix_positions(spec, expected_shapes(spec))
        )
    model = _empty_model(spec, size=size)
    model.load_state_dict(state, assign=True)
    return VitBackbone(spec=spec, model=model, size=size, device=device, half=half)


def vit_tensors(spec: BackboneSpec, path: Path) -> dict[str, Tensor]:
    """Read the weights of a ViT from any checkpoint that holds it, wrappers' prefixes and known heads taken away.

    Args:
        spec: the backbone.
        path: as for `read_tensors`. The grid of the positional embedding may be any square.

    Returns:
        float32, by timm's names, exactly those of its model.

    Raises:
        WeightsError: the file cannot be read, or tensors are missing, unknown or of another shape.
    """
    return fit_vit(read_tensors(path), spec=spec, path=path)


def fit_vit(tensors: dict[str, Tensor], *, spec: BackboneSpec, path: Path) -> dict[str, Tensor]:
    """Fit the tensors of a checkpoint to a ViT; see `vit_tensors`."""
    what = f"{spec.name} ({spec.architecture})"
    expected = expected_shapes(spec)
    own, others = own_tensors(tensors, anchor=_ANCHOR, what=what, path=path)

    def same_shape(name: str, shape: torch.Size, wanted: torch.Size) -> bool:
        if name != _POSITIONS:
            return shape == wanted
        # Any square grid will do: it is resampled to the grid of the input.
        patches = shape[1] - _prefix_positions(spec, expected) if len(shape) == 3 else 0
        return shape[::2] == wanted[::2] and patches > 0 and math.isqrt(patches) ** 2 == patches

    return fit(
        own,
        expected,
        what=what,
        path=path,
        ignored=lambda name: name == _TRAINING_ONLY or _HEADS.match(name),
        unknown=[key for key in others if not _HEADS.match(key)],
        same_shape=same_shape,
    )


def expected_shapes(spec: BackboneSpec) -> dict[str, torch.Size]:
    """Return name and shape of every weight of a ViT, as timm has them at the default size."""
    with torch.device("meta"):
        model = _timm_model(spec, size=spec.size)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _prefix_positions(spec: BackboneSpec, expected: Mapping[str, torch.Size]) -> int:
    """Return how many positions are of no patch: one where the CLS token has a position, none for many others."""
    return expected[_POSITIONS][1] - (spec.size // spec.patch) ** 2


def interpolate_pos_embed(pos_embed: Tensor, *, grid: int, prefix: int = 1) -> Tensor:
    """Resample positional embeddings to a grid, as DINO's and DINOv2's own code does.

    Bicubic with a scale factor of (grid + 0.1) / grid0, no antialiasing. timm resamples with antialiasing and
    by the exact size; the features of the published pipelines come from this older rule, so it is kept, once
    at load time.

    Args:
        pos_embed: (1, prefix + grid0^2, D) float32, patches row-major.
        grid: side of the wanted grid, patches.
        prefix: positions that come before those of the patches, such as that of the CLS token; they stay.

    Returns:
        (1, prefix + grid^2, D) float32; the input itself where grid equals grid0.
    """
    first, patches = pos_embed[:, :prefix], pos_embed[:, prefix:]
    side = round(patches.shape[1] ** 0.5)
    if side == grid:
        return pos_embed
    maps = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (grid + 0.1) / side
    maps = nn.functional.interpolate(
        maps, scale_factor=(scale, scale), mode="bicubic", align_corners=False, antialias=False
    )
    patches = maps.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)
    return torch.cat([first, patches], dim=1)


def _empty_model(spec: BackboneSpec, *, size: int) -> nn.Module:
    """Return the model before its weights are loaded; nothing is drawn from the global random numbers."""
    # On "meta" nothing is initialised, so no time is lost.
    with torch.device("meta"):
        model = _timm_model(spec, size=size)
    stored = model.state_dict().keys()
    if all(name in stored for name, _ in model.named_buffers()):
        return model
    # No checkpoint holds the periods of rotary positions: they must be computed.
    with torch.random.fork_rng(devices=[]):
        return _timm_model(spec, size=size)


def _timm_model(spec: BackboneSpec, *, size: int) -> nn.Module:
    return timm.create_model(spec.architecture, pretrained=False, num_classes=0, img_size=size)
