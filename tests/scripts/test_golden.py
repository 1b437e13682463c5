"""Records of what the commands write: what is recorded, and what a comparison finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scenes.files import write_coco, write_photo
from stress import golden
from tests.support.photos import two_boxes
from tests.support.running import Ran


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch, cuts3d: Callable[..., Ran]) -> None:
    def run(*arguments: object, folder: Path, environment: object) -> str:
        monkeypatch.chdir(folder)
        ran = cuts3d(*arguments)
        assert ran.code == 0, ran.err
        return ran.out

    monkeypatch.setattr(golden, "cuts3d", run)


def test_a_record_equals_itself_and_a_change_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "golden.json"
    assert golden.main(["record", str(file), "--parts", "options"]) == 0
    content = json.loads(file.read_text())
    assert "--tau-knn" in content["options"]["pseudo: options"]
    assert ".pseudo.tau_knn" in content["options"]["config: --json keys"]
    assert golden.main(["compare", str(file)]) == 0
    assert f"all {len(content['options'])} entries are equal" in capsys.readouterr().out

    content["options"]["pseudo: options"].remove("--tau-knn")
    content["options"]["pseudo: options"].append("--old")
    content["options"]["gone"] = 1
    file.write_text(json.dumps(content))
    assert golden.main(["compare", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "options: gone: missing now" in lines
    assert "options: pseudo: options: without --old; with --tau-knn" in lines
    assert lines[-1] == "2 differences"


def test_shards_are_recorded_by_digest_and_configuration(tmp_path: Path):
    recorder = golden.Recorder(tmp_path)
    scene = two_boxes()
    for part in ("images", "depth"):
        (tmp_path / part).mkdir()
    write_photo(tmp_path, "p.png", scene.image, scene.depth.astype(np.float32) / 1000)
    write_coco(tmp_path / "annotations.json", [("p.png", scene.boxes[0].shape, [])])
    recorder.run("pack", "images", "--depth-dir", "depth", "--out", "shards", "--name", "s")
    recorder.note_keys("depth", "--shards", "shards", "--backend", "sensor")
    recorder.note_shards("a")
    tars = {name: value for name, value in recorder.record.items() if name.endswith(".tar")}
    assert sorted(tars) == ["a: s-000.depth.tar", "a: s-000.tar"]
    assert all(len(digest) == 64 for digest in tars.values())
    assert recorder.record["a: s-000.depth.json: counts"]["samples_out"] == 1
    assert ".counts.samples_out" in recorder.record["depth: --json keys"]

    recorder.run(
        "depth",
        "--shards",
        "shards",
        "--backend",
        "sensor",
        "--set",
        "max_image_pixels=1000000",
        "--if-exists",
        "replace",
    )
    before = dict(recorder.record)
    recorder.note_shards("a")
    found = golden.differences({"masks": before}, {"masks": recorder.record})
    assert any(line.startswith("masks: a: s-000.depth.json: configuration hash: ") for line in found)
    assert not any("s-000.tar" in line for line in found)


def test_keys_of_json_with_their_places():
    value = {"a": {"b": 1}, "c": [{"d": 1}, {"e": [[{"f": 0}]]}], "g": "text"}
    assert golden.keys(value) == [".a", ".a.b", ".c", ".c[].d", ".c[].e", ".c[].e[][].f", ".g"]


def test_unknown_parts_are_refused(tmp_path: Path):
    with pytest.raises(SystemExit, match="2"):
        golden.main(["record", str(tmp_path / "x.json"), "--parts", "everything"])
