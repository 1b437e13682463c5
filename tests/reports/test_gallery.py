from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome
from cuts3d_cli.errors import SettingError, ShardError
from cuts3d_cli.reports import drawing
from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.sidecars import depth as depths
from tests.support.found import FOUND, PARTS, PLAIN, RING, cut, detect, rectangle, score, with_masks
from tests.support.galleries import data_in, photos_in, reported, write_truth
from tests.support.stored import depth_of, store

SCORES = {"sub/a.jpg": [0.9, 0.2, 0.6], "sub/c\u00e9.PNG": [0.5], "empty.jpg": []}
AWAY = rectangle(20, 20, 30, 30)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_is_the_same_whatever_works_on_it_and_leaves_the_shards_alone(tmp_path: Path):
    shards = with_masks(tmp_path, shard_size=2)
    for base in shards:
        score(base, FOUND, SCORES)
    before = files_in(tmp_path / "shards")
    found = reported(shards, tmp_path / "one")
    assert (found.photos, found.masks, found.without, found.steps) == (4, 4, 1, 4)
    assert found.failed == [
        {"shard": found.failed[0]["shard"], "key": "failed", "stage": "pseudo", "reason": "it is broken"}
    ]
    reported(shards, tmp_path / "two", workers=2)
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")
    assert files_in(tmp_path / "shards") == before


def test_the_page_knows_masks_scores_and_reasons(tmp_path: Path):
    (base,) = with_masks(tmp_path)
    score(base, FOUND, SCORES)
    store(base, "depth", lambda: depths.encode(depth_of(np.where(PLAIN, np.nan, 0.5).astype(np.float32))))
    reported([base], tmp_path / "out", steps=1)
    data, photos = data_in(tmp_path / "out"), photos_in(tmp_path / "out")
    assert {name: data[name] for name in ("finished", "scored", "compared", "source", "stage")} == {
        "finished": True,
        "scored": True,
        "compared": False,
        "source": "masks",
        "stage": "pseudo",
    }
    a = photos["sub/a.jpg"]
    pixels = 40 * 30
    areas = [pytest.approx(mask.sum() / pixels, abs=1e-6) for mask in (PLAIN, RING, PARTS)]
    assert a["masks"] == [list(item) for item in zip(areas, [0.9, 0.2, 0.6], strict=True)]
    assert (a["size"], a["shard"], a["key"]) == ([40, 30], base.name, "sub/a")
    assert a["depth"] == pytest.approx(1 - 100 / pixels, abs=1e-4)
    assert photos["failed.jpg"]["failed"] == ["pseudo", "it is broken"]
    assert photos["empty.jpg"]["masks"] == []
    assert [name for name, photo in photos.items() if photo["steps"]] == [next(iter(photos))]


def test_thumbnails_show_the_masks(tmp_path: Path):
    (base,) = with_masks(tmp_path, {"a.jpg": [PLAIN], "b.jpg": []})
    reported([base], tmp_path / "out")
    with_mask, without = (
        np.asarray(Image.open(tmp_path / f"out/thumbnails/000/{place:06d}.jpg")).astype(int) for place in range(2)
    )
    assert with_mask.shape == (30, 40, 3)
    blue = with_mask[..., 2] - with_mask[..., 0] > 40
    assert blue[4:12, 3:11].all()
    assert not blue[16:].any()
    assert np.abs(without - without.mean()).max() < 20


def test_a_small_mask_is_seen_on_a_large_one(tmp_path: Path):
    (base,) = with_masks(tmp_path, {"a.jpg": [PLAIN, rectangle(0, 0, 40, 30)]})
    reported([base], tmp_path / "out")
    drawn = np.asarray(Image.open(tmp_path / "out/thumbnails/000/000000.jpg")).astype(int)
    blue = drawn[..., 2] - drawn[..., 0] > 40
    assert blue[5:11, 4:10].all()
    assert not blue[20:28, 20:35].any()


