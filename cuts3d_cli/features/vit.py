"""Backbones of timm: a ViT's keys of the last block, or the last feature map of any network, a ViT's output tokens.

Of ViTs with absolute positions (DINO, DINOv2), timm's `VisionTransformer`, the positions are resampled to the grid;
those with rotary ones (DINOv3), timm's `Eva`, compute them for any grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from cuts3d_cli.devices import NetworkPrecision
from cuts3d_cli.errors import SettingError
from cuts3d_cli.features.base import OFFSET, BackboneSpec
from cuts3d_cli.features.timm_models import (
    POSITIONS,
    at_size,
    empty_model,
    expected_shapes,
    prefix_positions,
    timm_tensors,
)
from cuts3d_cli.features.torch_network import TorchBackbone
from cuts3d_cli.weights.checkpoint import COUNTER

KEYS, TOKENS = "keys", "tokens"
"""What `BackboneSpec.tensor` may be: keys of the last block's attention, before any rotation and with its heads
concatenated; or the last feature map, after the final norm."""


class TimmBackbone(TorchBackbone):
    """A network of timm. `model` is built for images of `size`."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute features: (B, 3, S, S) to (B, C, H, W), prefix tokens (CLS, registers) dropped."""
        model: Any = self.model
        if self.spec.tensor == TOKENS:
            (features,) = model.forward_intermediates(
                pixels, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
            )
            # ConvNeXts keep their final norm, over channels, in the head.
            norm = getattr(getattr(model, "head", None), "norm", None)
            return cast(Tensor, norm(features) if isinstance(norm, LayerNorm2d) else features)
        # A key depends on its own token alone, so the last block's norm and the key third of its qkv layer are all
        # that is needed of that block: no hook, no attention, no MLP.
        last = len(model.blocks) - 1
        (tokens,) = model.forward_intermediates(
            pixels, indices=[last - 1], norm=False, stop_early=True, output_fmt="NLC", intermediates_only=True
        )
        block = model.blocks[last]
        weight, bias = _key_layer(block.attn)
        keys = nn.functional.linear(block.norm1(tokens), weight, bias)
        return keys.transpose(1, 2).reshape(len(keys), -1, self.grid, self.grid)


def load_timm(
    spec: BackboneSpec, *, size: int, weights: Path, device: str, precision: NetworkPrecision
) -> TimmBackbone:
    """Build a network of timm and load its weights; arguments and errors are those of `base.LoadBackbone`."""
    if spec.tensor not in (KEYS, TOKENS):
        raise ValueError(f"the tensor of {spec.name} is {spec.tensor!r}: of timm's it is {KEYS!r} or {TOKENS!r}")
    model = empty_model(spec, size=size)
    if spec.tensor == KEYS and not _has_keys(model):
        raise SettingError("features.tensor", f"is '{KEYS}': {spec.name} has no attention with keys; use '{TOKENS}'")
    state = timm_tensors(spec, weights)
    if spec.resampling == OFFSET and POSITIONS in state:
        prefix = prefix_positions(spec, expected_shapes(spec))
        state[POSITIONS] = interpolate_pos_embed(state[POSITIONS], grid=size // spec.patch, prefix=prefix)
    # Counters of batch norms may be missing, and say nothing.
    counters = {name: torch.zeros((), dtype=torch.int64) for name in model.state_dict() if name.endswith(COUNTER)}
    model.load_state_dict({**counters, **at_size(state, spec, model, path=weights)}, assign=True)
    return TimmBackbone(spec=spec, model=model, size=size, device=device, precision=precision)


def interpolate_pos_embed(pos_embed: Tensor, *, grid: int, prefix: int = 1) -> Tensor:
    """Resample positional embeddings to a grid, as the code of DINO, and of DINOv2 without registers, does.

    Bicubic with a scale factor of (grid + 0.1) / grid0, no antialiasing. timm resamples with antialiasing and
    by the exact size, as DINOv2's code does for models with registers; the features of the published pipelines come
    from this older rule, so it is kept, once at load time.

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


def _has_keys(model: Any) -> bool:
    """Return whether the last block of a network is one of a ViT: a norm, and then an attention with keys."""
    block = model.blocks[-1] if isinstance(getattr(model, "blocks", None), nn.Module) else None
    attention = getattr(block, "attn", None)
    return hasattr(block, "norm1") and any(getattr(attention, name, None) is not None for name in ("qkv", "k_proj"))


def _key_layer(attention: Any) -> tuple[Tensor, Tensor | None]:
    """Return weight (C, C) and bias of the layer that makes the keys, heads concatenated."""
    if getattr(attention, "qkv", None) is None:
        return attention.k_proj.weight, attention.k_proj.bias
    # timm lays the rows of qkv out as (3, heads, head_dim): rows [d, 2d) are the keys. Eva's keys have no bias.
    qkv = attention.qkv
    keys = slice(qkv.out_features // 3, 2 * qkv.out_features // 3)
    return qkv.weight[keys], None if qkv.bias is None else qkv.bias[keys]
