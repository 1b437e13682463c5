from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from cuts3d_cli import SampleError, Segmentation, SettingError, coco_dataset, to_coco
from cuts3d_cli.segmentation import Cut

HEIGHT, WIDTH = 20, 30


def found(count: int, *, cuts: bool = True) -> Segmentation:
    """So many masks, of 7 columns and fewer and fewer rows."""
    masks = np.zeros((count, HEIGHT, WIDTH), dtype=bool)
    for place in range(count):
        masks[place, 2 + place : 10, 3:10] = True
    one: list[Cut] = []
    return Segmentation(
        image=np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        masks=masks,
        boxes=np.zeros((count, 4), np.float32),
        scores=np.linspace(1, 0.5, count, dtype=np.float32),
        cuts=one if cuts else None,
    )


def loaded(dataset: dict[str, Any], path: Path) -> COCO:
    path.write_text(json.dumps(dataset, allow_nan=False), encoding="utf-8")
    return COCO(str(path))


def test_all_annotations_of_all_photos_are_in_the_file(tmp_path: Path):
    counts = {"a.jpg": 3, "sub/b.jpg": 0, "c.jpg": 5, "d.jpg": 7}
    coco = loaded(coco_dataset((name, found(count)) for name, count in counts.items()), tmp_path / "m.json")
    assert sorted(coco.getAnnIds()) == list(range(1, 16))
    assert {item["file_name"]: len(coco.getAnnIds(imgIds=item["id"])) for item in coco.dataset["images"]} == counts
    assert {(item["width"], item["height"]) for item in coco.dataset["images"]} == {(WIDTH, HEIGHT)}
    assert [item["name"] for item in coco.loadCats(coco.getCatIds())] == ["object"]
    (last,) = coco.loadAnns(15)
    assert np.array_equal(coco.annToMask(last), found(7).masks[6])
    assert (last["bbox"], last["area"], last["score"]) == ([3, 8, 7, 2], 14, 0.5)


def test_it_is_what_the_export_writes(tmp_path: Path):
    """Key by key, so that both go on saying the same."""
    from cuts3d_cli.exports.coco import write_coco
    from cuts3d_cli.exports.options import Options
    from cuts3d_cli.exports.output import Output
    from cuts3d_cli.exports.photos import FoundPhoto, instances_of

    results = [("a.jpg", found(2)), ("b.jpg", found(1))]
    dataset = coco_dataset(results, category="thing")
    photos = [
        FoundPhoto(id=place, file=name, size=(HEIGHT, WIDTH), instances=instances_of(item), read=bytes)
        for place, (name, item) in enumerate(results, start=1)
    ]
    write_coco(photos, Output(tmp_path), Options(file="m.json", title=dataset["info"]["description"], category="thing"))
    assert json.loads((tmp_path / "m.json").read_bytes()) == json.loads(json.dumps(dataset))


def test_a_mapping_and_paths_name_the_photos():
    (image,) = coco_dataset({"a.jpg": found(1)})["images"]
    assert image["file_name"] == "a.jpg"
    (image,) = coco_dataset([(Path("sub") / "a.jpg", found(1))])["images"]
    assert image["file_name"] == "sub/a.jpg"


def test_a_photo_that_failed_is_left_out_and_the_ids_of_the_others_stay():
    dataset = coco_dataset([("a.jpg", found(1)), ("b.jpg", SampleError("broken")), ("c.jpg", found(2))])
    assert [(item["id"], item["file_name"]) for item in dataset["images"]] == [(1, "a.jpg"), (3, "c.jpg")]
    assert [(item["id"], item["image_id"]) for item in dataset["annotations"]] == [(1, 1), (2, 3), (3, 3)]


def test_ids_of_a_ground_truth():
    dataset = coco_dataset([("a.jpg", found(1)), ("b.jpg", found(1))], image_ids=[np.int64(9), 4])
    assert [item["id"] for item in dataset["images"]] == [9, 4]
    assert [item["image_id"] for item in json.loads(json.dumps(dataset))["annotations"]] == [9, 4]


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        ([1], "image_ids ends before the photos do, after 1"),
        ([1, 2, 3], "image_ids goes on after the photos"),
        ([4, 4], "image_ids holds 4 twice"),
        (["x", "y"], "image_ids is 'x'"),
    ],
)
def test_wrong_ids_are_named(ids: list[Any], problem: str):
    with pytest.raises(SettingError, match=problem):
        coco_dataset([("a.jpg", found(1)), ("b.jpg", found(1))], image_ids=ids)


@pytest.mark.parametrize("wrong", [found(1), ("a.jpg", None), (3, found(1)), "ab"])
def test_what_is_no_pair_is_named(wrong: Any):
    with pytest.raises(SettingError, match=r"results holds a \w+ at 1 that is no pair.*zip\(paths, "):
        coco_dataset([("a.jpg", found(1)), wrong])


def test_the_file_says_what_found_them():
    """`cuts3d eval` takes no pseudo-masks for a ground truth."""
    assert coco_dataset([("a.jpg", found(1))])["info"]["description"].startswith("pseudo-masks by cuts3d ")
    assert coco_dataset([("a.jpg", found(1, cuts=False))])["info"]["description"].startswith("detections by cuts3d ")


def test_annotations_of_one_photo_count_on_from_the_first_id():
    assert [item["id"] for item in to_coco(found(2), image_id=7)] == [1, 2]
    assert [item["id"] for item in to_coco(found(2), image_id=7, first_id=5)] == [5, 6]