def test_warnings_on_the_page_name_files_without_their_folders(tmp_path: Path):
    one, two = (with_masks(tmp_path / name, {f"{name}.jpg": [PLAIN]})[0] for name in ("one", "two"))
    run_shards(
        [two],
        stage="pseudo",
        config={"pseudo": {"method": "maskcut"}},
        inputs=lambda base: {"base": base},
        outcomes=lambda base: iter([Outcome(key="two", failure="<b>no</b>")]),
        if_exists="overwrite",
    )
    lines: list[str] = []
    truth = write_truth(tmp_path / "gt.json", {"one.jpg": [PLAIN]})
    reported([one, two], tmp_path / "out", ground_truth=truth, say=lambda line: lines.append(str(line)))
    assert "warning: 2 sidecars of stage pseudo were made with 2 different settings" in lines[0]
    page = (tmp_path / "out/index.html").read_text()
    assert page.count('class="warning"') == 3, (
        "mixed settings, a photo without a ground truth, and of pages without script"
    )
    assert str(tmp_path) not in page
    assert "<b>" not in page


def test_beside_a_ground_truth_masks_have_verdicts_and_the_worst_come_first(tmp_path: Path):
    found: dict[str, Any] = {"good.jpg": [PLAIN, PARTS], "bad.jpg": [AWAY], "extra.jpg": [PLAIN], "failed.jpg": None}
    (base,) = with_masks(tmp_path, found)
    truth = write_truth(tmp_path / "gt.json", {"good.jpg": [PARTS, PLAIN], "bad.jpg": [PLAIN], "failed.jpg": [RING]})
    lines: list[str] = []
    reported([base], tmp_path / "out", ground_truth=truth, steps=1, say=lambda line: lines.append(str(line)))
    photos = photos_in(tmp_path / "out")
    assert [mask[2] for mask in photos["good.jpg"]["masks"]] == ["true", "true"]
    assert [mask[2] for mask in photos["bad.jpg"]["masks"]] == ["false"]
    assert len(photos["extra.jpg"]["masks"][0]) == 2
    assert photos["good.jpg"]["truth"] == [2, 0, 1.0, 1.0]
    assert photos["bad.jpg"]["truth"] == photos["failed.jpg"]["truth"] == [1, 1, 0.0, 0.0]
    assert "truth" not in photos["extra.jpg"]
    assert [name for name, photo in photos.items() if photo["steps"]] == ["bad.jpg"], "the worst, of equals the first"
    assert "warning: 1 photo is not in gt.json" in lines
    assert "every step is drawn of the worst 1 photo; of all of them with steps=4" in lines
    page = (tmp_path / "out/index.html").read_text()
    assert "2 of 4 objects found at IoU 0.5" in page
    assert "<li>1 false</li>" in page
    assert len(list((tmp_path / "out/truth").rglob("*.jpg"))) == 3


def test_what_lies_in_a_crowd_region_is_neither_right_nor_wrong(tmp_path: Path):
    (base,) = with_masks(tmp_path, {"a.jpg": [PLAIN], "b.jpg": [PLAIN]})
    truth = {"a.jpg": [rectangle(0, 0, 20, 20)], "b.jpg": [PLAIN]}
    reported([base], tmp_path / "out", ground_truth=write_truth(tmp_path / "gt.json", truth, crowd=["a.jpg"]))
    photos = photos_in(tmp_path / "out")
    assert photos["a.jpg"]["masks"][0][2] == "ignored"
    assert photos["a.jpg"]["truth"] == [0, 0, None, None]


def test_verdicts_are_drawn_in_their_colours(tmp_path: Path):
    (base,) = with_masks(tmp_path, {"a.jpg": [PLAIN, AWAY]})
    truth = write_truth(tmp_path / "gt.json", {"a.jpg": [PLAIN, rectangle(28, 2, 38, 12)]})
    reported([base], tmp_path / "out", ground_truth=truth)

    def middle(kind: str, column: int, row: int) -> Any:
        return np.asarray(Image.open(tmp_path / f"out/{kind}/000/000000.jpg")).astype(int)[row, column]

    def mixed(colour: tuple[int, int, int]) -> Any:
        return pytest.approx((np.array(colour) + 90) / 2, abs=14)

    assert middle("thumbnails", 7, 8) == mixed(drawing.TRUE_COLOUR)
    assert middle("thumbnails", 25, 25) == mixed(drawing.FALSE_COLOUR)
    assert middle("truth", 7, 8) == mixed(drawing.TRUE_COLOUR)
    assert middle("truth", 33, 7) == mixed(drawing.MISSED_COLOUR)


