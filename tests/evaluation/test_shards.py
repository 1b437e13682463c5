from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cuts3d_cli.cut.masks import Rle, encode_rle, rle_area, rle_box
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome
from cuts3d_cli.shards.manifest import Manifest, save_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.finished import require
from cuts3d_cli.sidecars.photos import FACTS
from tests.support.photos import scene_of, write_shard
from tests.support.running import Ran
from tests.support.shapes import annotation, coco_file, image, rectangle
from tests.support.tars import agree

LEFT, RIGHT, SMALL = (20, 20, 100, 100), (180, 50, 100, 100), (5, 5, 10, 10)
WIDTH, HEIGHT = 300, 200
Boxes = Sequence[tuple[int, int, int, int]]
Eval = Callable[..., Ran]


def shard(path: Path, masks: Mapping[str, Boxes | None], **facts: Any) -> Path:
    """A base shard of KEY.jpg with a pseudo sidecar of rectangles; an image failed where they are None."""
    samples = {}
    for number, key in enumerate(masks, start=1):
        known = {"id": number, "source": f"{key}.jpg", "width": WIDTH, "height": HEIGHT} | facts
        samples[key] = {"jpg": b"x", FACTS: json.dumps(known).encode()}
    write_shard(path, samples)
    return cut(path, masks)


def cut(base: Path, masks: Mapping[str, Boxes | None]) -> Path:
    outcomes = [
        Outcome(key=key, failure="it is broken")
        if boxes is None
        else Outcome(key=key, members={"pseudo.json": json.dumps(record(boxes)).encode()})
        for key, boxes in masks.items()
    ]
    run_shards(
        [base],
        stage="pseudo",
        config={},
        inputs=lambda base: {"base": base},
        outcomes=lambda base: iter(outcomes),
        if_exists="overwrite",
    )
    return base


def record(boxes: Boxes) -> dict[str, Any]:
    codes = [rectangle(*box) for box in boxes]
    instances = [{"segmentation": code, "bbox": rle_box(code), "area": rle_area(code)} for code in codes]
    return {"height": HEIGHT, "width": WIDTH, "instances": instances}


def score(base: Path, scores: Mapping[str, Sequence[float] | None]) -> Path:
    """A confidence sidecar; an image failed where the scores are None."""
    outcomes = []
    for key, values in scores.items():
        buffer = io.BytesIO()
        np.save(buffer, np.ones((len(values or ()), 2, 2), dtype=np.uint8))
        facts = {"source": "depth", "levels": 6, "floor": 0.5, "scores": list(values or ())}
        members = {"confidence.npy": buffer.getvalue(), "confidence.json": json.dumps(facts).encode()}
        outcomes.append(Outcome(key=key, failure="no depth") if values is None else Outcome(key=key, members=members))
    run_shards(
        [base],
        stage="confidence",
        config={},
        inputs=lambda base: {"pseudo": require(base, "pseudo")[0]},
        outcomes=lambda base: iter(outcomes),
        if_exists="overwrite",
    )
    return base


def ground_truth(folder: Path, boxes: Mapping[str, Boxes], **more: Any) -> Path:
    images = [image(number, f"{key}.jpg") for number, key in enumerate(boxes, start=1)]
    flat = [(number, box) for number, each in enumerate(boxes.values(), start=1) for box in each]
    annotations = [annotation(place, number, box, **more) for place, (number, box) in enumerate(flat, start=1)]
    return coco_file(folder / "gt.json", images, annotations)


def result(ran: Ran) -> dict[str, Any]:
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def near(value: Any) -> Any:
    return pytest.approx(value, abs=1e-12)


# ---------------------------------------------------------------------------------------------- what is printed


