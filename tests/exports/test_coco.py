from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from cuts3d_cli.cut.masks import encode_rle, rle_area, rle_box
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome
from cuts3d_cli.errors import FileError, ShardError
from cuts3d_cli.exports.exporting import Exported, Request, export
from cuts3d_cli.shards.names import sidecar
from cuts3d_cli.sidecars.photos import FACTS
from tests.support.photos import write_shard
from tests.support.tars import tar_of

WIDTH, HEIGHT = 30, 20


def shard(path: Path, samples: Sequence[tuple[str, int | None, int | None]]) -> Path:
    """A base shard with its pseudo sidecar of (key, id, number of masks), failed where the number is None."""
    write_shard(
        path,
        {
            key: {"jpg": b"x"}
            | ({FACTS: json.dumps({"id": number, "source": f"{key}.JPG"}).encode()} if number else {})
            for key, number, _ in samples
        },
    )
    return with_masks(path, {key: count for key, _, count in samples})


def with_masks(path: Path, masks: Mapping[str, int | None]) -> Path:
    """A base shard with a pseudo sidecar of so many masks by key; an image failed where the number is None."""

    def outcomes(base: Path) -> Any:
        for key, count in masks.items():
            if count is None:
                yield Outcome(key=key, failure="it is broken")
            else:
                yield Outcome(key=key, members={"pseudo.json": json.dumps(record(count)).encode()})

    run_shards(
        [path],
        stage="pseudo",
        config={},
        inputs=lambda base: {"base": base},
        outcomes=outcomes,
        if_exists="overwrite",
    )
    return path


def record(count: int) -> dict[str, Any]:
    instances = []
    for number in range(count):
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[2 + number : 10, 3:9] = True
        code = encode_rle(mask)
        instances.append({"segmentation": code, "bbox": rle_box(code), "area": rle_area(code)})
    return {"height": HEIGHT, "width": WIDTH, "instances": instances}


def export_coco(shards: Sequence[Path], path: Path) -> Exported:
    return export(shards, Request(to="coco", out=path, if_exists="overwrite"))


def load(path: Path) -> COCO:
    """With pycocotools' own checks and indices."""
    return COCO(str(path))


def test_it_is_a_coco_file(tmp_path: Path):
    base = shard(tmp_path / "a.tar", [("x", 7, 2), ("y", 9, 0), ("z", 11, None), ("w", 12, 3)])
    exported = export_coco([base], tmp_path / "m.json")
    assert (exported.photos, exported.instances, exported.empty, exported.failed) == (3, 5, 1, 1)
    coco = load(tmp_path / "m.json")
    assert {image["id"]: image["file_name"] for image in coco.dataset["images"]} == {
        7: "x.JPG",
        9: "y.JPG",
        12: "w.JPG",
    }
    for image in coco.dataset["images"]:
        assert (image["width"], image["height"]) == (WIDTH, HEIGHT)
    assert coco.getCatIds() == [1]
    assert [len(coco.getAnnIds(imgIds=number)) for number in (7, 9, 12)] == [2, 0, 3]
    annotation = coco.loadAnns(coco.getAnnIds(imgIds=7))[0]
    assert (annotation["bbox"], annotation["area"], annotation["iscrowd"]) == ([3, 2, 6, 8], 48, 0)
    mask = coco.annToMask(annotation)
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask[2:10, 3:9].all()
    assert mask.sum() == 48


def test_annotation_ids_count_from_1_without_gaps_or_repeats(tmp_path: Path):
    bases = [
        shard(tmp_path / f"{name}.tar", [(f"{name}{n}", None, count) for n, count in enumerate(counts)])
        for name, counts in (("a", [3, 2, 0]), ("b", [4, 1]))
    ]
    export_coco(bases, tmp_path / "m.json")
    coco = load(tmp_path / "m.json")
    assert [item["id"] for item in coco.dataset["annotations"]] == list(range(1, 11))
    assert [item["image_id"] for item in coco.dataset["annotations"]] == [1, 1, 1, 2, 2, 4, 4, 4, 4, 5]


@pytest.mark.parametrize("ids", [(3, 3), (3, None)])
def test_image_ids_that_are_not_unique_are_counted_anew(tmp_path: Path, ids: tuple[int | None, int | None]):
    bases = [shard(tmp_path / f"{n}.tar", [(f"k{n}", number, 1)]) for n, number in enumerate(ids)]
    export_coco(bases, tmp_path / "m.json")
    coco = load(tmp_path / "m.json")
    assert coco.getImgIds() == [1, 2]
    assert [item["image_id"] for item in coco.dataset["annotations"]] == [1, 2]


def test_in_shards_of_other_programs_the_name_in_the_tar_names_the_image(tmp_path: Path):
    members = ["./folder/x.JPEG", ("y.json", b'{"source": "laion", "id": 5}'), "y.png"]
    base = with_masks(tar_of(tmp_path / "a.tar", members), {"folder/x": 1, "y": 1})
    export_coco([base], tmp_path / "m.json")
    images = json.loads((tmp_path / "m.json").read_text())["images"]
    assert [(item["id"], item["file_name"]) for item in images] == [(1, "folder/x.JPEG"), (2, "y.png")]


def test_the_same_masks_give_the_same_bytes(tmp_path: Path):
    base = shard(tmp_path / "a.tar", [("x", 7, 2)])
    for name in ("m.json", "n.json"):
        export_coco([base], tmp_path / name)
    assert (tmp_path / "m.json").read_bytes() == (tmp_path / "n.json").read_bytes()


def test_missing_masks_are_told_and_an_older_file_stays(tmp_path: Path):
    bases = [shard(tmp_path / "a.tar", [("x", 7, 2)]), write_shard(tmp_path / "b.tar", {"y": {"jpg": b"x"}})]
    (tmp_path / "m.json").write_text("old")
    with pytest.raises(ShardError, match=r"b\.pseudo\.tar is missing or unfinished: run `cuts3d pseudo` first"):
        export_coco(bases, tmp_path / "m.json")
    assert (tmp_path / "m.json").read_text() == "old"


def test_damaged_masks_are_told(tmp_path: Path):
    base = shard(tmp_path / "a.tar", [("x", 7, 2)])
    tar = sidecar(base, "pseudo")
    tar.write_bytes(tar.read_bytes().replace(b'{"height"', b'["height"'))
    with pytest.raises(ShardError, match=r"a\.pseudo\.tar has changed since it was written"):
        export_coco([base], tmp_path / "m.json")
    shard(base, [("x", 7, 2)])
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FileError, match="file is not a folder, and a folder is needed"):
        export_coco([base], tmp_path / "file/m.json")