def test_boxes_of_a_ground_truth_are_drawn_and_compared(tmp_path: Path):
    (base,) = with_masks(tmp_path, {"a.jpg": [PLAIN]})
    path = write_truth(tmp_path / "gt.json", {"a.jpg": [PLAIN, rectangle(30, 20, 39, 29)]})
    content = json.loads(path.read_text())
    for item in content["annotations"]:
        del item["segmentation"]
    content["annotations"].append({"id": 9, "image_id": 0, "category_id": 1, "bbox": [30, 2, 0.2, 8], "area": 1.6})
    path.write_text(json.dumps(content))
    assert reported([base], tmp_path / "out", ground_truth=path).failed == []
    assert photos_in(tmp_path / "out")["a.jpg"]["truth"][:2] == [3, 2]
    drawn = np.asarray(Image.open(tmp_path / "out/truth/000/000000.jpg")).astype(int)
    yellow = drawn[..., 0] - drawn[..., 2] > 40
    assert yellow[22:27, 32:37].all()


def test_detections_are_judged_from_a_score_on(tmp_path: Path):
    (base,) = with_masks(tmp_path)
    detect(base, {"sub/a.jpg": [(RING, 0.75), (AWAY, 0.6), (PLAIN, 0.25)], "empty.jpg": []})
    truth = write_truth(tmp_path / "gt.json", {"sub/a.jpg": [RING, PLAIN]})
    found = reported([base], tmp_path / "out", source="detections", ground_truth=truth)
    a = photos_in(tmp_path / "out")["sub/a.jpg"]
    assert [mask[1:] for mask in a["masks"]] == [[0.75, "true"], [0.6, "false"]]
    assert a["truth"][:2] == [2, 1]
    assert found.masks == 2
    assert "shown from score 0.5" in (tmp_path / "out/index.html").read_text()
    reported([base], tmp_path / "all", source="detections", min_score=0.0)
    assert [mask[1] for mask in photos_in(tmp_path / "all")["sub/a.jpg"]["masks"]] == [0.75, 0.6, 0.25]


def test_rounds_of_self_training_are_shown_too(tmp_path: Path):
    (base,) = with_masks(tmp_path)
    cut(base, {"sub/a.jpg": [PLAIN], "empty.jpg": []}, stage="pseudo.st1")
    assert reported([base], tmp_path / "out", generation="st1").masks == 1
    assert data_in(tmp_path / "out")["stage"] == "pseudo.st1"


def test_a_lowest_score_needs_scores(tmp_path: Path):
    (base,) = with_masks(tmp_path)
    with pytest.raises(SettingError, match="min_score has no effect on masks without scores"):
        reported([base], tmp_path / "out", min_score=0.5)
    score(base, FOUND, SCORES)
    reported([base], tmp_path / "out", min_score=0.55)
    assert [mask[1] for mask in photos_in(tmp_path / "out")["sub/a.jpg"]["masks"]] == [0.9, 0.6]


def test_masks_that_could_not_be_scored_say_so(tmp_path: Path):
    (base,) = with_masks(tmp_path)
    score(base, FOUND, {**SCORES, "sub/a.jpg": None})
    reported([base], tmp_path / "out")
    a = photos_in(tmp_path / "out")["sub/a.jpg"]
    assert (a["failed"], [mask[1] for mask in a["masks"]]) == (["confidence", "it is broken"], [0, 0, 0])


def test_a_report_of_fewer_photos_replaces_one_of_more(tmp_path: Path):
    many = with_masks(tmp_path / "many", {f"{name}.jpg": [PLAIN] for name in "abc"})
    few = with_masks(tmp_path / "few", {"a.jpg": [RING]})
    reported(many, tmp_path / "out")
    reported(few, tmp_path / "out")
    reported(few, tmp_path / "alone")
    assert files_in(tmp_path / "out") == files_in(tmp_path / "alone")


