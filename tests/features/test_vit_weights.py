from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.features.base import BackboneSpec
from cuts3d_cli.features.catalogue import BACKBONES
from cuts3d_cli.features.timm_models import expected_shapes, fit_timm
from cuts3d_cli.weights.checkpoint import read_tensors

State = dict[str, torch.Tensor]


def fit(tensors: State, spec: BackboneSpec) -> State:
    return fit_timm(tensors, spec=spec, path=Path("w.pth"))


def assert_same(found: State, wanted: State) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt", "ckpt", "PTH"])
def test_every_kind_of_file(tiny: BackboneSpec, tiny_state: State, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(tiny_state, path)
    else:
        torch.save(tiny_state, path)
    assert_same(fit(read_tensors(path), tiny), tiny_state)


def test_old_torch_files(tiny: BackboneSpec, tiny_state: State, tmp_path: Path) -> None:
    torch.save(tiny_state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same(fit(read_tensors(tmp_path / "old.pth"), tiny), tiny_state)


def test_diffncuts_training_checkpoint(tiny: BackboneSpec, tiny_state: State, tmp_path: Path) -> None:
    """Laid out as its code saves it: the ViT is `net` beside four heads, wrapped for several GPUs."""
    model = {f"module.net.{name}": tensor for name, tensor in tiny_state.items()}
    for head in ("head1.linear1.weight", "head2.bn1.running_var", "head2d_proj.mlp.0.weight", "head2d_pred.mlp.3.bias"):
        model[f"module.{head}"] = torch.ones(2)
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"model": model, "optimizer": optimizer, "epoch": 2.5}, tmp_path / "eigen-16-2.pth")
    assert_same(fit(read_tensors(tmp_path / "eigen-16-2.pth"), tiny), tiny_state)
    single = {name.removeprefix("module."): tensor for name, tensor in model.items()}
    torch.save({"model": single, "epoch": 1}, tmp_path / "single.pth")
    assert_same(fit(read_tensors(tmp_path / "single.pth"), tiny), tiny_state)


def test_dino_training_checkpoint_gives_the_teacher(tiny: BackboneSpec, tiny_state: State, tmp_path: Path) -> None:
    teacher = {f"backbone.{name}": tensor for name, tensor in tiny_state.items()}
    teacher["head.last_layer.weight_g"] = torch.ones(2)
    student = {f"module.{name}": tensor + 1 for name, tensor in teacher.items()}
    content = {"student": student, "teacher": teacher, "args": argparse.Namespace(arch="vit_small"), "epoch": 3}
    for new in (True, False):
        torch.save(content, tmp_path / "checkpoint.pth", _use_new_zipfile_serialization=new)
        assert_same(fit(read_tensors(tmp_path / "checkpoint.pth"), tiny), tiny_state)


def test_dinov2_release_has_a_mask_token(tmp_path: Path) -> None:
    spec = BACKBONES["dinov2-vits14"]
    shapes = expected_shapes(spec)
    released = {name: torch.zeros(shape) for name, shape in shapes.items()}
    released["pos_embed"] = torch.zeros(1, 1370, 384)
    released["mask_token"] = torch.zeros(1, 384)
    fitted = fit(released, spec)
    assert fitted.keys() == shapes.keys()
    assert fitted["pos_embed"].shape == (1, 1370, 384)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "encoder.", "model.teacher.backbone.", ""])
def test_prefixes_and_nests(tiny: BackboneSpec, tiny_state: State, tmp_path: Path, prefix: str) -> None:
    wrapped = {f"{prefix}{name}": tensor for name, tensor in tiny_state.items()} | {"head.weight": torch.ones(1)}
    torch.save({"state_dict": {"model": wrapped}}, tmp_path / "w.pth")
    assert_same(fit(read_tensors(tmp_path / "w.pth"), tiny), tiny_state)


def test_half_precision_weights_become_float32(tiny: BackboneSpec, tiny_state: State) -> None:
    fitted = fit({name: tensor.half() for name, tensor in tiny_state.items()}, tiny)
    assert {tensor.dtype for tensor in fitted.values()} == {torch.float32}


def test_wrong_architecture_lists_the_first_names(tiny: BackboneSpec, tiny_state: State) -> None:
    for index in range(4):
        tiny_state[f"register.{index}"] = torch.zeros(1)
    for index in range(2):
        del tiny_state[f"blocks.{index}.norm1.weight"]
    tiny_state["patch_embed.proj.weight"] = torch.zeros(64, 3, 8, 8)
    with pytest.raises(WeightsError) as caught:
        fit(tiny_state, tiny)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("w.pth does not fit tiny (test_vit): ")
    assert "2 tensors missing (blocks.0.norm1.weight, blocks.1.norm1.weight)" in text
    assert "4 tensors unknown (register.0, register.1, register.2, ...)" in text
    assert "1 tensors of another shape (patch_embed.proj.weight 64x3x8x8 instead of 64x3x16x16)" in text


@pytest.mark.parametrize("shape", [(1, 16, 64), (1, 1, 64), (1, 0, 64), (1, 17, 32), (17, 64), ()])
def test_pos_embed_must_be_a_square_and_a_cls(tiny: BackboneSpec, tiny_state: State, shape: tuple[int, ...]) -> None:
    tiny_state["pos_embed"] = torch.zeros(shape)
    with pytest.raises(WeightsError, match="pos_embed"):
        fit(tiny_state, tiny)


def test_no_vit_and_two_vits(tiny: BackboneSpec, tiny_state: State) -> None:
    with pytest.raises(WeightsError, match=r"no patch_embed\.proj\.weight; its first tensors are conv1\.weight"):
        fit({"conv1.weight": torch.zeros(1)}, tiny)
    two = {
        f"{side}.{name}": tensor + at
        for at, side in enumerate(("left", "right"))
        for name, tensor in tiny_state.items()
    }
    with pytest.raises(WeightsError, match=r"2 such networks \(left\., right\.\)"):
        fit(two, tiny)
