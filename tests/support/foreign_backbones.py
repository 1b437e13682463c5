"""Backbones as other programs save them: small networks of transformers, and the names of the networks' own code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

SIZE = 64

VIT = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 192,
    "image_size": SIZE,
}
TIMM = {"embed_dim": 64, "depth": 3, "num_heads": 2, "mlp_ratio": 3}


def of_transformers(kind: str) -> tuple[nn.Module, dict[str, Any]]:
    """A small network of transformers, and how timm is told to build the same."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if kind == "vit":
        config = transformers.ViTConfig(**VIT, layer_norm_eps=1e-6)
        return transformers.ViTModel(config), {"architecture": "vit_tiny_patch16_224", "model_args": TIMM}
    if kind == "dinov2":
        config = transformers.Dinov2Config(**{**VIT, "mlp_ratio": 3}, patch_size=16)
        given = {"architecture": "vit_small_patch14_dinov2", "model_args": {**TIMM, "patch_size": 16}}
        return transformers.Dinov2Model(config), given
    if kind == "dinov2 with registers":
        config = transformers.Dinov2WithRegistersConfig(**{**VIT, "mlp_ratio": 3}, patch_size=16)
        given = {"architecture": "vit_small_patch14_reg4_dinov2", "model_args": {**TIMM, "patch_size": 16}}
        return transformers.Dinov2WithRegistersModel(config), given
    if kind == "dinov3":
        config = transformers.DINOv3ViTConfig(**VIT, num_register_tokens=4)
        return transformers.DINOv3ViTModel(config), {
            "architecture": "vit_tiny_patch16_dinov3_qkvb",
            "model_args": TIMM,
        }
    if kind == "dinov3, gated":
        config = transformers.DINOv3ViTConfig(**VIT, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu")
        given = {"architecture": "vit_small_plus_patch16_dinov3_qkvb", "model_args": TIMM}
        return transformers.DINOv3ViTModel(config), given
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 2, 3, 1])
    given = {"dims": [16, 32, 48, 64], "depths": [1, 2, 3, 1]}
    return transformers.DINOv3ConvNextModel(config), {
        "architecture": "convnext_tiny.dinov3_lvd1689m",
        "model_args": given,
        "fixed_size": False,
        "patch": 32,
    }


def randomised(model: nn.Module) -> nn.Module:
    """Give a network weights that all differ and all matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def official_dinov2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As DINOv2's own code names a network with registers: the CLS token has a position."""
    own = {name: tensor.clone() for name, tensor in state.items()}
    first = torch.full_like(own["cls_token"], 0.25)
    own["register_tokens"] = own.pop("reg_token")
    own["pos_embed"] = torch.cat([first, own["pos_embed"]], dim=1)
    own["cls_token"] = own["cls_token"] - first
    return own


def official_dinov3(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As DINOv3's own code names a network."""
    own = {}
    for name, tensor in state.items():
        name = name.replace("reg_token", "storage_tokens").replace("gamma_", "ls")
        own[f"{name}.gamma" if ".ls" in name else name] = tensor.clone()
    for name in [name for name in own if name.endswith("q_bias")]:
        layer = name.removesuffix("q_bias")
        q, v = own.pop(name), own.pop(f"{layer}v_bias")
        own[f"{layer}qkv.bias"] = torch.cat([q, torch.full_like(q, 9.0), v])  # that of k is masked
        own[f"{layer}qkv.bias_mask"] = torch.cat([torch.ones_like(q), torch.zeros_like(q), torch.ones_like(q)])
    return {**own, "mask_token": torch.ones(1, 64), "rope_embed.periods": torch.ones(8)}


def in_chunks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Blocks 0 and 1 in the first chunk, block 2 in the second, as `block_chunks=2` of DINOv2's training does."""
    return {
        f"blocks.{int(name.split('.')[1]) // 2}.{name.removeprefix('blocks.')}"
        if name.startswith("blocks.")
        else name: tensor
        for name, tensor in state.items()
    }