def test_nobodys_files_are_replaced(tmp_path: Path):
    shards = with_masks(tmp_path)
    for name, content in (("notes", {"index.html": "mine"}), ("photos", {"photos.js": "mine"})):
        folder = tmp_path / name
        folder.mkdir()
        for file, text in content.items():
            (folder / file).write_text(text)
        with pytest.raises(SettingError, match=r"a folder with files that are no report: name a new one"):
            reported(shards, folder)
        assert {path.name: path.read_text() for path in folder.iterdir()} == content
    with pytest.raises(SettingError, match=r"the folder of the shards"):
        reported(shards, shards[0].parent)
    with pytest.raises(SettingError, match=r"a file: name a folder"):
        reported(shards, shards[0])
    (tmp_path / "empty").mkdir()
    reported(shards, tmp_path / "empty")


def test_a_report_that_was_interrupted_says_so_and_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shards = with_masks(tmp_path)

    def stop(job: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(drawing, "steps", stop)
        with pytest.raises(KeyboardInterrupt):
            reported(shards, tmp_path / "out")
    assert data_in(tmp_path / "out") == {"finished": False, "photos": []}
    reported(shards, tmp_path / "out")
    reported(shards, tmp_path / "other")
    assert files_in(tmp_path / "out") == files_in(tmp_path / "other")


def test_a_photo_that_cannot_be_drawn_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shards = with_masks(tmp_path)
    real = drawing.decode_image

    def picky(data: bytes, **more: Any) -> Any:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "PNG":
                raise ValueError("no PNG today")
        return real(data, **more)

    with monkeypatch.context() as patched:
        patched.setattr(drawing, "decode_image", picky)
        found = reported(shards, tmp_path / "out")
    (failed,) = [item for item in found.failed if item["stage"] == "drawing"]
    assert failed["reason"] == "it could not be computed: ValueError: no PNG today"
    photo = photos_in(tmp_path / "out")["sub/c\u00e9.PNG"]
    assert (photo["thumbnail"], photo["steps"]) == (False, False)


def test_photos_that_packing_refused_are_listed(tmp_path: Path):
    (base,) = with_masks(tmp_path)
    manifest = load_manifest(manifest_path(base))
    content = json.loads(manifest_path(base).read_text())
    content["failed"] = [{"key": "broken.jpg", "reason": "the image file is empty"}]
    manifest_path(base).write_text(json.dumps(content))
    assert manifest.failed == []
    found = reported([base], tmp_path / "out")
    assert photos_in(tmp_path / "out")["broken.jpg"]["failed"] == ["pack", "the image file is empty"]
    assert found.photos == 5


def test_a_missing_sidecar_names_the_command(tmp_path: Path):
    (base,) = with_masks(tmp_path)
    with pytest.raises(ShardError, match=r"s-000\.predict\.tar is missing or unfinished"):
        reported([base], tmp_path / "out", source="detections")
    sidecar(base, "pseudo").unlink()
    with pytest.raises(ShardError, match=r"s-000\.pseudo\.tar is missing or unfinished"):
        reported([base], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_strangers_names_are_text_and_name_no_file(tmp_path: Path):
    hostile = {
        "x</script><script>window.hacked=1</script>.jpg": [PLAIN],
        "'\"><img src=x onerror=hacked()>.jpg": [RING],
    }
    (base,) = with_masks(tmp_path, hostile)
    reported([base], tmp_path / "out")
    data = (tmp_path / "out/photos.js").read_text("ascii")
    page = (tmp_path / "out/index.html").read_text()
    assert "<" not in data
    assert set(photos_in(tmp_path / "out")) == set(hostile)
    assert re.findall(r"<script[^>]*>", page) == ['<script src="photos.js" defer>', '<script src="report.js" defer>']
    assert "hacked" not in page
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {name for name in names if not re.fullmatch(r"(thumbnails|steps)/000/00000[01]\.jpg", name)} == {
        "index.html",
        "photos.js",
        "report.css",
        "report.js",
    }
