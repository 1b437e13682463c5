"""A depth network costs two files: one with the network, and the catalogue with one entry more.

The first of them is this one. The network takes the brightness of a photo for its disparity, times a gain that is its
weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from cuts3d_cli.config import DepthConfig
from cuts3d_cli.depth import catalogue
from cuts3d_cli.depth.base import DepthBackend, DepthSpec
from cuts3d_cli.devices import NetworkPrecision, on_cuda
from cuts3d_cli.errors import WeightsError
from cuts3d_cli.shards.names import sidecar
from cuts3d_cli.weights.checkpoint import load_into, read_tensors
from tests.support.photos import pack_photos, records
from tests.support.running import Ran

OWN_PLACE = Path("fake-weights.safetensors")


class Brightness(DepthBackend):
    def __init__(self, spec: DepthSpec, *, gain: float) -> None:
        self.spec = spec
        self.gain = gain

    def predict(self, images: Sequence[NDArray[np.uint8]], *, max_side: int) -> list[NDArray[np.float32]]:
        return [self.gain * image.mean(axis=2, dtype=np.float32)[:max_side, :max_side] for image in images]


def find_fake(spec: DepthSpec) -> Path | None:
    return OWN_PLACE if OWN_PLACE.exists() else None


def load_fake(spec: DepthSpec, *, config: DepthConfig, device: str, precision: NetworkPrecision) -> Brightness:
    assert precision == ("float16" if on_cuda(device) else "float32")
    weights = config.weights or find_fake(spec)
    if weights is None:
        raise WeightsError(f"weights of {spec.name} are missing: ", *spec.way_out)
    layer = nn.Linear(1, 1, bias=False)
    load_into(layer, read_tensors(weights), what=spec.name, path=weights)
    return Brightness(spec, gain=layer.weight.item())


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> DepthSpec:
    spec = DepthSpec(
        name="fake",
        model="brightness",
        direction="disparity",
        unit="relative",
        input_size="any",
        licence="none",
        extra=None,
        weights_hint=("write one number into a file",),
        find=find_fake,
        load=load_fake,
    )
    monkeypatch.setitem(catalogue.DEPTHS, spec.name, spec)
    return spec


def write_weights(path: Path, gain: float = 2.0) -> Path:
    save_file({"weight": torch.full((1, 1), gain)}, path)
    return path


def test_depth_by_the_command_line(cuts3d: Callable[..., Ran], alone: Path, fake: DepthSpec):
    (base,) = pack_photos(alone, 2, with_depth=False)
    weights = write_weights(alone / "gain.safetensors")
    ran = cuts3d("depth", "--backend", "fake", "--weights", weights, "--shards", base)
    assert ran.code == 0, ran
    facts = records(sidecar(base, "depth"), "depth.json")["p0"]
    expected = {"backend": "fake", "model": "brightness", "direction": "disparity", "unit": "relative"}
    assert {name: facts[name] for name in expected} == expected
    # The name may stand in the file of the configuration, too
    (alone / "cuts3d.toml").write_text('[depth]\nbackend = "fake"\nweights = "gain.safetensors"\n')
    ran = cuts3d("depth", "--shards", base, "--json")
    assert [item["status"] for item in json.loads(ran.out)["shards"]] == ["skipped"]
    # Other weights give other values, so the shard is done again where the user says so
    write_weights(weights, 3.0)
    ran = cuts3d("depth", "--shards", base, "--json")
    note, error = ran.err.splitlines()
    assert note.startswith("the photos have depth maps, which fake does not use")
    assert (ran.code, "--if-exists replace" in error) == (2, True)
    ran = cuts3d("depth", "--shards", base, "--if-exists", "replace", "--json")
    assert [item["status"] for item in json.loads(ran.out)["shards"]] == ["done"]
    again = records(sidecar(base, "depth"), "depth.json")["p0"]
    assert again["max"] == pytest.approx(1.5 * facts["max"])


def test_it_draws_a_photo(cuts3d: Callable[..., Ran], alone: Path, fake: DepthSpec, weights: Path):
    pack_photos(alone, 1, with_depth=False)
    gain = write_weights(alone / "gain.safetensors")
    backbone = ("--backbone", "dino-vits16", "--size", 224, "--weights", weights, "--device", "cpu", "-j", 0)
    ran = cuts3d(
        "viz", alone / "source/photos/p0.jpg", "--backend", "fake", "--depth-weights", gain, *backbone, "--json"
    )
    assert ran.code == 0, ran
    assert not [note for note in json.loads(ran.out)["notes"] if "2D" in note]


def test_its_weights_are_found_and_missed_as_those_of_the_others(
    cuts3d: Callable[..., Ran], alone: Path, fake: DepthSpec
):
    (base,) = pack_photos(alone, 1, with_depth=False)

    def doctor() -> str:
        return {item["what"]: item["found"] for item in json.loads(cuts3d("doctor", "--json").out)}["fake"]

    assert doctor() == "not here: write one number into a file"
    ran = cuts3d("depth", "--backend", "fake", "--shards", base)
    assert (ran.code, ran.err.splitlines()[-1]) == (
        1,
        "cuts3d: weights of fake are missing: write one number into a file",
    )
    ran = cuts3d("depth", "--backend", "fake", "--weights", "none.pt", "--shards", base)
    assert (ran.code, "none.pt: no such file" in ran.line) == (1, True)
    assert "write one number into a file" in ran.line
    write_weights(OWN_PLACE)
    assert doctor() == str(OWN_PLACE)
    assert cuts3d("depth", "--backend", "fake", "--shards", base).code == 0


@pytest.mark.parametrize("how", ["option", "--set", "variable", "file"])
@pytest.mark.parametrize("command", ["depth", "viz"])
def test_a_name_that_is_not_in_the_catalogue_lists_those_that_are(
    cuts3d: Callable[..., Ran],
    alone: Path,
    fake: DepthSpec,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    command: str,
):
    words = [command, *(["photo.jpg"] if command == "viz" else ["--shards", "nowhere.tar"])]
    if how == "option":
        words += ["--backend", "zoe"]
    elif how == "--set":
        words += ["--set", "depth.backend=zoe"]
    elif how == "variable":
        monkeypatch.setenv("CUTS3D_DEPTH_BACKEND", "zoe")
    else:
        (alone / "cuts3d.toml").write_text('[depth]\nbackend = "zoe"\n')
    ran = cuts3d(*words)
    assert ran.code == 2
    for name in ("'zoe'", *catalogue.DEPTHS):
        assert name in ran.line


def test_the_help_page_lists_the_catalogue(cuts3d: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "600")  # no name is broken
    for command in ("depth", "viz"):
        page = "".join(cuts3d(command, "--help").out.replace("│", " ").split())
        assert f"[{'|'.join(catalogue.DEPTHS)}|hf:...]" in page
