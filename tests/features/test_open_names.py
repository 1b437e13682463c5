"""Backbones that no table lists: any of timm, any of the model hub."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from cuts3d_cli.errors import HubUnreachableError, SettingError, UsageError, WeightsError
from cuts3d_cli.features.base import EXACT, OFFSET
from cuts3d_cli.features.catalogue import BACKBONES, backbone_spec, load_backbone, with_tensor
from cuts3d_cli.features.open_names import hub_backbone
from cuts3d_cli.features.timm_models import build_model, timm_tensors
from cuts3d_cli.shards.names import sidecar
from cuts3d_cli.weights.specs import HubSource
from tests.support.photos import pack_photos, records
from tests.support.running import Ran

FACTS = ("tensor", "resampling", "tau_ncut", "patch", "dim", "size", "fixed_size", "normalisation", "source")


@pytest.mark.parametrize(
    "name", ["dino-vitb8", "dinov2-vits14", "dinov2-vits14-reg4", "dinov3-vits16", "dinov3-convnext-tiny"]
)
def test_the_same_network_under_its_name_in_timm(name: str) -> None:
    known = BACKBONES[name]
    open_spec = backbone_spec(f"timm:{known.architecture}")
    assert {fact: getattr(open_spec, fact) for fact in FACTS} == {fact: getattr(known, fact) for fact in FACTS}


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("timm:vit_base_patch16_224.dino", ("keys", OFFSET, 0.13, 16, 768, 480)),
        ("timm:test_vit", ("tokens", EXACT, None, 16, 64, 480)),
        ("timm:vit_small_patch14_dinov2", ("tokens", OFFSET, 0.5, 14, 384, 476)),
        ("timm:test_convnext", ("tokens", EXACT, None, 32, 64, 960)),
    ],
)
def test_what_is_known_of_others(name: str, facts: tuple[Any, ...]) -> None:
    spec = backbone_spec(name)
    assert (spec.tensor, spec.resampling, spec.tau_ncut, spec.patch, spec.dim, spec.size) == facts
    assert isinstance(spec.source, HubSource)
    assert spec.source.repo == f"timm/{spec.architecture}"
    assert "." in spec.architecture  # with the tag of its usual weights


def test_other_means_and_deviations() -> None:
    assert backbone_spec("timm:vit_base_patch16_siglip_224").normalisation == ((0.5,) * 3, (0.5,) * 3)
    assert backbone_spec("timm:test_vit").normalisation == ((0.5,) * 3, (0.5,) * 3)
    assert backbone_spec("timm:deit3_small_patch16_224").normalisation is None


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("timm:vit_small_patch16_224.none", r"timm has no weights 'none' of vit_small_patch16_224: it has .*dino"),
        (
            "timm:vit_smal_patch16_224",
            r"timm has no network '.*': did you mean vit_small_patch16_224",
        ),
        ("timm:", "timm has no network ''"),
        ("hf-hub:dinov2", r"names no repository: write it as hf-hub:OWNER/NAME"),
        ("resnet50", r"unknown backbone 'resnet50': choose one of .*, timm:NAME, hf-hub:OWNER/NAME"),
    ],
)
def test_wrong_names(name: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        backbone_spec(name)


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:test_resnet", "timm:test_convnext", "timm:test_efficientnet"])
def test_the_file_of_a_network_that_is_no_vit_fits_it(name: str, tmp_path: Path) -> None:
    spec = backbone_spec(name)
    torch.manual_seed(0)
    state = build_model(spec, size=64).state_dict()
    own = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "w.pth.tar")
    found = timm_tensors(spec, tmp_path / "w.pth.tar")
    assert all(torch.equal(found[name], tensor) for name, tensor in own.items())


class TestHub:
    """Repositories in the cache of the hub's client."""

    @pytest.fixture
    def repo(self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        hub_backbone.cache_clear()

        def add(**files: Any) -> str:
            folder = tmp_path / "hub/models--some--net"
            snapshot = folder / "snapshots" / ("c" * 40)
            snapshot.mkdir(parents=True, exist_ok=True)
            (folder / "refs").mkdir(exist_ok=True)
            (folder / "refs/main").write_text("c" * 40)
            for name, content in files.items():
                (snapshot / f"{name}.json").write_text(json.dumps(content))
            return "hf-hub:some/net"

        return add

    def test_a_network_for_timm(self, repo: Callable[..., str]) -> None:
        config = {
            "architecture": "test_vit",
            "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "fixed_input_size": True, "license": "mit"},
            "model_args": {"depth": 2, "checkpoint_path": "/etc/passwd", "pretrained": True},
        }
        spec = backbone_spec(repo(config=config))
        assert spec.normalisation == ((0.1, 0.2, 0.3), (1, 1, 1))
        assert dict(spec.model_args) == {"depth": 2}
        assert (spec.patch, spec.dim, spec.tensor, spec.licence) == (16, 64, "tokens", "mit")

    @pytest.mark.parametrize(
        ("config", "architecture"),
        [
            ({"model_type": "vit", "hidden_size": 768, "patch_size": 8}, "vit_base_patch8_224.dino"),
            ({"model_type": "dinov2", "hidden_size": 384, "patch_size": 14}, "vit_small_patch14_dinov2.lvd142m"),
            (
                {"model_type": "dinov2_with_registers", "hidden_size": 1024, "patch_size": 14},
                "vit_large_patch14_reg4_dinov2.lvd142m",
            ),
            (
                {"model_type": "dinov3_vit", "hidden_size": 384, "patch_size": 16},
                "vit_small_patch16_dinov3_qkvb.lvd1689m",
            ),
            (
                {"model_type": "dinov3_convnext", "hidden_sizes": [128, 256, 512, 1024], "depths": [3, 3, 27, 3]},
                "convnext_base.dinov3_lvd1689m",
            ),
        ],
    )
    def test_networks_for_transformers(
        self, repo: Callable[..., str], config: dict[str, Any], architecture: str
    ) -> None:
        processor = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
        spec = backbone_spec(repo(config=config, preprocessor_config=processor))
        assert spec.architecture == architecture
        assert spec.normalisation == ((0.5,) * 3, (0.5,) * 3)
        assert spec.source == HubSource(repo="some/net", filename="model.safetensors", otherwise="pytorch_model.bin")

    def test_others_are_refused(self, repo: Callable[..., str]) -> None:
        with pytest.raises(WeightsError, match="some/net holds a network of bert, which is no backbone that timm has"):
            backbone_spec(repo(config={"model_type": "bert"}))
        hub_backbone.cache_clear()
        with pytest.raises(UsageError, match="hf-hub:some/net cannot be built"):
            backbone_spec(repo(config={"architecture": "test_vit", "model_args": {"no_such": 1}}))

    def test_a_processor_that_is_not_here_is_not_guessed(self, repo: Callable[..., str]) -> None:
        with pytest.raises(HubUnreachableError, match=r"the settings of hf-hub:some/net are not in the cache"):
            backbone_spec(repo(config={"model_type": "vit", "hidden_size": 768, "patch_size": 8}))


def test_tensors_can_be_chosen(tmp_path: Path) -> None:
    spec = with_tensor(backbone_spec("timm:vit_base_patch16_224.dino"), "tokens")
    assert (spec.tensor, spec.tau_ncut) == ("tokens", None)  # 0.13 is for keys
    assert with_tensor(spec, None) is spec
    other = dataclasses.replace(spec, load=lambda *_, **__: None, tensor="stage 3")  # type: ignore[arg-type,return-value]
    with pytest.raises(SettingError, match=r"features\.tensor is 'keys': the features of .* are stage 3"):
        with_tensor(other, "keys")
    net = timm.create_model("test_convnext", pretrained=False, num_classes=0)
    save_file({name: value.clone() for name, value in net.state_dict().items()}, tmp_path / "w.safetensors")
    with pytest.raises(SettingError, match=r"is 'keys': timm:test_convnext has no attention with keys"):
        load_backbone(
            with_tensor(backbone_spec("timm:test_convnext"), "keys"),
            size=64,
            weights=tmp_path / "w.safetensors",
            device="cpu",
            precision="float32",
        )


@pytest.fixture
def test_vit(alone: Path) -> Path:
    """Random weights of timm's test_vit."""
    torch.manual_seed(0)
    net = timm.create_model("test_vit", pretrained=False, num_classes=10)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0.0, 0.2)
    save_file({name: value.clone() for name, value in net.state_dict().items()}, alone / "w.safetensors")
    return alone / "w.safetensors"


