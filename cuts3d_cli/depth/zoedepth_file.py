"""Files of ZoeDepth's own code: their names, and the network that their tensors describe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from cuts3d_cli.depth.base import DepthSpec
from cuts3d_cli.depth.pretrained import fill
from cuts3d_cli.errors import WeightsError
from cuts3d_cli.weights.checkpoint import own_tensors, read_tensors

ANCHOR = "core.core.pretrained.model.cls_token"
"""A tensor of the authors' files, with a wrapper's prefix, if any, before it."""
INPUT_SIZE = {"height": 384, "width": 512}
STRIDE = 32
_HEADS: Mapping[str, float] = {"nyu": 10.0, "kitti": 80.0}
"""The heads of a network, in order -> the metres at which they end."""
_NEAREST = 1e-3
_ROUTER_ATTENTION_HEADS = 4
_IGNORED = ("fc_norm.", "model.head.", ".relative_position_index", ".k_idx", ".K_minus_1")
"""Parts of the names of what plays no part in depth, or is the same in every network."""
_VIT, _MIDAS = r"^core\.core\.pretrained\.model\.", r"^core\.core\.scratch\."
_LAYER = r"^backbone\.encoder\.layer\.(\d+)\."
_NAMES = (
    # The metric head first: all that is not MiDaS.
    (r"^(?!core\.)", "metric_head."),
    (r"\._net\.0\.", ".conv1."),
    (r"\._net\.2\.", ".conv2."),
    (r"\.mlp_classifier\.0\.", ".mlp_classifier.linear1."),
    (r"\.mlp_classifier\.2\.", ".mlp_classifier.linear2."),
    (r"\.transformer_encoder\.layers\.", ".transformer_encoder."),
    # The BEiT.
    (rf"{_VIT}blocks\.(\d+)\.", r"backbone.encoder.layer.\1."),
    (rf"{_VIT}patch_embed\.proj\.", "backbone.embeddings.patch_embeddings.projection."),
    (rf"{_VIT}cls_token$", "backbone.embeddings.cls_token"),
    (rf"{_LAYER}gamma_([12])$", r"backbone.encoder.layer.\1.lambda_\2"),
    (rf"{_LAYER}norm1\.", r"backbone.encoder.layer.\1.layernorm_before."),
    (rf"{_LAYER}norm2\.", r"backbone.encoder.layer.\1.layernorm_after."),
    (rf"{_LAYER}mlp\.fc1\.", r"backbone.encoder.layer.\1.intermediate.dense."),
    (rf"{_LAYER}mlp\.fc2\.", r"backbone.encoder.layer.\1.output.dense."),
    (rf"{_LAYER}attn\.proj\.", r"backbone.encoder.layer.\1.attention.output.dense."),
    (rf"{_LAYER}attn\.q_bias$", r"backbone.encoder.layer.\1.attention.attention.query.bias"),
    (rf"{_LAYER}attn\.v_bias$", r"backbone.encoder.layer.\1.attention.attention.value.bias"),
    (
        rf"{_LAYER}attn\.relative_position_bias_table$",
        r"backbone.encoder.layer.\1.attention.attention.relative_position_bias.relative_position_bias_table",
    ),
    # The decoder of MiDaS. Numbers that count from another end are turned round below.
    (rf"{_MIDAS}output_conv\.0\.", "relative_head.conv1."),
    (rf"{_MIDAS}output_conv\.2\.", "relative_head.conv2."),
    (rf"{_MIDAS}output_conv\.4\.", "relative_head.conv3."),
    (r"\.resConfUnit([12])\.conv([12])\.", r".residual_layer\1.convolution\2."),
    (r"\.out_conv\.", ".projection."),
)
_COUNTED = (
    (r"^core\.core\.pretrained\.act_postprocess(\d)\.0\.project\.", "neck.reassemble_stage.readout_projects.{0}."),
    (r"^core\.core\.pretrained\.act_postprocess(\d)\.3\.", "neck.reassemble_stage.layers.{0}.projection."),
    (r"^core\.core\.pretrained\.act_postprocess(\d)\.4\.", "neck.reassemble_stage.layers.{0}.resize."),
    (rf"{_MIDAS}layer(\d)_rn\.", "neck.convs.{0}."),
    (rf"{_MIDAS}refinenet(\d)\.", "neck.fusion_stage.layers.{1}."),
)
"""Names with a number from 1 to 4 -> the same with {0}, counted from 0, or {1}, counted from the end."""
_OF_BLOCKS = re.compile(r"(backbone\.encoder\.layer\.\d+)\.attn\.qkv\.(weight)")
_OF_ROUTER = re.compile(r"(metric_head\.patch_transformer\.transformer_encoder\.\d+\.self_attn)\.in_proj_(weight|bias)")
_PARTS = ("query", "key", "value")


def load_authors_file(spec: DepthSpec, path: Path) -> tuple[Any, Any]:
    """Load a file of ZoeDepth's own code, whose tensors tell which network it is, with the image processor that fits.

    Args:
        spec: of the catalogue.
        path: `ZoeD_M12_NK.pt`, with an indoor and an outdoor head, or `ZoeD_M12_N.pt`, with an indoor one.

    Returns:
        (model, processor).

    Raises:
        WeightsError: the file cannot be read, or does not hold such a network.
    """
    from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation, ZoeDepthImageProcessor

    own, _ = own_tensors(read_tensors(path), anchor=ANCHOR, what=spec.name, path=path)
    try:
        facts, of_vit = describe(own)
    except (KeyError, IndexError) as error:
        raise WeightsError(f"{path} does not fit {spec.name}: it lacks {error.args[0]}") from error
    if facts.get("num_attractors", (1,))[-1] != 1:  # a bounded network has two numbers for each attractor
        raise WeightsError(
            f"{path} does not fit {spec.name}: it holds a network like ZoeD_M12_K, whose range no file tells: "
            "take ZoeD_M12_NK.pt"
        )
    config = ZoeDepthConfig(backbone_config=BeitConfig(**of_vit), **facts)
    model = fill(ZoeDepthForDepthEstimation, config, transformers_names(own), spec=spec, path=path, all_known=True)
    processor = ZoeDepthImageProcessor(size=dict(INPUT_SIZE), ensure_multiple_of=STRIDE, keep_aspect_ratio=True)
    return model, processor


def describe(own: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of `ZoeDepthConfig`, and those of the `BeitConfig` in it, that tensors have the shapes of.

    Args:
        own: by the names of its code, without any prefix.

    Returns:
        (settings, settings of the backbone).

    Raises:
        KeyError: a tensor that every such network has is missing.
    """

    def size(name: str, axis: int = 0) -> int:
        return own[name].shape[axis]

    # One head, or several by name.
    several = any(name.startswith("seed_bin_regressors.") for name in own)
    names = list(_HEADS) if several else list(_HEADS)[:1]
    bins = size(f"seed_bin_regressor{'s.nyu' if several else ''}._net.2.weight")
    facts: dict[str, Any] = {
        "neck_hidden_sizes": [size(f"core.core.pretrained.act_postprocess{level}.3.weight") for level in range(1, 5)],
        "fusion_hidden_size": size("core.core.scratch.layer1_rn.weight"),
        "num_relative_features": size("core.core.scratch.output_conv.2.weight"),
        "bottleneck_features": size("conv2.weight"),
        "bin_embedding_dim": size("seed_projector._net.2.weight"),
        "bin_configurations": [
            {"name": name, "n_bins": bins, "min_depth": _NEAREST, "max_depth": _HEADS[name]} for name in names
        ],
    }
    if several:
        layers = "patch_transformer.transformer_encoder.layers."
        facts |= {
            "num_patch_transformer_layers": len({name.split(".")[3] for name in own if name.startswith(layers)}),
            "patch_transformer_hidden_size": size("patch_transformer.embedding_convPxP.weight"),
            "patch_transformer_intermediate_size": size(f"{layers}0.linear1.weight"),
            "patch_transformer_num_attention_heads": _ROUTER_ATTENTION_HEADS,
        }
    else:  # with several heads, each level has the same number of attractors, whatever the settings say
        facts["num_attractors"] = [size(f"attractors.{level}._net.2.weight") for level in range(4)]

    # The BEiT: its window from the table of relative positions, which has three more rows for the class token.
    blocks = "core.core.pretrained.model.blocks."
    count = len({name.removeprefix(blocks).split(".")[0] for name in own if name.startswith(blocks)})
    table = f"{blocks}0.attn.relative_position_bias_table"
    patch = size("core.core.pretrained.model.patch_embed.proj.weight", -1)
    of_vit = {
        "image_size": (isqrt(size(table) - 3) + 1) // 2 * patch,
        "patch_size": patch,
        "hidden_size": size(ANCHOR, -1),
        "num_hidden_layers": count,
        "num_attention_heads": size(table, 1),
        "intermediate_size": size(f"{blocks}0.mlp.fc1.weight"),
        "use_relative_position_bias": True,
        "reshape_hidden_states": False,
        "out_features": [f"stage{count * quarter // 4}" for quarter in range(1, 5)],
    }
    return facts, of_vit


def transformers_names(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of ZoeDepth's own code to the names that files of transformers have.

    Args:
        own: by the names of its code, without any prefix.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in own.items():
        if any(part in name for part in _IGNORED):
            continue
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        for pattern, form in _COUNTED:
            if found := re.match(pattern, name):
                name = form.format(int(found[1]) - 1, 4 - int(found[1])) + name[found.end() :]
        if match := _OF_BLOCKS.fullmatch(name):
            parts = zip(_PARTS, tensor.chunk(3), strict=True)
            renamed.update({f"{match[1]}.attention.attention.{part}.{match[2]}": value for part, value in parts})
        elif match := _OF_ROUTER.fullmatch(name):
            parts = zip(_PARTS, tensor.chunk(3), strict=True)
            renamed.update({f"{match[1]}.{part}.{match[2]}": value for part, value in parts})
        else:
            renamed[name] = tensor
    return renamed
