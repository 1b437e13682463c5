from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cuts3d_cli.errors import FileError, OccupiedError, SettingError, ShardError
from cuts3d_cli.exports.exporting import Exported, Request, export
from cuts3d_cli.exports.formats import FORMATS, Format
from cuts3d_cli.exports.options import Options
from cuts3d_cli.exports.output import Output
from cuts3d_cli.exports.photos import FoundPhoto
from cuts3d_cli.files import temporary_name
from cuts3d_cli.shards.names import sidecar
from tests.support.found import FOUND, PARTS, PLAIN, RING, cut, detect, score, with_masks
from tests.support.running import Ran


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def exported(shards: list[Path], to: str, out: Path, **more: Any) -> Exported:
    return export(shards, Request(to=to, out=out, **more))


@pytest.mark.parametrize("to", FORMATS)
def test_every_format_counts_alike_is_deterministic_and_leaves_the_shards_alone(tmp_path: Path, to: str):
    shards = with_masks(tmp_path, shard_size=2)
    before = state_of(tmp_path / "shards")
    lines: list[str] = []
    report = export(shards, Request(to=to, out=tmp_path / "out"), say=lambda line: lines.append(str(line)))
    assert (report.photos, report.instances, report.empty, report.failed, report.below) == (3, 4, 1, 1, 0)
    assert "warning: 1 photo failed in `cuts3d pseudo` and is left out: failed" in lines
    assert report.written == len(files_in(tmp_path / "out")) > 0
    again = exported(shards, to, tmp_path / "again")
    assert files_in(tmp_path / "again") == files_in(tmp_path / "out")
    assert again.to_json() | {"out": ""} == report.to_json() | {"out": ""}
    # Run once more over the same files, it writes nothing.
    written = state_of(tmp_path / "out")
    same = exported(shards, to, tmp_path / "out")
    assert (same.written, same.same) == (0, report.written)
    assert state_of(tmp_path / "out") == written
    assert state_of(tmp_path / "shards") == before


