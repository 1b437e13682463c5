"""Small depth networks with random weights, of the real ones' classes, and the names that their authors' files have."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

State = dict[str, torch.Tensor]
Rename = str | Callable[["re.Match[str]"], str]
_ZOEDEPTH: tuple[tuple[str, Rename], ...] = (
    (r"^backbone\.encoder\.layer\.", "core.core.pretrained.model.blocks."),
    (r"^backbone\.embeddings\.patch_embeddings\.projection", "core.core.pretrained.model.patch_embed.proj"),
    (r"^backbone\.embeddings\.", "core.core.pretrained.model."),
    (r"lambda_(\d)", r"gamma_\1"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"attention\.output\.dense", "attn.proj"),
    (r"(blocks\.\d+)\.output\.dense", r"\1.mlp.fc2"),
    (r"attention\.attention\.(query|value)\.bias", lambda found: f"attn.{found[1][0]}_bias"),
    (r"attention\.attention\.relative_position_bias\.", "attn."),
    (
        r"^neck\.reassemble_stage\.readout_projects\.(\d)\.0",
        lambda found: f"core.core.pretrained.act_postprocess{int(found[1]) + 1}.0.project.0",
    ),
    (
        r"^neck\.reassemble_stage\.layers\.(\d)\.(projection|resize)",
        lambda found: f"core.core.pretrained.act_postprocess{int(found[1]) + 1}.{3 if found[2] == 'projection' else 4}",
    ),
    (r"^neck\.convs\.(\d)", lambda found: f"core.core.scratch.layer{int(found[1]) + 1}_rn"),
    (r"^neck\.fusion_stage\.layers\.(\d)", lambda found: f"core.core.scratch.refinenet{4 - int(found[1])}"),
    (r"(refinenet\d)\.projection", r"\1.out_conv"),
    (r"residual_layer(\d)\.convolution(\d)", r"resConfUnit\1.conv\2"),
    (r"^relative_head\.conv(\d)", lambda found: f"core.core.scratch.output_conv.{2 * int(found[1]) - 2}"),
    (r"mlp_classifier\.linear1", "mlp_classifier.0"),
    (r"mlp_classifier\.linear2", "mlp_classifier.2"),
    (
        r"((?:seed_bin_regressors?|seed_projector|projectors|attractors)[\w.]*)\.conv([12])\.",
        lambda found: f"{found[1]}._net.{2 * int(found[2]) - 2}.",
    ),
    (r"transformer_encoder\.", "transformer_encoder.layers."),
    (r"^metric_head\.", ""),
)


def zoedepth_names(state: State) -> State:
    """Name weights of transformers as ZoeDepth's files do, with the buffers that these hold, too."""
    renamed: State = {"core.core.pretrained.model.blocks.0.attn.relative_position_index": torch.zeros(3)}
    for name, tensor in state.items():
        # Each three are one tensor there.
        in_backbone = "backbone" in name and name.endswith(("query.weight", "value.weight"))
        if ".key." in name or in_backbone or "self_attn.value" in name:
            continue
        if "self_attn.query" in name:
            tensor = torch.cat([state[name.replace("query", part)] for part in ("query", "key", "value")])
            name = name.replace("query.", "in_proj_")
        for pattern, replacement in _ZOEDEPTH:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    for name in state:
        if "backbone" in name and name.endswith("query.weight"):
            parts = [state[name.replace("query", part)] for part in ("query", "key", "value")]
            number = name.split(".")[3]
            renamed[f"core.core.pretrained.model.blocks.{number}.attn.qkv.weight"] = torch.cat(parts)
    return renamed


