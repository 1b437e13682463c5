from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models

from cuts3d_cli.config import PRESETS, TrainConfig
from cuts3d_cli.detector.model import build_model
from cuts3d_cli.detector.resnet import RESNETS, load_resnet, torchvision_name
from cuts3d_cli.errors import HubUnreachableError, WeightsError
from cuts3d_cli.weights.cache import pull


def bottom_up(**changes: Any) -> torch.nn.Module:
    config: TrainConfig = replace(PRESETS["tiny"].train, **changes)
    return build_model(config, device="cpu").backbone.bottom_up


def theirs(depth: int) -> torch.nn.Module:
    """torchvision's ResNet in which every number is random."""
    torch.manual_seed(0)
    network = getattr(models, f"resnet{depth}")().eval()
    with torch.no_grad():
        for name, value in (*network.named_buffers(), *network.named_parameters()):
            if name.endswith(("running_mean", "running_var")) or (value.dim() == 1 and "weight" in name):
                value.uniform_(0.5, 1.5)
    return network


def features(network: Any, image: torch.Tensor) -> dict[str, torch.Tensor]:
    found = {}
    with torch.no_grad():
        at = network.maxpool(network.relu(network.bn1(network.conv1(image))))
        for level in range(1, 5):
            at = getattr(network, f"layer{level}")(at)
            found[f"res{level + 1}"] = at
    return found


@pytest.fixture(scope="module")
def resnet50() -> torch.nn.Module:
    return theirs(50)


@pytest.mark.parametrize(("depth", "norm"), [(50, "BN"), (50, "FrozenBN"), (18, "BN"), (34, "BN")])
def test_features_are_those_of_torchvision(depth: int, norm: str, tmp_path: Path):
    network = theirs(depth)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    ours = bottom_up(resnet_depth=depth, norm=norm)
    assert load_resnet(ours, str(tmp_path / "a.pth"), say=pytest.fail) == tmp_path / "a.pth"
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found = ours.eval()(image)
    for name, wanted in features(network, image).items():
        assert torch.allclose(found[name], wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max())), name


def test_names():
    names = {
        "stem.conv1.weight": "conv1.weight",
        "stem.conv1.norm.running_var": "bn1.running_var",
        "res2.0.conv3.norm.weight": "layer1.0.bn3.weight",
        "res2.0.shortcut.weight": "layer1.0.downsample.0.weight",
        "res5.2.conv2.weight": "layer4.2.conv2.weight",
        "res5.0.shortcut.norm.bias": "layer4.0.downsample.1.bias",
    }
    assert {name: torchvision_name(name) for name in names} == names


def test_another_network_is_refused_in_brief(tmp_path: Path, resnet50: torch.nn.Module):
    torch.save(theirs(18).state_dict(), tmp_path / "r18.pth")
    ours = bottom_up(resnet_depth=50)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(
        WeightsError, match=r"r18\.pth does not fit the detector's ResNet: \d+ tensors missing"
    ) as error:
        load_resnet(ours, str(tmp_path / "r18.pth"), say=pytest.fail)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    torch.save(resnet50.state_dict(), tmp_path / "r50.pth")
    with pytest.raises(WeightsError, match=r"r50\.pth does not fit the detector's ResNet"):
        load_resnet(bottom_up(resnet_depth=18), str(tmp_path / "r50.pth"), say=pytest.fail)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_no_file_is_told_with_what_may_be_given():
    with pytest.raises(
        WeightsError, match=r"none\.pth does not exist: train\.backbone_weights takes dino-resnet50, random"
    ):
        load_resnet(bottom_up(), "none.pth", say=pytest.fail)


def test_dinos_resnet_comes_from_the_cache(alone: Path, cuts3d: Callable[..., Any], resnet50: torch.nn.Module):
    ours = bottom_up(resnet_depth=50)
    with pytest.raises(HubUnreachableError, match=r"HF_HUB_OFFLINE: .*cuts3d weights pull dino-resnet50 --from FILE"):
        load_resnet(ours, "dino-resnet50", say=pytest.fail)
    torch.save(resnet50.state_dict(), "dino.pth")
    path = pull(RESNETS["dino-resnet50"], from_file=Path("dino.pth"))
    assert load_resnet(ours, "dino-resnet50", say=pytest.fail) == path
    assert torch.equal(ours.state_dict()["res5.2.conv3.weight"], resnet50.layer4[2].conv3.weight)
