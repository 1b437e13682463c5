"""A backbone of another kind costs two files: one with its loader, and the catalogue with one entry more.

The first of them is this one. The network is a ConvNeXt of timm: no tokens, no positions, no CLS.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cuts3d_cli.devices import NetworkPrecision
from cuts3d_cli.errors import Setting
from cuts3d_cli.features import catalogue
from cuts3d_cli.features.base import BackboneSpec
from cuts3d_cli.features.catalogue import load_backbone
from cuts3d_cli.features.torch_network import TorchBackbone
from cuts3d_cli.images import IMAGENET_MEAN, IMAGENET_STD, decode_image, resize_square
from cuts3d_cli.shards.names import sidecar
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.npy import decode_npy
from cuts3d_cli.weights.checkpoint import fit, read_tensors
from tests.support.photos import pack_photos, records
from tests.support.running import Ran

STAGE = 2


class ConvNet(TorchBackbone):
    def forward(self, pixels: Tensor) -> Tensor:
        (features,) = cast(Any, self.model).forward_intermediates(pixels, indices=[STAGE], intermediates_only=True)
        return features


def read_convnet(spec: BackboneSpec, path: Path) -> Mapping[str, Tensor]:
    expected = {name: tensor.shape for name, tensor in empty(spec).state_dict().items()}
    return fit(
        read_tensors(path), expected, what=spec.name, path=path, ignored=lambda name: name.startswith("head.fc.")
    )


def load_convnet(spec: BackboneSpec, *, size: int, weights: Path, device: str, precision: NetworkPrecision) -> ConvNet:
    model = empty(spec)
    model.load_state_dict(read_convnet(spec, weights))
    return ConvNet(spec=spec, model=model, size=size, device=device, precision=precision)


def empty(spec: BackboneSpec) -> nn.Module:
    return timm.create_model(spec.architecture, pretrained=False, num_classes=0)


@pytest.fixture
def convnet(monkeypatch: pytest.MonkeyPatch) -> BackboneSpec:
    spec = BackboneSpec(
        name="fake",
        architecture="test_convnext",
        patch=16,
        dim=48,
        tensor="stage 3",
        size=320,
        tau_ncut=0.3,
        source=None,
        licence="none",
        note="For tests.",
        way_out=("give ", Setting("features.weights", "FILE")),
        prepare=read_convnet,
        load=load_convnet,
    )
    monkeypatch.setitem(catalogue.BACKBONES, spec.name, spec)
    return spec


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Random weights with a classifier, as a trained network has one."""
    torch.manual_seed(0)
    path = tmp_path / "convnet.pth"
    torch.save({"model": timm.create_model("test_convnext", pretrained=False).state_dict()}, path)
    return path


def test_features_and_masks_by_the_command_line(
    cuts3d: Callable[..., Ran], alone: Path, convnet: BackboneSpec, checkpoint: Path
):
    (base,) = pack_photos(alone, 2)
    network = ("--backbone", "fake", "--weights", checkpoint, "--device", "cpu", "--shards", base)
    assert cuts3d("features", *network, "--size", 96).code == 0
    stored = records(sidecar(base, "features"), "features.json")
    facts = {"backbone": "fake", "size": 96, "tensor": "stage 3"}
    assert stored == {"p0": facts, "p1": facts}
    # What is stored is what the network gives, computed without any code of ours
    model = empty(convnet).eval()
    model.load_state_dict(read_tensors(checkpoint), strict=False)
    for photo, sample in zip(read_shard(base), read_shard(sidecar(base, "features")), strict=True):
        pixels = resize_square(decode_image(photo.members["jpg"]), 96) / 255.0
        pixels = torch.from_numpy((pixels - IMAGENET_MEAN) / IMAGENET_STD).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            maps = cast(Any, model).forward_intermediates(pixels, intermediates_only=True)
        found = decode_npy(sample.members["features.npy"])
        assert (found.shape, found.dtype) == ((48, 6, 6), np.float16)
        np.testing.assert_allclose(found, maps[STAGE][0].numpy(), rtol=2e-3, atol=2e-3)
    # Masks, from features that it computes itself at its own size
    (alone / "s-000.features.tar").unlink()
    ran = cuts3d("pseudo", *network, "-j", 0, "--json")
    assert ran.code in (0, 3), ran
    cut, failed = records(sidecar(base, "pseudo"), "pseudo.json"), json.loads(ran.out)["failed"]
    assert {*cut, *(item["key"] for item in failed)} == {"p0", "p1"}
    assert all(record["grid"] == [20, 20] for record in cut.values())