def test_the_table_is_in_percent(cuts3d: Eval, alone: Path):
    shard(alone / "s-000.tar", {"a": [LEFT, SMALL], "b": [RIGHT]})
    path = ground_truth(alone, {"a": [LEFT], "b": [LEFT, RIGHT]})
    ran = cuts3d("eval", "--shards", "s-000.tar", "--gt", path)
    assert ran.code == 0
    assert ran.err == "scores: 1.0 for every mask, the largest first (`cuts3d confidence` makes scores)\n"
    first, *_ = ran.out.splitlines()
    assert first == f"{path}: 2 images, 3 instances, 0 crowd regions, 3 masks; percent"
    rows = {
        line.split("│")[1].strip(): line.replace("│", " ").split()[1:] for line in ran.out.splitlines() if "│" in line
    }
    # Found: a's first, b's first; b's comes after a's false positive. Recall 1/3 at precision 1, 2/3 at 2/3.
    ap = f"{100 * (34 + 33 * 2 / 3) / 101:.1f}"
    for kind in ("box", "mask"):
        # Among large instances the small false positive does not count: 67 of 101 recalls at precision 1.
        assert rows[kind] == [ap, ap, ap, "-", "-", "66.3", "66.7", "66.7", "66.7"]
        line = next(line for line in ran.out.splitlines() if line.startswith(f"{kind}:"))
        assert line == (f"{kind}: recall@0.5 66.7, precision@0.5 66.7, mean best IoU 66.7 (2 of 3 found by 3 masks)")


def test_json_is_alone_on_stdout_and_in_full_precision(cuts3d: Eval, alone: Path):
    shard(alone / "s-000.tar", {"a": [LEFT], "b": [RIGHT]})
    path = ground_truth(alone, {"a": [LEFT], "b": [LEFT, RIGHT]})
    found = result(cuts3d("eval", "--shards", "s-000.tar", "--gt", path, "--json"))
    assert found["ground_truth"] == str(path)
    assert (found["shards"], found["images"], found["instances"], found["predictions"]) == (1, 2, 3, 2)
    assert (found["scores"], found["failed"], found["missing"], found["extra"]) == ("one", 0, 0, 0)
    assert found["mask"] == found["box"]
    assert found["mask"]["recall50"] == 2 / 3
    assert found["mask"]["ap"] == near(67 / 101)
    assert found["mask"]["ap_small"] is None
    assert found["warnings"] == []


def test_a_ground_truth_of_boxes_has_no_row_of_masks(cuts3d: Eval, alone: Path):
    shard(alone / "s-000.tar", {"a": [LEFT]})
    path = ground_truth(alone, {"a": [LEFT]}, segmentation=None)
    ran = cuts3d("eval", "--shards", "s-000.tar", "--gt", path)
    assert "mask:" not in ran.out
    assert "box: recall@0.5 100.0, precision@0.5 100.0, mean best IoU 100.0 (1 of 1 found by 1 mask)" in ran.out
    assert result(cuts3d("eval", "--shards", "s-000.tar", "--gt", path, "--json"))["mask"] is None


def test_crowd_regions_are_honoured(cuts3d: Eval, alone: Path):
    shard(alone / "s-000.tar", {"a": [LEFT, RIGHT]})
    path = coco_file(
        alone / "gt.json",
        [image(1, "a.jpg")],
        [annotation(1, 1, LEFT), annotation(2, 1, (150, 0, 150, 200), iscrowd=1)],
    )
    found = result(cuts3d("eval", "--shards", "s-000.tar", "--gt", path, "--json"))["mask"]
    assert (found["precision50"], found["matched"], found["ignored"], found["ap"]) == near((1, 1, 1, 1))
    assert "(1 of 1 found by 2 masks, 1 in crowd regions)" in cuts3d("eval", "--shards", "s-000.tar", "--gt", path).out


# ---------------------------------------------------------------------------------------------- scores


def test_the_confidence_ranks_the_masks(cuts3d: Eval, alone: Path):
    base = shard(alone / "s-000.tar", {"a": [LEFT, RIGHT], "b": []})
    path = ground_truth(alone, {"a": [RIGHT], "b": []})
    for scores, ap in (([0.9, 0.6], 0.5), ([0.6, 0.9], 1.0)):
        score(base, {"a": scores, "b": []})
        ran = cuts3d("eval", "--shards", base, "--gt", path, "--json")
        assert ran.err == "scores: the mean confidence of each mask\n"
        found = result(ran)
        assert (found["scores"], found["mask"]["ap"]) == ("confidence", near(ap))
        assert (found["mask"]["recall50"], found["mask"]["precision50"]) == (1, 0.5)


