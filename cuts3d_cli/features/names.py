"""Names of strangers' backbones, brought to those that timm or the networks' own code use.

Whoever trained or converted a network has put prefixes before its names (`module.`, `teacher.backbone.`), has cut its
blocks into chunks (DINOv2's training), or has other names altogether (transformers).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from cuts3d_cli.weights.checkpoint import own_tensors

Tensors = dict[str, Tensor]

_STUDENTS = frozenset({"student"})
"""Parts of prefixes of networks beside which a teacher is preferred."""
_CHUNK = re.compile(r"^blocks\.\d+\.(\d+\.)")
_ANY_LAYER = r"^(?:model\.)?(?:encoder\.)?layers?\.(\d+)\."
_TRANSFORMERS_VIT = [
    (_ANY_LAYER, r"blocks.\1."),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^(layernorm|norm)\.", "norm."),
    (r"\.attention\.(attention\.)?(query|q_proj)\.", ".attn.0."),
    (r"\.attention\.(attention\.)?(key|k_proj)\.", ".attn.1."),
    (r"\.attention\.(attention\.)?(value|v_proj)\.", ".attn.2."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.(intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"(\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    # DINOv3's two kinds of feed-forward networks
    (r"\.mlp\.gate_proj\.", ".mlp.w1."),
    (r"\.mlp\.down_proj\.", ".mlp.w3."),
    (r"\.mlp\.up_proj\.", ".mlp.w2."),
]
"""Pattern and replacement, one after the other, for `ViTModel`, `Dinov2Model` with and without registers, and
`DINOv3ViTModel`: to the names of the networks' own code. Of a layer's attention, 0, 1 and 2 are the parts of qkv."""
_PLAIN_MLP = {".mlp.w2.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}
_TRANSFORMERS_CONVNEXT = [
    (r"^model\.", ""),
    (r"^stages\.(\d+)\.downsample_layers\.", r"downsample_layers.\1."),
    (r"^stages\.(\d+)\.layers\.(\d+)\.", r"stages.\1.\2."),
    (r"\.depthwise_conv\.", ".dwconv."),
    (r"\.pointwise_conv([12])\.", r".pwconv\1."),
    (r"\.layer_norm\.", ".norm."),
    (r"^layer_norm\.", "norm."),
]
_QKV = re.compile(r"^(blocks\.\d+\.attn\.)([012])\.(weight|bias)$")


def original_names(tensors: Mapping[str, Tensor], *, anchor: str, what: str, path: Path) -> tuple[Tensors, list[str]]:
    """Find a backbone in a checkpoint, and give its tensors the names of timm or of the network's own code.

    Args:
        tensors: as `cuts3d_cli.weights.checkpoint.read_tensors` gives them.
        anchor: the name in timm of a tensor that the backbone has.
        what: what it is for, such as "dino-vitb8"; only for the error.
        path: the file that the tensors are from; only for the error.

    Returns:
        The network's tensors, and the whole names of all others.

    Raises:
        WeightsError: there is no such network, or there are several.
    """
    found = next((name for name in (anchor, *_STYLES) if any(key.endswith(name) for key in tensors)), anchor)
    own, others = own_tensors(tensors, anchor=found, what=what, path=path, followers=_STUDENTS)
    rename = _STYLES.get(found)
    return (rename(own) if rename else own), others


def _own_code(tensors: Tensors) -> Tensors:
    """Put the blocks of chunks into one row; their numbers count through all chunks."""
    blocks = [name for name in tensors if name.startswith("blocks.")]
    if not blocks or not all(map(_CHUNK.match, blocks)):
        return tensors
    return {_CHUNK.sub(r"blocks.\1", name): tensor for name, tensor in tensors.items()}


def _transformers_vit(tensors: Tensors) -> Tensors:
    renamed = _renamed(tensors, _TRANSFORMERS_VIT)
    if not any(".mlp.w1." in name for name in renamed):
        for theirs, ours in _PLAIN_MLP.items():
            renamed = {name.replace(theirs, ours): tensor for name, tensor in renamed.items()}
    # DINOv3 has no positions with weights, its own code has another word for registers, and its keys have no bias.
    is_dinov3 = "register_tokens" in renamed and "pos_embed" not in renamed
    if is_dinov3:
        renamed["storage_tokens"] = renamed.pop("register_tokens")
    return _with_qkv(renamed, keys_have_bias=not is_dinov3)


def _with_qkv(tensors: Tensors, *, keys_have_bias: bool) -> Tensors:
    """Join queries, keys and values where all are there; a bias that keys do not have is zero."""
    joined = dict(tensors)
    for name in tensors:
        match = _QKV.match(name)
        if not match or match[2] != "0":
            continue
        names = [f"{match[1]}{part}.{match[3]}" for part in range(3)]
        parts = [tensors.get(item) for item in names]
        if match[3] == "bias" and not keys_have_bias and parts[1] is None:
            parts[1] = torch.zeros_like(tensors[name])
        given = [part for part in parts if part is not None]
        if len(given) == 3:
            joined[f"{match[1]}qkv.{match[3]}"] = torch.cat(given)
            for item in names:
                joined.pop(item, None)
    return joined


def _renamed(tensors: Tensors, rules: list[tuple[str, str]]) -> Tensors:
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


_STYLES: dict[str, Callable[[Tensors], Tensors]] = {
    "patch_embed.proj.weight": _own_code,
    "embeddings.patch_embeddings.projection.weight": _transformers_vit,
    "embeddings.patch_embeddings.weight": _transformers_vit,
    "model.stages.0.downsample_layers.0.weight": lambda tensors: _renamed(tensors, _TRANSFORMERS_CONVNEXT),
    "stages.0.downsample_layers.0.weight": lambda tensors: _renamed(tensors, _TRANSFORMERS_CONVNEXT),
    "downsample_layers.0.0.weight": lambda tensors: tensors,
}
"""The name of a tensor by which a way of naming is known -> how to undo it. The more special name comes first."""
