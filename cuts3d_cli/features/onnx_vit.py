"""A DINOv2 encoder out of an ONNX graph, under the names of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cuts3d_cli.errors import WeightsError

if TYPE_CHECKING:
    import onnx

Array = NDArray[np.float32]
_POSITIONS = ("position_embeddings.cls", "position_embeddings.patches")


def dinov2_from_onnx(path: Path, *, root: str) -> dict[str, Tensor]:
    """Return the weights of a DINOv2 ViT inside an exported model, such as the encoder of a saliency network.

    The exporter keeps the names of transformers' Dinov2Model for biases and norms. It folds the matrices of
    linear layers into unnamed, transposed inputs of MatMul nodes, and the positional embedding into two
    unnamed inputs: both are found by the names of the nodes that read them.

    Args:
        path: the ONNX file.
        root: the encoder's name in the graph.

    Returns:
        The name in transformers to float32 tensor: every weight that lies under `root`, and no other.

    Raises:
        WeightsError: the file is not ONNX, or holds a weight twice.
    """
    import onnx

    try:
        graph = onnx.load_model_from_string(path.read_bytes()).graph
    except Exception as error:  # protobuf's error; its package has no type information to name it by.
        raise WeightsError("the ONNX file cannot be parsed: it is damaged, fetch it again") from error
    arrays = _encoder_weights(graph, root=root)
    # The exporter folds the addition of positions to the CLS token and to the patches into one each.
    positions = [array for name in _POSITIONS if (array := arrays.pop(name, None)) is not None]
    if positions:
        arrays["embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
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
                name = _POSITIONS[0]
            elif module[0] == "embeddings" and node.op_type == "Reshape":
                name = _POSITIONS[1]
            else:
                name = f"{node.name} ({node.op_type})"
            if name in found:
                raise WeightsError(
                    f"the ONNX graph holds {name} of {root} twice: it is not the export that is expected"
                )
            found[name] = array
    return found