def test_a_stale_confidence_is_refused(cuts3d: Eval, alone: Path):
    base = score(shard(alone / "s-000.tar", {"a": [LEFT]}), {"a": [0.9]})
    cut(base, {"a": [RIGHT]})
    ran = cuts3d("eval", "--shards", base, "--gt", ground_truth(alone, {"a": [LEFT]}))
    assert ran.code == 1
    assert "s-000.confidence.tar was made from another s-000.pseudo.tar: run `cuts3d confidence" in ran.line


def test_scores_of_two_kinds_are_refused(cuts3d: Eval, alone: Path):
    score(shard(alone / "s-000.tar", {"a": [LEFT]}), {"a": [0.9]})
    shard(alone / "s-001.tar", {"b": [LEFT]})
    ran = cuts3d("eval", "--shards", "s-<000..001>.tar", "--gt", ground_truth(alone, {"a": [LEFT], "b": [LEFT]}))
    assert ran.code == 1
    assert "s-001.confidence.tar is missing or unfinished, while 1 of 2 shards have theirs" in ran.line


def test_masks_without_a_confidence_come_last(cuts3d: Eval, alone: Path):
    base = score(shard(alone / "s-000.tar", {"a": [LEFT], "b": [LEFT]}), {"a": None, "b": [0.5]})
    found = result(cuts3d("eval", "--shards", base, "--gt", ground_truth(alone, {"a": [], "b": [LEFT]}), "--json"))
    assert found["mask"]["ap"] == near(1)
    assert found["warnings"] == ["1 image failed in `cuts3d confidence`, whose masks come last: a.jpg"]


@pytest.mark.parametrize(
    ("scores", "words"),
    [([0.9, 0.9], "it has 2 maps for 1 mask"), ([0.9] * 0, "it has 0 maps for 1 mask")],
)
def test_a_confidence_that_does_not_fit_is_refused(cuts3d: Eval, alone: Path, scores: list[float], words: str):
    base = score(shard(alone / "s-000.tar", {"a": [LEFT]}), {"a": scores})
    ran = cuts3d("eval", "--shards", base, "--gt", ground_truth(alone, {"a": [LEFT]}))
    assert ran.code == 1
    assert words in ran.line


def test_a_damaged_confidence_is_told(cuts3d: Eval, alone: Path):
    base = score(shard(alone / "s-000.tar", {"a": [LEFT]}), {"a": [0.9]})
    tar = sidecar(base, "confidence")
    tar.write_bytes(tar.read_bytes().replace(b'"levels"', b'"LEVELS"'))
    agree(tar)
    ran = cuts3d("eval", "--shards", base, "--gt", ground_truth(alone, {"a": [LEFT]}))
    assert ran.code == 1
    assert "s-000.confidence.tar: member a.confidence.json is damaged: it has no levels" in ran.line


# ---------------------------------------------------------------------------------------------- which images


def test_a_failed_image_counts_as_one_without_masks(cuts3d: Eval, alone: Path):
    shard(alone / "s-000.tar", {"a": [LEFT], "b": None, "c": []})
    path = ground_truth(alone, {"a": [LEFT], "b": [LEFT], "c": [LEFT, RIGHT]})
    ran = cuts3d("eval", "--shards", "s-000.tar", "--gt", path, "--json")
    found = result(ran)
    assert (found["images"], found["failed"], found["mask"]["recall50"]) == (3, 1, 0.25)
    warning = "1 image failed in `cuts3d pseudo` and is counted as without a mask: b.jpg"
    assert found["warnings"] == [warning]
    assert f"warning: {warning}\n" in ran.err


def test_a_photo_on_which_the_detector_failed_is_told_as_such(cuts3d: Eval, alone: Path):
    base = shard(alone / "s-000.tar", {"a": [LEFT], "b": [LEFT]})
    found = record([LEFT])
    found["instances"][0]["score"] = 0.5
    outcomes = [
        Outcome(key="a", members={"predict.json": json.dumps(found).encode()}),
        Outcome(key="b", failure="no memory"),
    ]
    run_shards(
        [base],
        stage="predict",
        config={},
        inputs=lambda base: {"base": base},
        outcomes=lambda base: iter(outcomes),
        if_exists="overwrite",
    )
    path = ground_truth(alone, {"a": [LEFT], "b": [LEFT]})
    result_of_detector = result(cuts3d("eval", "--shards", base, "--gt", path, "--predicted", "--json"))
    assert (result_of_detector["scores"], result_of_detector["failed"]) == ("detector", 1)
    assert result_of_detector["warnings"] == [
        "1 image failed in `cuts3d predict` and is counted as without a mask: b.jpg"
    ]


