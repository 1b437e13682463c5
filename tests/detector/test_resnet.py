from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import re
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision import models

from cuts3d_cli.detector.resnet import RESNETS, ResNetSpec, expected_shapes, fit_resnet
from cuts3d_cli.errors import HubUnreachableError, WeightsError
from cuts3d_cli.weights import cache as weights
from cuts3d_cli.weights.checkpoint import read_tensors
from cuts3d_cli.weights.specs import UrlSource

State = dict[str, torch.Tensor]
EXPECTED = expected_shapes(18)


@pytest.fixture(scope="module")
def state() -> State:
    """Weights of a ResNet-18."""
    return models.resnet18().state_dict()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, state: State, tmp_path: Path) -> ResNetSpec:
    """A ResNet-18 in place of DINO's ResNet-50, at an address that is a file here."""
    torch.save(state, tmp_path / "small.pth")
    spec = dataclasses.replace(
        RESNETS["dino-resnet50"], depth=18, source=UrlSource(url=(tmp_path / "small.pth").as_uri())
    )
    monkeypatch.setitem(RESNETS, spec.name, spec)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return spec


def fit(tensors: State) -> State:
    return fit_resnet(tensors, expected=EXPECTED, what="the ResNet", path=Path("w.pth"))


def behind(prefix: str, tensors: State) -> State:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def assert_fits(found: State, wanted: State) -> None:
    assert list(found) == list(EXPECTED)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


def test_expected_shapes() -> None:
    assert EXPECTED["conv1.weight"] == (64, 3, 7, 7)
    assert EXPECTED["layer4.1.bn2.running_var"] == (512,)
    assert not [name for name in EXPECTED if name.startswith("fc.") or "num_batches" in name]
    assert len(expected_shapes(50)) == 265  # 53 convolutions, each with the four tensors of its batch norm


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.encoder_q.", "module.base_encoder."])
def test_prefixes_and_heads_go(prefix: str, state: State) -> None:
    heads = {"projector.0.weight": torch.zeros(2, 2), prefix + "fc.2.bias": torch.zeros(2)}
    assert_fits(fit({**heads, **behind(prefix, state)}), state)


@pytest.mark.parametrize(
    ("first", "second"),
    [("module.encoder_q.", "module.encoder_k."), ("module.base_encoder.", "module.momentum_encoder.")],
)
def test_of_mocos_two_networks_it_is_the_trained_one(first: str, second: str, state: State) -> None:
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    assert_fits(fit({**behind(second, other), **behind(first, state)}), state)
    assert_fits(fit(behind(second, state)), state)


