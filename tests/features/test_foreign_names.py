"""Backbones as other programs save them: the same features as theirs, within rounding."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.features.base import EXACT, OFFSET, BackboneSpec
from cuts3d_cli.features.timm_models import expected_shapes, fit_timm, timm_tensors
from cuts3d_cli.features.vit import load_timm
from cuts3d_cli.images import IMAGENET_MEAN, IMAGENET_STD
from cuts3d_cli.weights.kinds import weights_file
from tests.support.foreign_backbones import (
    SIZE,
    TIMM,
    in_chunks,
    of_transformers,
    official_dinov2,
    official_dinov3,
    randomised,
)


def spec_of(base: BackboneSpec, **changes: Any) -> BackboneSpec:
    facts = {"tensor": "tokens", "patch": 16, "dim": 64, "size": SIZE, "resampling": EXACT, **changes}
    return dataclasses.replace(base, **facts)


def pixels(size: int = SIZE) -> tuple[NDArray[np.uint8], Tensor]:
    """One image, for us, and normalised, for them."""
    images = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    return images, torch.from_numpy((images / 255.0 - IMAGENET_MEAN) / IMAGENET_STD).permute(0, 3, 1, 2).float()


def as_map(tokens: Tensor) -> NDArray[np.float32]:
    """(1, K, C) -> (1, C, H, W)."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.detach().transpose(1, 2).reshape(1, -1, side, side).numpy()


KINDS = ("vit", "dinov2", "dinov2 with registers", "dinov3", "dinov3, gated", "dinov3 convnext")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["folder", "pytorch_model.bin", "with a head"])
def test_networks_of_transformers(tiny: BackboneSpec, tmp_path: Path, kind: str, file: str) -> None:
    theirs, given = of_transformers(kind)
    randomised(theirs)
    state = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    if file == "with a head":
        state = {f"backbone.{name}": tensor for name, tensor in state.items()} | {"classifier.weight": torch.ones(2, 2)}
        torch.save({"state_dict": state, "epoch": 1}, tmp_path / "w.pth")
    elif file == "folder":
        theirs.save_pretrained(tmp_path)  # under the names that files have, which are not those in memory
    else:
        torch.save(state, tmp_path / file)
    path = tmp_path / "w.pth" if file == "with a head" else weights_file(tmp_path)
    images, given_to_them = pixels()
    ours = load_timm(spec_of(tiny, **given), size=SIZE, weights=path, device="cpu", precision="float32")
    with torch.no_grad():
        tokens = theirs(pixel_values=given_to_them).last_hidden_state
    prefix = {"vit": 1, "dinov2": 1, "dinov3 convnext": 1}.get(kind, 5)
    np.testing.assert_allclose(ours.extract(images), as_map(tokens[:, prefix:]), rtol=1e-3, atol=1e-4)


def test_keys_of_dinov3_keep_no_bias_and_those_of_dino_do(tiny: BackboneSpec, tmp_path: Path) -> None:
    """The keys of transformers' own layers are ours."""
    for kind in ("vit", "dinov3"):
        theirs, given = of_transformers(kind)
        randomised(theirs)
        save_file({name: value.clone() for name, value in theirs.state_dict().items()}, tmp_path / "w.safetensors")
        spec = spec_of(tiny, **given, tensor="keys")
        ours = load_timm(spec, size=SIZE, weights=tmp_path / "w.safetensors", device="cpu", precision="float32")
        seen: list[Tensor] = []
        layer = next(
            module for name, module in reversed(list(theirs.named_modules())) if name.endswith(("key", "k_proj"))
        )
        layer.register_forward_hook(lambda _module, _inputs, output, seen=seen: seen.append(output))
        images, given_to_them = pixels()
        with torch.no_grad():
            theirs(pixel_values=given_to_them)
        prefix = 1 if kind == "vit" else 5
        np.testing.assert_allclose(ours.extract(images), as_map(seen[0][:, prefix:]), rtol=1e-3, atol=1e-4)


OFFICIAL: dict[str, tuple[dict[str, Any], Callable[[dict[str, Tensor]], dict[str, Tensor]]]] = {
    "dinov2": (
        {"architecture": "vit_small_patch14_reg4_dinov2", "model_args": {**TIMM, "patch_size": 16}},
        official_dinov2,
    ),
    "dinov3": ({"architecture": "vit_tiny_patch16_dinov3_qkvb", "model_args": TIMM}, official_dinov3),
}