def test_images_in_only_one_of_the_two_are_left_out_and_told(cuts3d: Eval, alone: Path):
    shard(alone / "s-000.tar", {key: [LEFT] for key in "abcde"})
    path = ground_truth(alone, {"a": [LEFT], "x": [LEFT], "y": [RIGHT]})
    found = result(cuts3d("eval", "--shards", "s-000.tar", "--gt", path, "--json"))
    assert (found["images"], found["instances"], found["predictions"]) == (1, 1, 1)
    assert (found["missing"], found["extra"]) == (2, 4)
    assert found["mask"]["ap"] == near(1)
    assert found["warnings"] == [
        f"2 of 3 images of {path} are in none of the shards and left out: x.jpg, y.jpg",
        f"4 images of the shards are not in {path} and left out: b.jpg, c.jpg, d.jpg, ...",
    ]


def test_nothing_in_common_is_an_error(cuts3d: Eval, alone: Path):
    shard(alone / "s-000.tar", {"a": [LEFT]})
    ran = cuts3d("eval", "--shards", "s-000.tar", "--gt", ground_truth(alone, {"x": [LEFT]}))
    assert ran.code == 2
    assert "gt.json: none of its 1 image (x.jpg) is in the shards (a.jpg)" in ran.line


def test_ids_count_only_in_shards_packed_from_a_coco_json(cuts3d: Eval, alone: Path):
    base = shard(alone / "s-000.tar", {"a": [LEFT]}, source="p/q.jpg", id=2)
    path = coco_file(
        alone / "gt.json",
        [image(1, "r/q.jpg"), image(2, "s/q.jpg")],
        [annotation(1, 1, RIGHT), annotation(2, 2, LEFT)],
    )
    ran = cuts3d("eval", "--shards", base, "--gt", path)
    assert ran.code == 2
    assert "several of its images or of the photos are called q.jpg" in ran.line
    data, counts = base.read_bytes(), {"samples_in": 1, "samples_out": 1, "failed": 0}
    save_manifest(
        manifest_path(base),
        Manifest(stage="pack", config={"source": "coco"}, inputs={}, counts=counts, sha256="0" * 64, size=len(data)),
    )
    assert result(cuts3d("eval", "--shards", base, "--gt", path, "--json"))["mask"]["ap"] == near(1)


def test_names_that_agree_in_their_last_part_alone_are_told(cuts3d: Eval, alone: Path):
    shard(alone / "s-000.tar", {"a": [LEFT]}, source="one/a.jpg")
    path = coco_file(alone / "gt.json", [image(1, "two/a.jpg")], [annotation(1, 1, LEFT)])
    found = result(cuts3d("eval", "--shards", "s-000.tar", "--gt", path, "--json"))
    assert found["warnings"] == ["1 image is recognised by the base name alone: one/a.jpg as two/a.jpg"]


def test_shards_of_other_programs_go_by_their_keys(cuts3d: Eval, alone: Path):
    base = write_shard(alone / "s-000.tar", {"a": {"jpg": b"x"}, "f/b": {"png": b"x"}, "c": {"cls": b"x"}})
    cut(base, {"a": [LEFT], "f/b": [RIGHT], "c": []})
    path = coco_file(
        alone / "gt.json",
        [image(1, "a.jpg"), image(2, "f/b.png"), image(3, "c")],
        [annotation(1, 1, LEFT), annotation(2, 2, RIGHT)],
    )
    found = result(cuts3d("eval", "--shards", base, "--gt", path, "--json"))
    assert (found["images"], found["mask"]["recall50"], found["warnings"]) == (3, 1, [])


