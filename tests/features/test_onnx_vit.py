from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.features.onnx_vit import dinov2_from_onnx


def old_name(name: str) -> str:
    """Newer versions of transformers renamed the attention; the export has the names of before."""
    for new, old in (("q", "attention.query"), ("k", "attention.key"), ("v", "attention.value"), ("o", "output.dense")):
        name = name.replace(f"attention.{new}_proj.", f"attention.{old}.")
    return name


def test_converted_weights_compute_what_the_exported_model_computes(onnx_vit: Any) -> None:
    """transformers' Dinov2Model, through the exporter's naming, against timm's ViT with the converted weights."""
    transformers = pytest.importorskip("transformers")
    from timm.models.vision_transformer import VisionTransformer

    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=4, image_size=28, patch_size=14
    )
    theirs = transformers.Dinov2Model(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    arrays = {old_name(name): tensor.numpy() for name, tensor in theirs.state_dict().items()}
    arrays.pop("embeddings.mask_token")
    converted = dinov2_from_onnx(onnx_vit(arrays), root="backbone")
    ours = VisionTransformer(
        img_size=28, patch_size=14, embed_dim=16, depth=3, num_heads=2, num_classes=0, init_values=1.0
    ).eval()
    ours.load_state_dict(converted)
    pixels = torch.randn(2, 3, 28, 28, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.forward_features(pixels), theirs(pixels).last_hidden_state, atol=1e-4, rtol=1e-4
        )


def test_matrices_are_transposed_and_qkv_is_in_order(onnx_vit: Any, dinov2_arrays: dict[str, NDArray[Any]]) -> None:
    converted = dinov2_from_onnx(onnx_vit(dinov2_arrays), root="backbone")
    attention = "encoder.layer.1.attention.attention"
    qkv = np.concatenate([dinov2_arrays[f"{attention}.{part}.weight"] for part in ("query", "key", "value")])
    np.testing.assert_array_equal(converted["blocks.1.attn.qkv.weight"], qkv)
    np.testing.assert_array_equal(converted["blocks.0.mlp.fc1.weight"], dinov2_arrays["encoder.layer.0.mlp.fc1.weight"])
    np.testing.assert_array_equal(converted["pos_embed"], dinov2_arrays["embeddings.position_embeddings"])
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in converted.values())


def test_other_parts_of_the_graph_are_left_out(onnx_vit: Any, dinov2_arrays: dict[str, NDArray[Any]]) -> None:
    converted = dinov2_from_onnx(onnx_vit(dinov2_arrays), root="backbone")
    assert len(converted) == 6 + 2 * 14


@pytest.mark.parametrize(
    "name", ["layernorm.bias", "encoder.layer.0.mlp.fc2.weight", "encoder.layer.1.attention.attention.key.bias"]
)
def test_a_missing_weight_is_named(onnx_vit: Any, dinov2_arrays: dict[str, NDArray[Any]], name: str) -> None:
    del dinov2_arrays[name]
    with pytest.raises(WeightsError, match=rf"1 weights missing \({name}\)"):
        dinov2_from_onnx(onnx_vit(dinov2_arrays), root="backbone")


def test_a_weight_left_over_is_named(onnx_vit: Any, dinov2_arrays: dict[str, NDArray[Any]]) -> None:
    dinov2_arrays["embeddings.register_tokens"] = np.zeros((1, 4, 8), np.float32)
    with pytest.raises(WeightsError, match=r"1 weights left over \(embeddings\.register_tokens\)"):
        dinov2_from_onnx(onnx_vit(dinov2_arrays), root="backbone")


def test_a_missing_layer_and_a_wrong_root(onnx_vit: Any, dinov2_arrays: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(WeightsError, match="does not hold a DINOv2 ViT as encoder"):
        dinov2_from_onnx(onnx_vit(dinov2_arrays), root="encoder")
    without = {name: array for name, array in dinov2_arrays.items() if "layer.0." not in name}
    with pytest.raises(WeightsError, match="lacks layer 0"):
        dinov2_from_onnx(onnx_vit(without), root="backbone")


def test_damaged_onnx_is_one_line() -> None:
    with pytest.raises(WeightsError, match="cannot be parsed"):
        dinov2_from_onnx(b"\xff\xff\xffnot onnx", root="backbone")