@pytest.mark.parametrize("kind", OFFICIAL)
@pytest.mark.parametrize("layout", ["released", "teacher", "training", "chunks"])
def test_files_of_the_networks_own_code(tiny: BackboneSpec, tmp_path: Path, kind: str, layout: str) -> None:
    given, rename = OFFICIAL[kind]
    spec = spec_of(tiny, **given)
    theirs = randomised(
        timm.create_model(spec.architecture, pretrained=False, num_classes=0, img_size=SIZE, **spec.model_args)
    )
    own = rename(theirs.state_dict())
    heads = {"dino_head.mlp.0.weight": torch.ones(2, 2), "ibot_head.last_layer.weight_g": torch.ones(2)}
    teacher = {f"backbone.{name}": tensor for name, tensor in own.items()} | heads
    student = {name: torch.zeros_like(tensor) for name, tensor in teacher.items()}
    content: Any = own
    if layout == "teacher":
        content = {"teacher": teacher}
    elif layout in ("training", "chunks"):
        if layout == "chunks":
            teacher = {f"backbone.{name}": tensor for name, tensor in in_chunks(own).items()} | heads
        both = {f"teacher.{name}": tensor for name, tensor in teacher.items()}
        content = {"model": {**both, **{f"student.{name}": tensor for name, tensor in student.items()}}, "iteration": 5}
    torch.save(content, tmp_path / "w.pth")
    found = timm_tensors(spec, tmp_path / "w.pth")
    assert found.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def test_biases_that_have_no_place_are_not_dropped_in_silence(tiny: BackboneSpec, tmp_path: Path) -> None:
    with_biases = spec_of(tiny, architecture="vit_tiny_patch16_dinov3_qkvb", model_args=TIMM)
    theirs = randomised(
        timm.create_model(with_biases.architecture, pretrained=False, num_classes=0, img_size=SIZE, **TIMM)
    )
    without = spec_of(tiny, architecture="vit_small_patch16_dinov3", model_args=TIMM)
    own = official_dinov3(theirs.state_dict())
    with pytest.raises(WeightsError, match=r"w has .*biases of q and v|it has biases of q and v.*_qkvb"):
        fit_timm(own, spec=without, path=Path("w"))
    zero = {name: torch.zeros_like(tensor) if name.endswith("qkv.bias") else tensor for name, tensor in own.items()}
    assert fit_timm(zero, spec=without, path=Path("w")).keys() == expected_shapes(without).keys()


def test_arrays_in_a_pickle(tiny: BackboneSpec, tiny_state: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(
        pickle.dumps({"model": {name: value.numpy() for name, value in tiny_state.items()}})
    )
    found = timm_tensors(tiny, tmp_path / "w.pkl")
    assert all(torch.equal(found[name], tensor) for name, tensor in tiny_state.items())


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("test_vit", {}),
        ("test_vit2", {}),
        ("test_vit3", {"dim": 96}),
        ("vit_small_patch14_reg4_dinov2", {"patch": 14, "model_args": TIMM, "size": 42}),
        (
            "eva02_tiny_patch14_224",
            {"patch": 14, "size": 42, "model_args": {"depth": 2, "embed_dim": 64, "num_heads": 2}},
        ),
        ("vit_base_patch16_siglip_224", {"model_args": TIMM}),
        ("deit3_small_patch16_224", {"model_args": TIMM}),
        ("beit_base_patch16_224", {"model_args": {**TIMM, "depth": 2}}),
        ("test_convnext", {"fixed_size": False, "patch": 32}),
        ("test_resnet", {"fixed_size": False, "patch": 32, "dim": 96}),
    ],
)
def test_any_network_of_timm(tiny: BackboneSpec, tmp_path: Path, architecture: str, changes: dict[str, Any]) -> None:
    """The last feature map, positions resampled as timm does it, whatever the size of the checkpoint's positions."""
    spec = spec_of(tiny, architecture=architecture, normalisation=((0.5,) * 3, (0.25,) * 3), **changes)
    sized = {"img_size": spec.size} if spec.fixed_size else {}
    native = randomised(timm.create_model(architecture, pretrained=False, num_classes=7, **sized, **spec.model_args))
    save_file({name: value.clone() for name, value in native.state_dict().items()}, tmp_path / "w.safetensors")
    size = 2 * spec.size
    if spec.fixed_size:
        theirs = timm.create_model(
            architecture,
            pretrained=True,
            num_classes=7,
            img_size=size,
            **spec.model_args,
            pretrained_cfg_overlay={"file": str(tmp_path / "w.safetensors"), "num_classes": 7},
        ).eval()
    else:
        theirs = native
    images = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    with torch.no_grad():
        wanted = theirs.forward_features(torch.from_numpy((images / 255.0 - 0.5) / 0.25).permute(0, 3, 1, 2).float())
    if wanted.dim() == 3:
        wanted = torch.from_numpy(as_map(wanted[:, theirs.num_prefix_tokens :]))
    elif "convnext" in architecture:
        wanted = theirs.head.norm(wanted).detach()
    ours = load_timm(spec, size=size, weights=tmp_path / "w.safetensors", device="cpu", precision="float32")
    np.testing.assert_allclose(ours.extract(images), wanted.numpy(), rtol=1e-3, atol=1e-4)


def test_plain_dinov2_and_those_with_registers_resample_positions_differently(
    tiny: BackboneSpec, tiny_state: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(tiny_state, tmp_path / "w.safetensors")
    images, _ = pixels(96)
    found = {
        rule: load_timm(
            dataclasses.replace(tiny, resampling=rule),
            size=96,
            weights=tmp_path / "w.safetensors",
            device="cpu",
            precision="float32",
        ).extract(images)
        for rule in (OFFSET, EXACT)
    }
    assert np.abs(found[OFFSET] - found[EXACT]).max() > 1e-3