def test_an_image_of_another_size_is_left_out_and_nothing_else_is_an_error(cuts3d: Eval, alone: Path):
    shard(alone / "s-000.tar", {"a": [LEFT], "b": [LEFT]})
    path = coco_file(
        alone / "gt.json",
        [image(1, "a.jpg"), image(2, "b.jpg", width=150, height=100)],
        [annotation(1, 1, LEFT), annotation(2, 2, SMALL)],
    )
    ran = cuts3d("eval", "--shards", "s-000.tar", "--gt", path, "--json")
    found = result(ran)
    assert (found["images"], found["missing"], found["unmatched"], found["mask"]["ap"]) == (1, 1, 1, near(1))
    assert "1 of 2 images are of another size than their photo" in ran.err
    shard(alone / "s-000.tar", {"b": [LEFT]})
    ran = cuts3d("eval", "--shards", "s-000.tar", "--gt", path)
    assert ran.code == 2
    assert "left out: b.jpg (150x100, its photo 300x200): they must be the same photos at the same size" in ran.line


def test_masks_of_another_size_than_the_photo_are_refused(cuts3d: Eval, alone: Path):
    shard(alone / "s-000.tar", {"a": [LEFT]}, width=150, height=100)
    path = coco_file(alone / "gt.json", [image(1, "a.jpg", width=150, height=100)], [annotation(1, 1, SMALL)])
    ran = cuts3d("eval", "--shards", "s-000.tar", "--gt", path)
    assert ran.code == 2
    assert "s-000.pseudo.tar: a mask of a is 300x200, a.jpg of the ground truth is 150x100" in ran.line


def test_annotations_of_the_sensors_frame_are_turned_along(cuts3d: Eval, alone: Path):
    """The photo is stored as 200x300 and turned by EXIF; the tool that made the ground truth ignores that."""
    base = shard(alone / "s-000.tar", {"a": [LEFT]})
    facts = {"id": 1, "source": "a.jpg", "width": WIDTH, "height": HEIGHT}
    write_shard(base, {"a": {"jpg": turned_photo(), "json": json.dumps(facts).encode()}})
    cut(base, {"a": [LEFT]})
    x, y, width, height = LEFT
    path = coco_file(
        alone / "gt.json",
        [image(1, "a.jpg", width=HEIGHT, height=WIDTH)],
        [annotation(1, 1, (y, WIDTH - x - width, height, width))],
    )
    ran = cuts3d("eval", "--shards", base, "--gt", path, "--json")
    assert (result(ran)["mask"]["ap"], result(ran)["box"]["ap"]) == near((1, 1))
    assert "1 photo is turned by their EXIF orientation and their annotations are not" in ran.err


def turned_photo() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (HEIGHT, WIDTH)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_the_size_may_come_from_the_photo_alone(cuts3d: Eval, alone: Path):
    base = write_shard(alone / "s-000.tar", {"a": {"jpg": turned_photo()}})
    cut(base, {"a": [LEFT]})
    path = coco_file(alone / "gt.json", [{"id": "a", "file_name": "a.jpg"}], [annotation(0, "a", LEFT)])  # type: ignore[arg-type]
    assert result(cuts3d("eval", "--shards", base, "--gt", path, "--json"))["mask"]["ap"] == near(1)


def test_what_is_left_out_is_counted(cuts3d: Eval, alone: Path):
    shard(alone / "s-000.tar", {"a": [LEFT], "b": [LEFT, RIGHT], "c": [SMALL], "d": []})
    path = coco_file(
        alone / "gt.json",
        [image(1, "a.jpg"), image(2, "c.jpg"), image(3, "x.jpg")],
        [
            annotation(1, 1, LEFT),
            annotation(2, 1, LEFT, bbox=None, segmentation=[[1, 2, 3]]),
            annotation(3, 8, LEFT),
            annotation(4, 3, LEFT),
        ],
    )
    ran = cuts3d("eval", "--shards", "s-000.tar", "--gt", path)
    assert ran.code == 0
    assert ran.out.splitlines()[:2] == [
        f"{path}: 2 images (1 without annotations), 1 instance, 0 crowd regions, 2 masks; percent",
        "left out: 1 of 3 images of the ground truth, 2 images of the shards, 2 masks of such images, 2 of 3"
        " annotations",
    ]
    found = result(cuts3d("eval", "--shards", "s-000.tar", "--gt", path, "--json"))
    names = ("images", "empty", "missing", "extra", "unmatched", "annotations", "dropped")
    assert [found[name] for name in names] == [2, 1, 1, 2, 2, 3, 2]
    assert "1 of 3 annotations are unusable and left out: annotations 2 (" in ran.err
    assert "1 of 3 annotations belong to no image of the file and are left out: annotations 3 (image_id 8)" in ran.err