@pytest.mark.parametrize("to", FORMATS)
def test_files_of_another_content_are_never_replaced_without_a_word(tmp_path: Path, to: str):
    shards = with_masks(tmp_path)
    exported(shards, to, tmp_path / "out")
    whole = files_in(tmp_path / "out")
    name = next(name for name in whole if name.endswith((".json", ".png", ".npz", ".xml", ".txt")))
    (tmp_path / "out" / name).write_bytes(b"mine")
    with pytest.raises(
        OccupiedError, match=r"is there with another content: choose another out, or set if_exists='overwrite'"
    ):
        exported(shards, to, tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == b"mine"
    with pytest.raises(OccupiedError, match="is there: choose another out"):
        exported(shards, to, tmp_path / "out", if_exists="fail")
    assert exported(shards, to, tmp_path / "out", if_exists="overwrite").written == 1
    assert files_in(tmp_path / "out") == whole


def test_an_export_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shards = with_masks(tmp_path)
    exported(shards, "png", tmp_path / "out")
    whole = files_in(tmp_path / "out")
    (tmp_path / "out/instances.csv").unlink()
    (tmp_path / "out/sub/a-003.png").unlink()
    # A process that was killed has left a temporary file.
    left = temporary_name(tmp_path / "out/sub/a-003.png")
    dead = left.with_name(left.name.replace(f"-{os.getpid()}-", "-4194303-"))
    dead.write_bytes(b"half")
    report = exported(shards, "png", tmp_path / "out")
    assert (report.written, report.same) == (2, len(whole) - 2)
    assert files_in(tmp_path / "out") == whole


def test_what_interrupts_an_export_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shards = with_masks(tmp_path, shard_size=2)
    sidecar(shards[1], "pseudo").write_bytes(b"")
    for to in ("coco", "png"):
        with pytest.raises(ShardError):
            exported(shards, to, tmp_path / to)
        assert not (tmp_path / to).exists()


def test_scores_are_the_confidence_where_there_is_one(tmp_path: Path):
    (base,) = with_masks(tmp_path)
    scores_of = lambda: [item["score"] for item in json.loads((tmp_path / "m.json").read_text())["annotations"]]  # noqa: E731
    exported([base], "coco", tmp_path / "m.json")
    assert scores_of() == [1, 1, 1, 1]
    with pytest.raises(SettingError, match="min_score has no effect on masks without scores: run `cuts3d confidence`"):
        exported([base], "coco", tmp_path / "m.json", min_score=0.5)
    score(base, FOUND, {"sub/a.jpg": [0.9, 0.2, 0.6], "sub/c\u00e9.PNG": None, "empty.jpg": []})
    report = exported([base], "coco", tmp_path / "m.json", if_exists="overwrite")
    assert (scores_of(), report.unscored) == ([0.9, 0.2, 0.6, 0], 1)
    report = exported([base], "coco", tmp_path / "m.json", if_exists="overwrite", min_score=0.6)
    assert (scores_of(), report.instances, report.below, report.empty) == ([0.9, 0.6], 2, 2, 2)


def test_detections_and_rounds_of_self_training_are_exported_too(tmp_path: Path):
    (base,) = with_masks(tmp_path)
    detect(base, {"sub/a.jpg": [(RING, 0.75), (PLAIN, 0.25)], "empty.jpg": [(PARTS, 0.5)]})
    detect(base, {"empty.jpg": [(PLAIN, 0.125)]}, stage="predict.initial")
    cut(base, {"sub/a.jpg": [PLAIN]}, stage="pseudo.st1")
    out = tmp_path / "results.json"

    def found(**more: Any) -> list[float]:
        exported([base], "coco-results", out, if_exists="overwrite", **more)
        return [item["score"] for item in json.loads(out.read_text())]

    assert found(source="detections") == [0.5, 0.75, 0.25]
    assert found(source="detections", min_score=0.5) == [0.5, 0.75]
    assert found(source="detections", generation="initial") == [0.125]
    assert found(generation="st1") == [1]
    with pytest.raises(ShardError, match=r"s-000\.predict\.st1\.tar is missing"):
        found(source="detections", generation="st1")


def test_classes_of_a_detector_are_kept_or_counted(tmp_path: Path):
    (base,) = with_masks(tmp_path)
    detect(base, {"sub/a.jpg": [(RING, 0.75, 4), (PLAIN, 0.25, 0)]})
    exported([base], "coco", tmp_path / "m.json", source="detections")
    assert [item["class_id"] for item in json.loads((tmp_path / "m.json").read_text())["annotations"]] == [4, 0]
    exported([base], "numpy", tmp_path / "arrays", source="detections")
    with np.load(tmp_path / "arrays/sub/a.npz") as arrays:
        assert arrays["classes"].tolist() == [4, 0]
    report = exported([base], "cvat", tmp_path / "cvat", source="detections")
    assert report.changed == {"instances whose class has no place in this format": 2}


def test_nothing_is_written_where_there_is_nothing_to_export(tmp_path: Path):
    (base,) = with_masks(tmp_path, {"a.jpg": [], "b.jpg": None})
    for to in FORMATS:
        with pytest.raises(FileError, match=r"there is no instance to export \(1 photo, 1 failed, 0 instances below"):
            exported([base], to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("to", "option", "value"),
    [
        ("png", "category", "thing"),
        ("numpy", "tolerance", 2.0),
        ("coco", "tolerance", 2.0),
        ("numpy", "photos", True),
        ("coco", "photo_prefix", "x"),
        ("labelmap", "photos", False),
    ],
)
def test_an_option_without_effect_is_refused(tmp_path: Path, to: str, option: str, value: Any):
    shards = with_masks(tmp_path)
    with pytest.raises(SettingError, match=f"{option} has no effect on the format {to}"):
        exported(shards, to, tmp_path / "out", **{option: value})


def test_impossible_requests_are_refused(tmp_path: Path):
    shards = with_masks(tmp_path)
    refused = [
        ("svg", tmp_path / "out", {}, r"to is 'svg': choose one of coco, "),
        ("png", tmp_path / "shards", {}, r"out is .*shards, the folder of the shards"),
        ("label-studio", tmp_path / "x.json", {}, "a file: the format label-studio needs a folder"),
        ("png", shards[0], {}, "a file: the format png needs a folder"),
        ("coco", tmp_path / "x.json", {"photos": True}, r"a file: name a folder, for the photos and annotations\.json"),
        ("yolo", tmp_path / "out", {"tolerance": -1.0}, "tolerance is -1.0"),
        ("yolo", tmp_path / "out", {"category": " "}, "category is empty"),
    ]
    for to, out, more, words in refused:
        with pytest.raises(SettingError, match=words):
            exported(shards, to, out, **more)


def test_photos_of_one_name_are_kept_apart(tmp_path: Path):
    shards = with_masks(tmp_path, {"a.jpg": [PLAIN], "A.jpg": [PARTS]})
    exported(shards, "numpy", tmp_path / "out")
    names = sorted(files_in(tmp_path / "out"))
    assert (names[0], len({name.lower() for name in names})) == ("A.npz", 2)


def test_without_shards_manifest_or_ids_photos_are_counted(tmp_path: Path):
    for name in ("one", "two"):
        with_masks(tmp_path / name, {"x.jpg": [PLAIN]})
    shards = [tmp_path / name / "shards/s-000.tar" for name in ("one", "two")]
    exported(shards, "coco", tmp_path / "m.json")
    content = json.loads((tmp_path / "m.json").read_text())
    assert [(item["id"], item["file_name"]) for item in content["images"]] == [(1, "x.jpg"), (2, "x.jpg")]


def write_names(photos: Iterable[FoundPhoto], out: Output, options: Options) -> Mapping[str, int]:
    with out.open(options.file) as file:
        for photo in photos:
            file.write(f"{photo.file}: {len(photo.instances)} {options.category}\n".encode())
    return {}


def test_a_new_format_is_a_function_and_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    form = Format(
        name="names",
        writes="a list",
        function=f"{__name__}:write_names",
        file="names.txt",
        one_file=True,
        takes=frozenset({"category"}),
    )
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__, SimpleNamespace(write_names=write_names)))
    monkeypatch.setitem(FORMATS, "names", form)  # type: ignore[arg-type]
    exported(with_masks(tmp_path), "names", tmp_path / "n.txt", category="things")
    assert (tmp_path / "n.txt").read_text(encoding="utf-8").splitlines() == [
        "empty.jpg: 0 things",
        "sub/a.jpg: 3 things",
        "sub/c\u00e9.PNG: 1 things",
    ]