def detectron2_name(name: str) -> str:
    """The other way round than `torchvision_name`."""
    name = re.sub(r"^layer([1-4])\.", lambda match: f"res{int(match[1]) + 1}.", name)
    name = re.sub(r"\bbn([1-3])\.", r"conv\1.norm.", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return name if name.startswith("res") else f"stem.{name}"


@pytest.mark.parametrize("prefix", ["", "backbone.bottom_up.", "module.backbone.bottom_up."])
def test_names_of_detectron2(prefix: str, state: State) -> None:
    theirs = {detectron2_name(name): tensor for name, tensor in state.items() if not name.startswith("fc.")}
    assert "stem.conv1.norm.weight" in theirs
    heads = {"proposal_generator.rpn_head.conv.weight": torch.zeros(2, 2)}
    assert_fits(fit({**heads, **behind(prefix, theirs)}), state)


@pytest.mark.parametrize("name", ["dino_RN50_pretrain_d2_format.pkl", "moco.pth.tar"])
def test_files_of_other_projects(name: str, state: State, tmp_path: Path) -> None:
    if name.endswith(".pkl"):
        model = {detectron2_name(key): tensor.numpy() for key, tensor in state.items() if not key.startswith("fc.")}
        content = {"model": model, "__author__": "CutLER", "matching_heuristics": True}
        (tmp_path / name).write_bytes(pickle.dumps(content))
    else:
        torch.save({"epoch": 800, "state_dict": behind("module.encoder_q.", state)}, tmp_path / name)
    assert_fits(fit(read_tensors(tmp_path / name)), state)


def test_of_dinos_two_networks_it_is_the_teacher(state: State) -> None:
    student = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    assert_fits(fit({**behind("student.backbone.", student), **behind("teacher.backbone.", state)}), state)


def test_checkpoints_without_counters_and_in_half_precision(state: State) -> None:
    halved = {name: tensor.half() for name, tensor in state.items() if "num_batches" not in name}
    found = fit(halved)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert_fits(found, {name: tensor.float() for name, tensor in halved.items()})


def test_others_are_refused_in_one_line(state: State) -> None:
    short = {name: tensor for name, tensor in state.items() if not name.startswith("layer4.1.")}
    with pytest.raises(
        WeightsError, match=r"w\.pth does not fit the ResNet: 10 tensors missing \(layer4\.1\.conv1\.weight, "
    ):
        fit(short)
    # Deeper and otherwise alike: nothing is missing, and yet it is another network.
    with pytest.raises(WeightsError, match=r"tensors unknown \(layer1\.2\.conv1\.weight, .*\.\.\.\)") as error:
        fit(models.resnet34().state_dict())
    assert "missing" not in str(error.value)
    narrow = {**state, "conv1.weight": torch.zeros(64, 3, 3, 3)}
    with pytest.raises(WeightsError, match=r"1 tensors of another shape \(conv1\.weight 64x3x3x3 instead of 64x3x7x7"):
        fit(narrow)
    with pytest.raises(WeightsError, match=r"it holds no layer1\.0\.conv1\.weight; its first tensors are cls_token"):
        fit({"cls_token": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"it holds 2 such networks \(a\., b\.\)"):
        fit({**behind("a.", state), **behind("b.", {name: tensor + 1 for name, tensor in state.items()})})


def test_pull_list_and_verify(cache: Path, small: ResNetSpec, state: State, tmp_path: Path) -> None:
    said: list[str] = []
    path = weights.pull(RESNETS["dino-resnet50"], say=said.append)
    assert path == cache / "dino-resnet50.safetensors"
    assert_fits({name: load_file(path)[name] for name in EXPECTED}, state)
    assert said[0].startswith(f"fetching weights of dino-resnet50 from file://{tmp_path}/small.pth")
    status = next(status for status in weights.list_weights(RESNETS.values()) if status.spec is small)
    assert status.cached is not None
    assert status.cached.source == small.source.url
    assert status.cached.source_sha256 == hashlib.sha256((tmp_path / "small.pth").read_bytes()).hexdigest()
    assert [check.problem for check in weights.verify(RESNETS.values())] == [None]
    (tmp_path / "small.pth").unlink()
    assert weights.resolve_weights(RESNETS["dino-resnet50"], weights=None) == path


def test_pull_from_a_file(cache: Path, small: ResNetSpec, state: State, tmp_path: Path) -> None:
    kept = {name: tensor.clone() for name, tensor in behind("backbone.", state).items()}
    save_file(kept, tmp_path / "own.safetensors")
    path = weights.pull(RESNETS["dino-resnet50"], from_file=tmp_path / "own.safetensors")
    assert_fits({name: read_tensors(path)[name] for name in EXPECTED}, state)
    with pytest.raises(WeightsError, match=r"none\.pth is not a file"):
        weights.pull(RESNETS["dino-resnet50"], from_file=tmp_path / "none.pth")


def test_what_torch_hub_has_is_not_fetched_again(cache: Path, small: ResNetSpec, tmp_path: Path) -> None:
    kept = tmp_path / "torch/hub/checkpoints/small.pth"
    kept.parent.mkdir(parents=True)
    (tmp_path / "small.pth").rename(kept)
    assert weights.pull(RESNETS["dino-resnet50"]).is_file()


def test_a_known_hash_is_checked(cache: Path, small: ResNetSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RESNETS, small.name, dataclasses.replace(small, sha256="a" * 64))
    with pytest.raises(WeightsError, match=r"its sha256 is \w{12}\.\.\. instead of a{12}"):
        weights.pull(RESNETS["dino-resnet50"])


def test_downloads_that_fail_say_what_to_do(
    cache: Path, small: ResNetSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    way_out = r"fetch file://.*small\.pth elsewhere and run `cuts3d weights pull dino-resnet50 --from FILE`"
    (tmp_path / "small.pth").rename(tmp_path / "other.pth")
    with pytest.raises(HubUnreachableError, match=rf"cannot be fetched \(.*No such file.*\): {way_out}"):
        weights.pull(RESNETS["dino-resnet50"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachableError, match=rf"switched off by HF_HUB_OFFLINE: {way_out}"):
        weights.pull(RESNETS["dino-resnet50"])
    assert weights.verify(RESNETS.values()) == []


def test_a_download_that_ends_early_is_no_download(
    cache: Path, small: ResNetSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(url: str, timeout: float) -> io.BytesIO:
        class Answer(io.BytesIO):
            headers: ClassVar = {"Content-Length": "1000"}

        return Answer(b"x" * 400)

    monkeypatch.setattr("urllib.request.urlopen", answer)
    with pytest.raises(WeightsError, match=r"came in part \(400 of 1000 bytes\)"):
        weights.pull(RESNETS["dino-resnet50"])
    assert weights.verify(RESNETS.values()) == []