def test_masks_of_a_backbone_of_unknown_threshold(cuts3d: Callable[..., Ran], alone: Path, test_vit: Path):
    (base,) = pack_photos(alone, 2)
    network = ("pseudo", "--backbone", "timm:test_vit", "--weights", test_vit, "--size", 96, "--device", "cpu", "-j", 0)
    network = (*network, "--shards", base, "--method", "maskcut", "--no-crf")
    ran = cuts3d(*network)
    assert ran.code == 2, ran
    assert ran.line.startswith(
        "cuts3d: --tau-ncut has no known value for timm:test_vit: over 2 photos, 5/25/50/75/95 %"
    )
    tau = ran.line.rpartition("or --tau-ncut auto takes ")[2]
    assert 0 < float(tau) < 1
    ran = cuts3d(*network, "--tau-ncut", "auto")
    assert ran.code in (0, 3), ran
    assert f"--tau-ncut auto is --tau-ncut {tau}, which keeps " in ran.err
    manifest = json.loads((alone / "s-000.pseudo.json").read_text())
    assert manifest["config"]["pseudo"]["tau_ncut"] == float(tau)
    assert manifest["config"]["features"] == {"backbone": "timm:test_vit", "size": 96}
    assert "edge_share" not in manifest["config"]["pseudo"]
    # The same as by the number
    again = cuts3d(*network, "--tau-ncut", tau)
    assert "1 up to date" in again.err or "skipped" in again.err + again.out, again
    assert cuts3d(*network, "--tau-ncut", "most").code == 2