# ---------------------------------------------------------------------------------------------- the command


def test_the_command(cuts3d: Callable[..., Ran], alone: Path):
    with_masks(alone)
    ran = cuts3d("export", "shards", "--to", "labelmap", "--out", "maps", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert (report["photos"], report["instances"], report["failed"]) == (3, 4, 1)
    assert report["changed"] == {"instances that others hide in part": 1}
    assert "1 instance that others hide in part" in ran.err
    ran = cuts3d("export", "--shards", "shards", "--to", "labelmap", "--out", "maps")
    assert ran.code == 0
    assert "files that were there, the same" in ran.out
    ran = cuts3d("export", "shards", "--to", "png", "--out", "maps", "--tolerance", "1")
    assert (ran.code, ran.line) == (
        2,
        "cuts3d: --tolerance has no effect on the format png: leave it out",
    )
    (alone / "maps/sub/a.png").write_bytes(b"mine")
    ran = cuts3d("export", "shards", "--to", "labelmap", "--out", "maps")
    assert ran.code == 2
    assert ran.line.endswith("choose another --out, or set --if-exists overwrite to replace it")
    assert cuts3d("export", "shards", "--to", "svg", "--out", "x").code == 2


def test_the_old_option_writes_the_same_file(cuts3d: Callable[..., Ran], alone: Path):
    with_masks(alone)
    ran = cuts3d("pseudo", "--shards", "shards", "--export-coco", "old.json")
    assert ran.code == 0, ran.err
    assert cuts3d("export", "shards", "--to", "coco", "--out", "new.json").code == 0
    assert Path("old.json").read_bytes() == Path("new.json").read_bytes()