def depth_anything_names(state: State) -> State:
    """Name weights of transformers as the files of Depth Anything V2 do."""
    renamed = {}
    pairs = (
        (r"^backbone\.encoder\.layer\.", "pretrained.blocks."),
        (r"^backbone\.embeddings\.patch_embeddings\.projection", "pretrained.patch_embed.proj"),
        (r"^backbone\.embeddings\.position_embeddings", "pretrained.pos_embed"),
        (r"^backbone\.embeddings\.", "pretrained."),
        (r"^backbone\.layernorm", "pretrained.norm"),
        (r"attention\.output\.dense", "attn.proj"),
        (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
        (r"^neck\.reassemble_stage\.layers\.(\d)\.projection", r"depth_head.projects.\1"),
        (r"^neck\.reassemble_stage\.layers\.(\d)\.resize", r"depth_head.resize_layers.\1"),
        (r"^neck\.convs\.(\d)", lambda found: f"depth_head.scratch.layer{int(found[1]) + 1}_rn"),
        (r"^neck\.fusion_stage\.layers\.(\d)", lambda found: f"depth_head.scratch.refinenet{4 - int(found[1])}"),
        (r"residual_layer(\d)\.convolution(\d)", r"resConfUnit\1.conv\2"),
        (r"(refinenet\d)\.projection", r"\1.out_conv"),
        (r"^head\.conv1", "depth_head.scratch.output_conv1"),
        (r"^head\.conv2", "depth_head.scratch.output_conv2.0"),
        (r"^head\.conv3", "depth_head.scratch.output_conv2.2"),
    )
    for name, tensor in state.items():
        key = "attention.attention.query"
        if key in name:
            tensor = torch.cat([state[name.replace("query", part)] for part in ("query", "key", "value")])
            name = name.replace(key, "attn.qkv")
        elif "attention.attention." in name:
            continue
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def liven(module: torch.nn.Module) -> None:
    """Larger random weights than the classes' own: maps that hardly vary would be alike whatever went wrong."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 1.3 / parameter[0].numel() ** 0.5)


def zoedepth(folder: Path) -> Path:
    """A folder with a small ZoeDepth, with the two heads (indoor, outdoor) of zoedepth-nyu-kitti."""
    transformers = pytest.importorskip("transformers", reason="the extra `depth` is not installed")
    torch.manual_seed(0)
    backbone = transformers.BeitConfig(
        image_size=64,
        patch_size=16,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        use_relative_position_bias=True,
        reshape_hidden_states=False,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.ZoeDepthConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
        bottleneck_features=16,
        num_relative_features=8,
        num_attractors=[16, 8, 4, 1],
        bin_embedding_dim=16,
        bin_configurations=[
            {"name": "nyu", "n_bins": 64, "min_depth": 0.001, "max_depth": 10.0},
            {"name": "kitti", "n_bins": 64, "min_depth": 0.001, "max_depth": 80.0},
        ],
        num_patch_transformer_layers=4,
        patch_transformer_hidden_size=128,
        patch_transformer_intermediate_size=64,
        patch_transformer_num_attention_heads=4,
    )
    model = transformers.ZoeDepthForDepthEstimation(config)
    liven(model)
    model.save_pretrained(folder)
    transformers.ZoeDepthImageProcessor(
        size={"height": 48, "width": 64}, ensure_multiple_of=16, keep_aspect_ratio=True
    ).save_pretrained(folder)
    return folder


def depth_anything(folder: Path, **settings: Any) -> Path:
    """A folder with a small Depth Anything."""
    transformers = pytest.importorskip("transformers", reason="the extra `depth` is not installed")
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        image_size=70,
        patch_size=14,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        out_indices=[1, 2, 3, 4],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
        head_hidden_size=8,
        **settings,
    )
    model = transformers.DepthAnythingForDepthEstimation(config)
    liven(model)
    with torch.no_grad():  # The head ends in a ReLU: keep the random net on its positive side.
        model.head.conv3.bias.fill_(1.0)
    model.save_pretrained(folder)
    transformers.DPTImageProcessor(
        size={"height": 70, "width": 70}, ensure_multiple_of=14, keep_aspect_ratio=True
    ).save_pretrained(folder)
    return folder


SMALL_DEPTH_ANYTHING = {32: dict(layers=4, heads=2, taken=(1, 2, 3, 4), neck=(8, 8, 16, 16), fusion=16)}
"""What `released_depth_anything` is, in the words of the reader of its authors' files."""


def released_depth_anything() -> Any:
    """A small Depth Anything with positions for the size that the released ones have."""
    transformers = pytest.importorskip("transformers", reason="the extra `depth` is not installed")
    backbone = transformers.Dinov2Config(
        image_size=518,
        patch_size=14,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    model = transformers.DepthAnythingForDepthEstimation(
        transformers.DepthAnythingConfig(
            backbone_config=backbone, reassemble_hidden_size=32, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16
        )
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return model


def zoedepth_of(folder: Path, *, heads: int) -> Any:
    """A network like that of `folder`, with so many heads."""
    transformers = pytest.importorskip("transformers", reason="the extra `depth` is not installed")
    config = transformers.ZoeDepthConfig.from_pretrained(folder)
    if heads == 1:
        config.bin_configurations = config.bin_configurations[:1]
        config.num_patch_transformer_layers = config.patch_transformer_hidden_size = None
        config.patch_transformer_intermediate_size = config.patch_transformer_num_attention_heads = None
    model = transformers.ZoeDepthForDepthEstimation(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) / max(1, parameter[0].numel()) ** 0.5)
    return model


def saved(model: Any, folder: Path) -> State:
    """The weights of a network under the names that its file has."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def midas(path: Path) -> Path:
    """Of the real size: it is a small network. A plain state dict, as released."""
    from cuts3d_cli.depth.midas import MidasSmallNet

    torch.manual_seed(0)
    net = MidasSmallNet()
    liven(net.scratch)
    with torch.no_grad():  # It ends in a ReLU: keep the random net on its positive side.
        net.scratch.output_conv[4].weight.abs_()
        net.scratch.output_conv[4].bias.fill_(0.1)
    torch.save(net.state_dict(), path)
    return path