def test_features_of_another_tensor(cuts3d: Callable[..., Ran], alone: Path, test_vit: Path):
    (base,) = pack_photos(alone, 1)
    network = ("features", "--backbone", "timm:test_vit", "--weights", test_vit, "--size", 96, "--device", "cpu")
    assert cuts3d(*network, "--shards", base, "--set", "tensor=keys").code == 0
    assert records(sidecar(base, "features"), "features.json")["p0"]["tensor"] == "keys"
    ran = cuts3d("pseudo", *network[1:], "--shards", base, "--method", "maskcut", "--tau-ncut", "0.3")
    assert (ran.code, "holds features of keys of timm:test_vit at 96, this run asks for timm:test_vit" in ran.err) == (
        1,
        True,
    )


def test_weights_of_open_names_are_listed_and_verified(cuts3d: Callable[..., Ran], alone: Path, test_vit: Path):
    pulled = cuts3d("weights", "pull", "timm:test_vit", "--from", test_vit)
    assert pulled.code == 0, pulled
    assert Path(pulled.out.strip()).name == "timm--test_vit.safetensors"
    listed = {item["name"]: item for item in json.loads(cuts3d("weights", "list", "--json").out)}
    assert (listed["timm:test_vit"]["path"], listed["timm:test_vit"]["patch"]) == (pulled.out.strip(), 16)
    assert f"{pulled.out.strip()}: ok" in cuts3d("weights", "verify").out
    assert np.isfinite(listed["timm:test_vit"]["size"])