def test_it_is_listed_cached_and_looked_after(
    cuts3d: Callable[..., Ran], alone: Path, convnet: BackboneSpec, checkpoint: Path
):
    (base,) = pack_photos(alone, 1)
    ran = cuts3d("features", "--backbone", "fake", "--shards", base)
    assert (ran.code, ran.line) == (1, "cuts3d: weights of fake are in no public place: give --weights FILE")
    pulled = cuts3d("weights", "pull", "fake", "--from", checkpoint)
    assert pulled.code == 0
    listed = {item["name"]: item for item in json.loads(cuts3d("weights", "list", "--json").out)}
    assert (listed["fake"]["path"], listed["fake"]["patch"]) == (pulled.out.strip(), 16)
    assert cuts3d("weights", "verify").code == 0
    found = {item["what"]: item["found"] for item in json.loads(cuts3d("doctor", "--json").out)}
    assert found["fake"] == pulled.out.strip()
    assert cuts3d("features", "--backbone", "fake", "--shards", base, "--device", "cpu").code == 0


def test_its_errors_are_like_those_of_the_others(
    cuts3d: Callable[..., Ran], alone: Path, convnet: BackboneSpec, weights: Path
):
    (base,) = pack_photos(alone, 1)
    ran = cuts3d("features", "--backbone", "fake", "--weights", weights, "--shards", base)
    assert (ran.code, "does not fit fake: " in ran.line, "tensors missing (stem.0.weight, " in ran.line) == (
        1,
        True,
        True,
    )
    ran = cuts3d("features", "--backbone", "fake", "--size", 100, "--shards", base)
    assert (ran.code, "--size 100 is not a multiple of the patch side of fake" in ran.line) == (2, True)


def test_a_map_that_is_not_as_specified_is_refused(convnet: BackboneSpec, checkpoint: Path):
    wrong = dataclasses.replace(convnet, patch=32)
    network = load_convnet(wrong, size=96, weights=checkpoint, device="cpu", precision="float32")
    with pytest.raises(ValueError, match=r"fake gives features \(1, 48, 6, 6\), not \(1, 48, 3, 3\) as specified"):
        network.extract(np.zeros((1, 96, 96, 3), np.uint8))


@pytest.mark.parametrize("tensor", ["tokens", "keys"])
def test_a_vit_with_rotary_positions_costs_an_entry_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tensor: str):
    """DINOv3's architecture: five prefix tokens, no `pos_embed`, and periods of rotation that no checkpoint holds."""
    spec = dataclasses.replace(
        catalogue.BACKBONES["dino-vits16"],
        name="rotary",
        architecture="vit_tiny_patch16_dinov3_qkvb",
        dim=192,
        tensor=tensor,
    )
    monkeypatch.setitem(catalogue.BACKBONES, spec.name, spec)
    torch.manual_seed(0)
    theirs = timm.create_model(spec.architecture, pretrained=False, num_classes=0, img_size=96).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0.0, 0.1)
    save_file({f"backbone.{name}": value for name, value in theirs.state_dict().items()}, tmp_path / "w.safetensors")
    before = torch.get_rng_state()
    ours = load_backbone("rotary", size=96, weights=tmp_path / "w.safetensors", device="cpu", precision="float32")
    assert torch.equal(torch.get_rng_state(), before)
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    pixels = torch.from_numpy((images / 255.0 - IMAGENET_MEAN) / IMAGENET_STD).permute(0, 3, 1, 2).float()
    seen: list[Tensor] = []
    theirs.blocks[-1].norm1.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        tokens = theirs.forward_features(pixels)
        keys = seen[0] @ theirs.blocks[-1].attn.qkv.weight[192:384].T  # keys have no bias here
    wanted = (tokens if tensor == "tokens" else keys)[:, 5:].transpose(1, 2).reshape(2, 192, 6, 6)
    np.testing.assert_allclose(ours.extract(images), wanted.numpy(), rtol=1e-4, atol=1e-4)


def test_a_vit_without_a_position_of_cls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """DINOv2's models with registers have positions for patches alone."""
    spec = dataclasses.replace(
        catalogue.BACKBONES["dino-vits16"],
        name="registers",
        architecture="vit_small_patch14_reg4_dinov2",
        patch=14,
        dim=384,
        tensor="tokens",
        size=56,
    )
    monkeypatch.setitem(catalogue.BACKBONES, spec.name, spec)
    torch.manual_seed(0)
    theirs = timm.create_model(spec.architecture, pretrained=False, num_classes=0, img_size=42).eval()
    assert theirs.pos_embed.shape == (1, 9, 384)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (1, 42, 42, 3), dtype=np.uint8)
    pixels = torch.from_numpy((images / 255.0 - IMAGENET_MEAN) / IMAGENET_STD).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        wanted = theirs.forward_features(pixels)[:, 5:].transpose(1, 2).reshape(1, 384, 3, 3)
    ours = load_backbone("registers", size=42, weights=tmp_path / "w.safetensors", device="cpu", precision="float32")
    np.testing.assert_allclose(ours.extract(images), wanted.numpy(), rtol=1e-4, atol=1e-4)
    larger = load_backbone(
        "registers", size=None, weights=tmp_path / "w.safetensors", device="cpu", precision="float32"
    )
    assert larger.extract(np.zeros((1, 56, 56, 3), np.uint8)).shape == (1, 384, 4, 4)
