from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.features.catalogue import BACKBONES, OFFLINE_BACKBONE
from cuts3d_cli.features.names import original_names
from cuts3d_cli.features.onnx_vit import dinov2_from_onnx


def old_name(name: str) -> str:
    """Newer versions of transformers renamed the attention; the export has the names of before."""
    for new, old in (("q", "attention.query"), ("k", "attention.key"), ("v", "attention.value"), ("o", "output.dense")):
        name = name.replace(f"attention.{new}_proj.", f"attention.{old}.")
    return name


def converted_of(graph: bytes, folder: Path) -> dict[str, torch.Tensor]:
    """The weights under timm's names."""
    (folder / "vit.onnx").write_bytes(graph)
    tensors = dinov2_from_onnx(folder / "vit.onnx", root="backbone")
    return original_names(tensors, anchor="patch_embed.proj.weight", what="net", path=folder / "vit.onnx")[0]


def test_converted_weights_compute_what_the_exported_model_computes(onnx_vit: Any, tmp_path: Path) -> None:
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
    converted = converted_of(onnx_vit(arrays), tmp_path)
    ours = VisionTransformer(
        img_size=28, patch_size=14, embed_dim=16, depth=3, num_heads=2, num_classes=0, init_values=1.0
    ).eval()
    ours.load_state_dict(converted)
    pixels = torch.randn(2, 3, 28, 28, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.forward_features(pixels), theirs(pixels).last_hidden_state, atol=1e-4, rtol=1e-4
        )


def test_matrices_are_transposed_and_qkv_is_in_order(
    onnx_vit: Any, dinov2_arrays: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    converted = converted_of(onnx_vit(dinov2_arrays), tmp_path)
    attention = "encoder.layer.1.attention.attention"
    qkv = np.concatenate([dinov2_arrays[f"{attention}.{part}.weight"] for part in ("query", "key", "value")])
    np.testing.assert_array_equal(converted["blocks.1.attn.qkv.weight"], qkv)
    np.testing.assert_array_equal(converted["blocks.0.mlp.fc1.weight"], dinov2_arrays["encoder.layer.0.mlp.fc1.weight"])
    np.testing.assert_array_equal(converted["pos_embed"], dinov2_arrays["embeddings.position_embeddings"])
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in converted.values())


def test_other_parts_of_the_graph_are_left_out(
    onnx_vit: Any, dinov2_arrays: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    assert len(converted_of(onnx_vit(dinov2_arrays), tmp_path)) == 6 + 2 * 14


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_a_missing_bias_is_not_filled_in(
    onnx_vit: Any, dinov2_arrays: dict[str, NDArray[Any]], tmp_path: Path, part: str
) -> None:
    del dinov2_arrays[f"encoder.layer.1.attention.attention.{part}.bias"]
    assert "blocks.1.attn.qkv.bias" not in converted_of(onnx_vit(dinov2_arrays), tmp_path)


def test_another_graph_does_not_fit(onnx_vit: Any, dinov2_arrays: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    """What is missing or left over, the strict fit of the backbone says, as for any other file."""
    spec = BACKBONES[OFFLINE_BACKBONE]
    (tmp_path / "vit.onnx").write_bytes(onnx_vit(dinov2_arrays))
    with pytest.raises(
        WeightsError, match=r"vit\.onnx does not fit dinov2-vits14-pypi .*tensors missing \(blocks\.2\."
    ):
        spec.prepare(spec, tmp_path / "vit.onnx")
    assert dinov2_from_onnx(tmp_path / "vit.onnx", root="encoder") == {}


def test_damaged_onnx_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "vit.onnx").write_bytes(b"\xff\xff\xffnot onnx")
    with pytest.raises(WeightsError, match="cannot be parsed"):
        dinov2_from_onnx(tmp_path / "vit.onnx", root="backbone")
