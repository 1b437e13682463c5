from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cuts3d_cli.detector.resnet import RESNETS
from cuts3d_cli.errors import UsageError
from cuts3d_cli.features.catalogue import BACKBONES, backbone_spec
from cuts3d_cli.inspection.weights import all_weights, weights_spec
from tests.support.running import Ran


def test_weights_are_known_by_names_of_their_own() -> None:
    assert list(all_weights()) == [*BACKBONES, *RESNETS]
    assert len(all_weights()) == len(BACKBONES) + len(RESNETS)
    assert weights_spec("dino-resnet50") is RESNETS["dino-resnet50"]
    assert weights_spec("dino-vitb8") is BACKBONES["dino-vitb8"]
    known = r"choose one of dino-vitb8, .*, dino-resnet50, zoedepth, .*, timm:NAME"
    with pytest.raises(UsageError, match=rf"unknown network 'resnet50': {known}"):
        weights_spec("resnet50")
    with pytest.raises(UsageError, match="unknown backbone 'dino-resnet50'"):  # it gives no features to cut
        backbone_spec("dino-resnet50")


def listed(cuts3d: Callable[..., Ran]) -> dict[str, str | None]:
    return {item["name"]: item["path"] for item in json.loads(cuts3d("weights", "list", "--json").out)}


def zoedepth_folder(folder: Path) -> Path:
    """A folder as `hf download` leaves it, with weights that are none."""
    (folder / ".cache/huggingface").mkdir(parents=True)
    (folder / ".cache/huggingface/lock").touch()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"not looked at")
    return folder


def test_a_depth_network_is_pulled_from_a_folder(cuts3d: Callable[..., Ran], alone: Path) -> None:
    folder = zoedepth_folder(alone / "zoe")
    ran = cuts3d("weights", "pull", "zoedepth", "--from", folder)
    assert ran.code == 0, ran.err
    assert "zoe could not be checked, since no digest of these weights is known" in ran.err
    place = Path(ran.out.strip())
    assert place.is_relative_to(alone.parent / "hub/models--Intel--zoedepth-nyu-kitti")
    assert sorted(path.name for path in place.iterdir()) == ["config.json", "model.safetensors"]
    # It is found by whoever looks for it, without the hub.
    assert listed(cuts3d)["zoedepth"] == str(place)
    found = {item["what"]: item["state"] for item in json.loads(cuts3d("doctor", "--preset", "paper", "--json").out)}
    assert found["depth: zoedepth"] == "ok"
    assert "are here already" in cuts3d("weights", "pull", "zoedepth").err


@pytest.mark.parametrize(
    ("name", "source", "problem"),
    [
        ("zoedepth", "empty", "empty is a folder without model.safetensors or pytorch_model.bin"),
        ("zoedepth", "file", "file is no folder, and zoedepth loads one"),
        ("zoedepth", None, "weights of zoedepth are not in the cache and the hub is switched off by HF_HUB_OFFLINE"),
        ("midas-small", "empty", "empty is no file"),
        ("midas-small", None, "weights of midas-small are not here and downloads are switched off by HF_HUB_OFFLINE"),
        ("kbr", "file", "kbr is kept in no cache: give its file or folder by --depth-weights"),
    ],
)
def test_what_is_no_depth_network(
    cuts3d: Callable[..., Ran], alone: Path, name: str, source: str | None, problem: str
) -> None:
    (alone / "empty").mkdir()
    (alone / "file").touch()
    ran = cuts3d("weights", "pull", name, *(["--from", source] if source else []))
    assert ran.code == 1
    assert ran.line.startswith(f"cuts3d: {problem}")


def test_midas_is_pulled_from_a_file(cuts3d: Callable[..., Ran], alone: Path) -> None:
    (alone / "m.pt").write_bytes(b"weights")
    ran = cuts3d("weights", "pull", "midas-small", "--from", "m.pt")
    assert ran.code == 0
    assert f"its sha256 is {hashlib.sha256(b'weights').hexdigest()}" in ran.err
    place = alone.parent / "torch/hub/checkpoints/midas_v21_small_256.pt"
    assert (ran.out.strip(), place.read_bytes()) == (str(place), b"weights")


def test_files_of_the_hub_are_checked_against_what_it_declared(cuts3d: Callable[..., Ran], alone: Path) -> None:
    """The hub's client names a file by the digest that the server declared, and links to it."""
    repo = alone.parent / "hub/models--Intel--zoedepth-nyu-kitti"
    snapshot = repo / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "blobs").mkdir()
    (repo / "refs/main").write_text("a" * 40)
    (snapshot / "config.json").write_text("{}")
    blob = repo / "blobs" / hashlib.sha256(b"right").hexdigest()
    blob.write_bytes(b"right")
    (snapshot / "model.safetensors").symlink_to(blob)
    ran = cuts3d("weights", "verify")
    assert (ran.code, ran.out) == (0, f"{snapshot / 'model.safetensors'}: ok\n")
    blob.write_bytes(b"wrong")
    ran = cuts3d("weights", "verify", "--json")
    assert ran.code == 1
    (check,) = json.loads(ran.out)
    assert check["problem"].startswith("is damaged (sha256 ")


def test_a_file_without_a_known_digest_is_said_to_be_unchecked(cuts3d: Callable[..., Ran], weights: Path) -> None:
    ran = cuts3d("weights", "pull", "dino-vits16", "--from", weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert ran.code == 0
    assert f"{weights} could not be checked, since no digest of these weights is known: its tensors fit" in ran.err
    assert digest in ran.err
