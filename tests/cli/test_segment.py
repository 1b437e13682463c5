"""`cuts3d segment`: from photos to masks, pictures and COCO in one command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cuts3d_cli.recipes import segment as recipe
from tests.support.photos import encoded, scene_of, write_photos
from tests.support.running import Ran

FAST = ("--size", "224", "--no-crf", "-j", "0")


@pytest.fixture
def settings(weights: Path) -> tuple[object, ...]:
    """Of a small backbone, and what finds the two boxes with random weights."""
    return ("--backbone", "dino-vits16", "--weights", weights, *FAST)


@pytest.fixture
def photos(alone: Path) -> Path:
    """Three scenes: photos/p0.jpg, ..., maps/p0.png, ..."""
    write_photos(alone, 3)
    return alone


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_command_gives_masks_pictures_and_coco(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]
):
    ran = cuts3d("segment", "photos", "--depth-dir", "maps", "--out", "out", "--json", *settings)
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["photos"] == 3
    assert result["instances"] > 0
    assert result["failed"] == []
    assert result["written"] == {
        "coco": "out/annotations.json",
        "png": "out/masks",
        "pictures": "out/pictures",
    }
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "annotations.json",
        "masks",
        "pictures",
        "segment.json",
    ]
    # The COCO JSON and the PNGs hold the same masks, and scores of Spatial Confidence.
    coco = json.loads(Path("out/annotations.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["p0.jpg", "p1.jpg", "p2.jpg"]
    masks = sorted(Path("out/masks").glob("*.png"))
    assert len(masks) == len(coco["annotations"]) == result["instances"]
    with Image.open(masks[0]) as mask:
        assert np.array(mask).astype(bool).sum() == coco["annotations"][0]["area"]
    assert all(0 < item["score"] <= 1 for item in coco["annotations"])
    assert sorted(path.name for path in Path("out/pictures").iterdir()) == ["p0.jpg", "p1.jpg", "p2.jpg"]
    # The preset is `objects`, since depth is given.
    record = json.loads(Path("out/segment.json").read_text())
    assert record["settings"]["pseudo"]["cloud"] == "perspective"
    assert record["settings"]["depth"]["backend"] == "sensor"


def test_a_second_run_does_nothing_and_says_the_same(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
):
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "out", "--json", *settings)
    first = json.loads(cuts3d(*command).out)
    before = contents(Path("out"))
    monkeypatch.setattr(recipe, "pack", lambda *_, **__: pytest.fail("it worked again"))
    ran = cuts3d(*command)
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out) == {**first, "finished_before": True}
    assert contents(Path("out")) == before


def test_an_interrupted_run_goes_on_and_gives_the_same(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
):
    command = ("segment", "photos", "--depth-dir", "maps", *settings)
    assert cuts3d(*command, "--out", "whole").code == 0
    with monkeypatch.context() as patched:
        patched.setattr(recipe, "draw_all", _fail)
        assert cuts3d(*command, "--out", "out").code == 1
    assert Path("out/.shards/photos-000.pseudo.tar").is_file()
    ran = cuts3d(*command, "--out", "out")
    assert ran.code == 0
    assert "photos-000.tar: finished before, skipped" in ran.err
    whole, out = contents(Path("whole")), contents(Path("out"))
    for found in (whole, out):
        del found["segment.json"]  # names the folder
    assert out == whole


def test_shards_are_kept_where_asked_for(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "out", *settings)
    assert cuts3d(*command, "--keep-shards").code == 0
    assert cuts3d("export", "out/shards", "--to", "numpy", "--out", "arrays").code == 0
    assert len(list(Path("arrays").glob("*.npz"))) == 3
    # Without the option they stay: nobody asked to remove them.
    ran = cuts3d(*command, "--if-exists", "overwrite")
    assert ran.code == 0
    assert Path("out/shards/photos-000.pseudo.tar").is_file()


def test_results_of_other_settings_or_photos_are_replaced_only_where_asked_for(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]
):
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "out", *settings)
    assert cuts3d(*command).code == 0
    before = contents(Path("out"))
    ran = cuts3d(*command, "-n", "1")
    assert ran.code == 2
    way_out = "choose another --out, or set --if-exists replace to remove them"
    assert ran.line == f"cuts3d: out holds results of other settings: {way_out}"
    (photos / "photos/p2.jpg").unlink()
    ran = cuts3d(*command)
    assert ran.line == f"cuts3d: out holds results of other photos or depth maps: {way_out}"
    assert contents(Path("out")) == before
    # What is replaced leaves nothing of before.
    assert cuts3d(*command, "-n", "1", "--if-exists", "replace").code == 0
    assert sorted(path.name for path in Path("out/pictures").iterdir()) == ["p0.jpg", "p1.jpg"]
    assert len(list(Path("out/masks").glob("*.png"))) <= 2
    assert cuts3d(*command, "-n", "1", "--if-exists", "fail").code == 2


def test_files_of_others_are_never_touched(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    Path("out/masks").mkdir(parents=True)
    Path("out/masks/mine.png").touch()
    for how in ("resume", "replace", "overwrite"):
        ran = cuts3d("segment", "photos", "--depth-dir", "maps", "--out", "out", "--if-exists", how, *settings)
        assert ran.code == 1
        assert ran.line.startswith("cuts3d: out/masks is there, and was not written by `cuts3d segment`")
    assert sorted(path.name for path in Path("out").rglob("*")) == ["masks", "mine.png"]


def test_photos_that_fail_are_listed_and_the_others_done(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]
):
    (photos / "photos/p0.jpg").write_bytes(b"\xff\xd8\xff damaged")
    (photos / "maps/p1.png").unlink()
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "out", "--json", *settings)
    for _ in range(2):  # a finished run says the same again
        ran = cuts3d(*command)
        assert ran.code == 3
        result = json.loads(ran.out)
        assert result["photos"] == 1
        assert [(item["file"], item["stage"]) for item in result["failed"]] == [("p0.jpg", "pack"), ("p1.jpg", "depth")]
        assert "failed: p1.jpg: depth: no sensor map is packed with the image" in ran.err
    assert [path.name for path in Path("out/pictures").iterdir()] == ["p2.jpg"]


def test_no_photo_at_all(alone: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    Path("a.jpg").write_bytes(b"\xff\xd8\xff damaged")
    ran = cuts3d("segment", "a.jpg", "--out", "out", "--method", "maskcut", *settings)
    assert ran.code == 3
    assert "warning: no photo could be segmented" in ran.err


def test_without_depth_and_without_a_network_it_cuts_in_2d_and_says_so_once(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]
):
    ran = cuts3d("segment", "photos/p0.jpg", "photos/p1.jpg", "--out", "out", "--json", *settings)
    assert ran.code == 0
    assert ran.err.count("no depth, so the photos are cut in 2D: ") == 1
    assert "; --depth-dir DIR takes maps" in ran.err
    result = json.loads(ran.out)
    assert result["photos"] == 2
    assert len(result["notes"]) == 1


def test_what_the_user_named_never_falls_back(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    ran = cuts3d("segment", "photos", "--out", "out", "--depth-backend", "marigold", *settings)
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("cuts3d: weights of marigold are not in the cache")
    ran = cuts3d("segment", "photos", "--out", "out", "--backbone", "dino-vits8", *FAST)
    assert ran.code == 1
    assert "weights of dino-vits8" in ran.err.splitlines()[-1]
    ran = cuts3d("segment", "photos", "--out", "out", "--depth-backend", "sensor", *settings)
    assert (ran.code, "whose maps are not given: name their folder by --depth-dir" in ran.err) == (2, True)
    ran = cuts3d("segment", "photos", "--out", "out", "--depth-dir", "maps", "--depth-backend", "marigold", *settings)
    assert (ran.code, "which estimates depth, and --depth-dir gives it: leave one out" in ran.err) == (2, True)
    assert list(Path("out").iterdir()) == []


def test_further_formats_and_no_pictures(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    ran = cuts3d(
        *("segment", "photos", "--depth-dir", "maps", "--out", "out", "--no-pictures", "--category", "box"),
        *("--to", "labelmap", "--to", "yolo", *settings),
    )
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in Path("out").iterdir()) == ["labelmap", "segment.json", "yolo"]
    assert "box" in Path("out/yolo/data.yaml").read_text()
    ran = cuts3d("segment", "photos", "--out", "other", "--to", "jpg")
    assert (ran.code, ran.line.startswith("cuts3d: --to is 'jpg': choose one of coco, ")) == (2, True)


def test_a_coco_json_keeps_its_ids(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    images = [{"id": 7 + number, "file_name": f"p{number}.jpg"} for number in range(2)]
    Path("truth.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    command = ("segment", "truth.json", "--images", "photos", "--depth-dir", "maps", "--out", "out", *settings)
    assert cuts3d(*command).code == 0
    coco = json.loads(Path("out/annotations.json").read_text())
    assert [image["id"] for image in coco["images"]] == [7, 8]


def test_a_detector_in_place_of_cutting(photos: Path, cuts3d: Callable[..., Ran], tiny_detector: Path):
    command = ("segment", "photos", "--checkpoint", tiny_detector, "--out", "out", "--json", "--device", "cpu")
    ran = cuts3d(*command, "--score", "0.001")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["photos"] == 3
    assert sorted(path.name for path in Path("out/pictures").iterdir()) == ["p0.jpg", "p1.jpg", "p2.jpg"]
    if result["instances"]:
        coco = json.loads(Path("out/annotations.json").read_text())
        assert all(item["score"] > 0.001 for item in coco["annotations"])
    ran = cuts3d(*command[:-3], "--score", "0.99999", "--out", "none")
    assert ran.code == 0
    assert "warning: no instance was found in any photo" in ran.err


def test_predict_takes_photos_too(photos: Path, cuts3d: Callable[..., Ran], tiny_detector: Path):
    command = ("predict", "photos", "-c", tiny_detector, "--device", "cpu")
    ran = cuts3d(*command, "--out", "out", "--score", "0.001", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["photos"] == 3
    assert len(list(Path("out/pictures").iterdir())) == 3
    for named in ("photos", "photos/p0.jpg"):
        ran = cuts3d("predict", named, "-c", tiny_detector)
        assert ran.code == 2
        assert ran.line == (f"cuts3d: {named} is no shard: to detect in photos, name a folder for the results by --out")
    assert cuts3d("predict", "--shards", "s.tar", "-c", tiny_detector, "--out", "out").code == 2


@pytest.mark.parametrize(
    ("further", "problem"),
    [
        (["--score", "0.5"], "--score has no effect without --checkpoint: leave it out"),
        (["-c", "none.pth"], "checkpoint none.pth does not exist"),
        (["-c", "none.pth", "--depth-dir", "maps"], "--depth-dir has no effect with --checkpoint: leave it out"),
        (["-c", "none.pth", "-n", "3"], "--instances has no effect with --checkpoint: leave it out"),
        (["--nms", "0.5"], "--nms has no effect without --checkpoint: leave it out"),
        (["--depth-scale", "0.01"], "--depth-scale has no effect without --depth-dir: leave it out"),
    ],
)
def test_options_that_do_not_go_together(photos: Path, cuts3d: Callable[..., Ran], further: list[str], problem: str):
    ran = cuts3d("segment", "photos", "--out", "out", *further)
    assert ran.code in (1, 2)
    assert ran.line == f"cuts3d: {problem}"
    assert not Path("out").exists()


def test_results_within_the_folder_of_photos_are_no_photos(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]
):
    (photos / "photos/depth").mkdir()
    for number in range(3):
        (photos / f"photos/depth/p{number}.png").write_bytes(encoded(scene_of(number).depth, "PNG"))
    command = ("segment", "photos", "--depth-dir", "photos/depth", "--out", "photos/out", "--json", *settings)
    for _ in range(2):
        assert json.loads(cuts3d(*command).out)["photos"] == 3


def _fail(*_: Any, **__: Any) -> None:
    from cuts3d_cli.errors import FileError

    raise FileError("interrupted")