def test_a_ground_truth_of_these_images_without_a_single_object_is_an_error(cuts3d: Eval, alone: Path):
    shard(alone / "s-000.tar", {"a": [LEFT]})
    images = [image(1, "a.jpg"), image(2, "b.jpg")]
    for boxes in ([annotation(1, 2, LEFT)], [annotation(1, 1, LEFT, iscrowd=1)], []):
        ran = cuts3d("eval", "--shards", "s-000.tar", "--gt", coco_file(alone / "gt.json", images, boxes))
        assert ran.code == 2
        assert "no image of those that are in the shards (1) has an annotation of a single object" in ran.line


def test_shards_in_which_every_image_failed_are_an_error(cuts3d: Eval, alone: Path):
    shard(alone / "s-000.tar", {"a": None, "b": None})
    ran = cuts3d("eval", "--shards", "s-000.tar", "--gt", ground_truth(alone, {"a": [LEFT], "b": []}))
    assert ran.code == 1
    assert "all 2 images that" in ran.line
    assert "failed in `cuts3d pseudo` (a.jpg, b.jpg): there is nothing to compare" in ran.line


def test_a_bad_polygon_costs_its_annotation_at_most(cuts3d: Eval, alone: Path):
    shard(alone / "s-000.tar", {"a": [LEFT, RIGHT]})
    boxes = [annotation(0, 0, LEFT, segmentation=[[20, 20, 120, 120]], category_id=0), annotation(1, 0, RIGHT)]
    path = coco_file(alone / "gt.json", [image(0, ".\\photos\\a.jpg")], boxes, categories=[{"id": 0}, {"id": 1}])
    ran = cuts3d("eval", "--shards", "s-000.tar", "--gt", path, "--json")
    assert result(ran)["mask"]["ap"] == near(1)
    assert "1 of 2 annotations have a damaged segmentation, and their box takes its place: annotations 0 (" in ran.err


# ---------------------------------------------------------------------------------------------- what is refused


def test_a_photo_that_is_missing_without_a_failure_is_no_failure(cuts3d: Eval, alone: Path):
    base = shard(alone / "s-000.tar", {"a": [LEFT], "b": [LEFT]})
    cut(base, {"a": [LEFT]})
    ran = cuts3d("eval", "--shards", base, "--gt", ground_truth(alone, {"a": [LEFT], "b": [LEFT]}))
    assert ran.code == 1
    assert "s-000.pseudo.tar holds no sample b, and its manifest lists no failure of it: run `cuts3d pseudo" in ran.line


def test_masks_without_a_confidence_that_did_not_fail_are_an_error(cuts3d: Eval, alone: Path):
    base = score(shard(alone / "s-000.tar", {"a": [LEFT], "b": [LEFT]}), {"a": [0.5]})
    ran = cuts3d("eval", "--shards", base, "--gt", ground_truth(alone, {"a": [LEFT], "b": [LEFT]}))
    assert ran.code == 1
    assert "s-000.confidence.tar holds no sample b, and its manifest lists no failure of it: run `cuts3d" in ran.line


def test_missing_masks_are_told(cuts3d: Eval, alone: Path):
    write_shard(alone / "s-000.tar", {"a": {"jpg": b"x"}})
    ran = cuts3d("eval", "--shards", "s-000.tar", "--gt", ground_truth(alone, {"a": [LEFT]}))
    assert ran.code == 1
    assert "s-000.pseudo.tar is missing or unfinished: run `cuts3d pseudo --shards s-000.tar` first" in ran.line


@pytest.mark.parametrize(
    ("old", "new"), [(b'"instances"', b'"INSTANCES"'), (b'"area": 10000', b'"area": 10001'), (b'"counts"', b'"COUNTS"')]
)
def test_damaged_masks_are_told(cuts3d: Eval, alone: Path, old: bytes, new: bytes):
    base = shard(alone / "s-000.tar", {"a": [LEFT]})
    tar = sidecar(base, "pseudo")
    assert old in tar.read_bytes()
    tar.write_bytes(tar.read_bytes().replace(old, new))
    agree(tar)
    ran = cuts3d("eval", "--shards", base, "--gt", ground_truth(alone, {"a": [LEFT]}))
    assert ran.code == 1
    assert "s-000.pseudo.tar: member a.pseudo.json is damaged: " in ran.line
    assert f"check it with `cuts3d verify {base}`" in ran.line


