"""A DINOv2 encoder out of an ONNX graph, under timm's names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.wording import listed

if TYPE_CHECKING:
    import onnx

Array = NDArray[np.float32]

_TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_LAYER = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attention.output.dense.weight": "attn.proj.weight",
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.weight": "mlp.fc1.weight",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.weight": "mlp.fc2.weight",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "layer_scale2.lambda1": "ls2.gamma",
}
_QKV = ("query", "key", "value")
_LAYER_NAME = re.compile(r"encoder\.layer\.(\d+)\.(.+)")


def dinov2_from_onnx(data: bytes, *, root: str) -> dict[str, Tensor]:
    """Return the weights of a DINOv2 ViT inside an exported model, such as the encoder of a saliency network.

    The exporter keeps the names of transformers' Dinov2Model for biases and norms. It folds the matrices of
    linear layers into unnamed, transposed inputs of MatMul nodes, and the positional embedding into two
    unnamed inputs: both are found by the names of the nodes that read them.

    Args:
        data: the ONNX file.
        root: the encoder's name in the graph.

    Returns:
        timm's name to float32 tensor, complete: every weight that lies under `root`, and no other.

    Raises:
        WeightsError: the file is not ONNX, or parts of the encoder are missing, of the wrong kind or left
            over.
    """
    import onnx

    try:
        graph = onnx.load_model_from_string(data).graph
    except Exception as error:  # protobuf's error; its package has no type information to name it by.
        raise WeightsError("the ONNX file cannot be parsed: it is damaged, fetch it again") from error
    arrays = _to_timm(_encoder_weights(graph, root=root), root=root)
    return {name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in arrays.items()}


def _encoder_weights(graph: onnx.GraphProto, *, root: str) -> dict[str, Array]:
    """Return all weights under `root` by their names in Dinov2Model, linear layers as (out, in)."""
    from onnx import TensorProto, numpy_helper

    initializers = {tensor.name: tensor for tensor in graph.initializer}
    found = {
        name[len(root) + 1 :]: np.asarray(numpy_helper.to_array(tensor), dtype=np.float32)
        for name, tensor in initializers.items()
        if name.startswith(f"{root}.")
    }
    for node in graph.node:
        if not node.name.startswith(f"/{root}/"):
            continue
        # The exporter's own constants (axes and the like) are integers.
        folded = [
            np.asarray(numpy_helper.to_array(initializers[name]), dtype=np.float32)
            for name in node.input
            if name in initializers
            and not name.startswith(f"{root}.")
            and initializers[name].data_type == TensorProto.FLOAT
        ]
        module = node.name[len(root) + 2 :].split("/")
        for array in folded:
            if node.op_type == "MatMul":
                name = ".".join(module[:-1]) + ".weight"
                array = np.ascontiguousarray(array.T)
            elif module[0] == "embeddings" and node.op_type == "Concat":
                name = "position_embeddings.cls"
            elif module[0] == "embeddings" and node.op_type == "Reshape":
                name = "position_embeddings.patches"
            else:
                name = f"{node.name} ({node.op_type})"
            if name in found:
                raise WeightsError(
                    f"the ONNX graph holds {name} of {root} twice: it is not the export that is expected"
                )
            found[name] = array
    return found


def _to_timm(found: dict[str, Array], *, root: str) -> dict[str, Array]:
    left = dict(found)
    missing: list[str] = []

    def take(name: str) -> Array:
        if name not in left:
            missing.append(name)
        return left.pop(name, np.zeros((0,), dtype=np.float32))

    layers = sorted({int(match[1]) for match in map(_LAYER_NAME.match, found) if match})
    taken = {timm_name: take(name) for name, timm_name in _TOP.items()}
    positions = [take("position_embeddings.cls"), take("position_embeddings.patches")]
    qkv: dict[str, list[Array]] = {}
    for index, layer in enumerate(layers):
        if index != layer:
            raise WeightsError(f"the ONNX graph lacks layer {index} of {root}: it is not the export that is expected")
        for name, timm_name in _LAYER.items():
            taken[f"blocks.{layer}.{timm_name}"] = take(f"encoder.layer.{layer}.{name}")
        for kind in ("weight", "bias"):
            qkv[f"blocks.{layer}.attn.qkv.{kind}"] = [
                take(f"encoder.layer.{layer}.attention.attention.{part}.{kind}") for part in _QKV
            ]
    if missing or left or not layers:
        problems = [
            f"{len(names)} weights {what} ({listed(names)})"
            for what, names in (("missing", missing), ("left over", list(left)))
            if names
        ] or ["no layers"]
        raise WeightsError(f"the ONNX graph does not hold a DINOv2 ViT as {root}: {'; '.join(problems)}")
    taken["pos_embed"] = np.concatenate(positions, axis=1)
    taken.update({name: np.concatenate(parts, axis=0) for name, parts in qkv.items()})
    return taken