def test_the_masks_themselves_are_no_ground_truth(cuts3d: Eval, alone: Path):
    base = shard(alone / "s-000.tar", {"a": [LEFT]})
    assert cuts3d("export", base, "--to", "coco", "--out", "masks.json").code == 0
    ran = cuts3d("eval", "--shards", base, "--gt", "masks.json")
    assert ran.code == 2
    assert "masks.json holds pseudo-masks, not a ground truth" in ran.line


def test_usage(cuts3d: Eval, alone: Path):
    assert cuts3d("eval", "--shards", "s.tar").code == 2
    assert cuts3d("eval", "--gt", "gt.json").line.startswith("cuts3d: no shards were named")
    shard(alone / "s-000.tar", {"a": [LEFT]})
    ran = cuts3d("eval", "--shards", "s-000.tar", "--gt", "nothing.json")
    assert (ran.code, ran.line) == (2, "cuts3d: nothing.json cannot be read: No such file or directory")


# ---------------------------------------------------------------------------------------------- order, and all of it


def test_the_order_of_shards_and_of_the_file_does_not_matter(cuts3d: Eval, alone: Path):
    rng = np.random.default_rng(0)
    keys = "abcdef"
    boxes = {key: [tuple(rng.integers(1, 90, 4).tolist()) for _ in range(5)] for key in keys}
    moved = {key: [(x + 2, y + 3, width, height) for x, y, width, height in boxes[key][:4]] for key in keys}
    shard(alone / "s-000.tar", {key: moved[key] for key in keys[:3]})
    shard(alone / "s-001.tar", {key: moved[key] for key in keys[3:]})
    path = ground_truth(alone, boxes)  # type: ignore[arg-type]
    content = json.loads(path.read_text())
    expected = result(cuts3d("eval", "--shards", "s-<000..001>.tar", "--gt", path, "--json"))
    assert 0 < expected["mask"]["ap"] < 1
    for seed in range(3):
        shuffle = np.random.default_rng(seed).permutation
        for name in ("images", "annotations"):
            content[name] = [content[name][place] for place in shuffle(len(content[name]))]
        for number, item in enumerate(content["annotations"], start=1):
            item["id"] = number
        path.write_text(json.dumps(content))
        assert result(cuts3d("eval", "--shards", "s-001.tar", "s-000.tar", "--gt", path, "--json")) == expected


def test_from_photos_to_figures(cuts3d: Eval, shards: list[Path], weights: Path):
    small = ("--backbone", "dino-vits16", "--size", "224", "--weights", weights, "--crf-size", "160", "-j", "0")
    assert cuts3d("pseudo", "--shards", *shards, *small).code == 0
    images, annotations = [], []
    for number in range(4):
        boxes = scene_of(number).boxes
        height, width = boxes[0].shape
        images.append(image(number + 1, f"p{number}.jpg", width=width, height=height))
        codes: list[Rle] = [encode_rle(mask) for mask in boxes]
        annotations += [
            annotation(1 + len(annotations) + place, number + 1, rle_box(code), segmentation=code)
            for place, code in enumerate(codes)
        ]
    path = coco_file(Path("gt.json"), images, annotations)
    before = result(cuts3d("eval", "--shards", *shards, "--gt", path, "--json"))
    assert (before["scores"], before["images"], before["instances"]) == ("one", 4, 8)
    assert before["mask"]["recall50"] == 1
    assert before["mask"]["mean_best_iou"] > 0.7
    assert cuts3d("confidence", "--shards", *shards, "--tau-knn-min", "0.11", "-j", "0").code == 0
    after = result(cuts3d("eval", "--shards", *shards, "--gt", path, "--json"))
    assert after["scores"] == "confidence"
    assert after["mask"]["recall50"] == 1
    assert sum(len(list(read_shard(sidecar(base, "confidence")))) for base in shards) == 4
