"""Every format is read back: by its own tool's library where that is installed, else by the rules of its page."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.exports.exporting import Request, export
from cuts3d_cli.exports.formats import FORMATS
from cuts3d_cli.exports.label_studio import brush_code
from cuts3d_cli.figures.palette import instance_colours
from tests.support.found import FOUND, HEIGHT, PARTS, PLAIN, RING, WIDTH, detect, with_masks

Masks = list[NDArray[np.bool_]]
EXPECTED: Mapping[str, Masks] = {file: list(masks) for file, masks in FOUND.items() if masks is not None}


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return with_masks(tmp_path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def write(shards: list[Path], to: str, out: Path, **more: Any) -> dict[str, int]:
    return dict(export(shards, Request(to=to, out=out, **more)).to_json()["changed"])


def same(found: Mapping[str, Masks], expected: Mapping[str, Masks] = EXPECTED) -> None:
    assert set(found) == set(expected)
    for file, masks in expected.items():
        assert len(found[file]) == len(masks), file
        for one, other in zip(found[file], masks, strict=True):
            np.testing.assert_array_equal(one, other)


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


# ---------------------------------------------------------------------------------------------- coco


def test_coco_is_read_by_pycocotools(shards: list[Path], out: Path):
    write(shards, "coco", out, category="thing")
    coco = COCO(str(out / "annotations.json"))
    assert coco.loadCats(coco.getCatIds()) == [{"id": 1, "name": "thing", "supercategory": "thing"}]
    assert coco.dataset["licenses"] == []
    assert coco.dataset["info"]["description"].startswith("pseudo-masks by cuts3d ")
    found = {
        image["file_name"]: [coco.annToMask(item).astype(bool) for item in coco.loadAnns(coco.getAnnIds(imgIds=number))]
        for number, image in coco.imgs.items()
    }
    same(found)
    assert {item["score"] for item in coco.anns.values()} == {1}


def test_coco_may_have_the_photos_beside_it(shards: list[Path], out: Path):
    write(shards, "coco", out, photos=True)
    names = [item["file_name"] for item in json.loads((out / "annotations.json").read_text())["images"]]
    assert names == ["empty.jpg", "sub/a.jpg", "sub/c\u00e9.PNG"]
    source = shards[0].parent.parent / "source"
    for name in names:
        assert (out / "images" / name).read_bytes() == (source / name).read_bytes()


def test_coco_results_are_evaluated_by_pycocotools(shards: list[Path], out: Path):
    detect(shards[0], {"sub/a.jpg": [(mask, 0.5) for mask in EXPECTED["sub/a.jpg"]], "sub/c\u00e9.PNG": [(RING, 0.9)]})
    write(shards, "coco", out / "truth.json")
    write(shards, "coco-results", out / "results.json", source="detections")
    truth = COCO(str(out / "truth.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(out / "results.json")), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_fiftyones_folder_is_that_of_its_page(shards: list[Path], out: Path):
    write(shards, "fiftyone", out)
    content = json.loads((out / "labels.json").read_text())
    for image in content["images"]:
        with Image.open(out / "data" / image["file_name"]) as photo:
            assert photo.size == (image["width"], image["height"])
    same({item["file_name"]: masks_of(content, item["id"]) for item in content["images"]})


def masks_of(content: dict[str, Any], image: int) -> Masks:
    return [decode_rle(item["segmentation"]) for item in content["annotations"] if item["image_id"] == image]


def test_fiftyone_loads_its_folder(shards: list[Path], out: Path):
    fiftyone = pytest.importorskip("fiftyone")
    write(shards, "fiftyone", out)
    dataset = fiftyone.Dataset.from_dir(
        dataset_dir=str(out), dataset_type=fiftyone.types.COCODetectionDataset, label_types=["segmentations"]
    )
    found = {}
    for sample in dataset:
        masks = []
        for item in sample.segmentations.detections if sample.segmentations else []:
            mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
            x, y = round(item.bounding_box[0] * WIDTH), round(item.bounding_box[1] * HEIGHT)
            mask[y : y + item.mask.shape[0], x : x + item.mask.shape[1]] = item.mask
            masks.append(mask)
        found[str(Path(sample.filepath).relative_to(out / "data"))] = masks
    same(found)


# ---------------------------------------------------------------------------------------------- images and arrays


def test_a_png_a_mask(shards: list[Path], out: Path):
    write(shards, "png", out)
    rows = list(csv.DictReader((out / "instances.csv").open(encoding="utf-8")))
    assert [row["file"] for row in rows] == ["sub/a-001.png", "sub/a-002.png", "sub/a-003.png", "sub/c\u00e9-001.png"]
    found: dict[str, Masks] = {}
    for row in rows:
        with Image.open(out / row["file"]) as image:
            assert image.mode == "L"
            pixels = np.asarray(image)
        assert set(np.unique(pixels)) == {0, 255}
        found.setdefault(row["photo"], []).append(pixels > 0)
        assert int(row["area"]) == (pixels > 0).sum()
    same(found, {file: masks for file, masks in EXPECTED.items() if masks})
    assert rows[0] == {
        "photo": "sub/a.jpg",
        "file": "sub/a-001.png",
        "instance": "1",
        "score": "1.0",
        "x": "2.0",
        "y": "3.0",
        "width": "10.0",
        "height": "10.0",
        "area": "100",
        "class_id": "",
    }


def test_label_maps_are_16_bit_and_show_the_best_score(shards: list[Path], out: Path):
    assert write(shards, "labelmap", out) == {"instances that others hide in part": 1}
    with Image.open(out / "sub/a.png") as image:
        assert image.mode == "I;16"
        labels = np.asarray(image)
    expected = np.zeros((HEIGHT, WIDTH), dtype=int)
    expected[PARTS], expected[RING], expected[PLAIN] = 3, 2, 1  # of equal scores the first is seen
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(cv2.imread(str(out / "sub/a.png"), cv2.IMREAD_UNCHANGED), expected)
    with Image.open(out / "sub/a.colours.png") as image:
        colours = np.asarray(image)
    np.testing.assert_array_equal(colours, np.array([(0, 0, 0), *instance_colours(3)], dtype=np.uint8)[labels])
    assert not np.asarray(Image.open(out / "empty.png")).any()
    detect(shards[0], {"sub/a.jpg": [(PLAIN, 0.5), (RING, 0.75), (RING, 0.25)]})
    changed = write(shards, "labelmap", out.with_name("two"), source="detections")
    assert changed == {"instances that others hide in part": 1, "instances that others hide as a whole": 1}
    assert np.asarray(Image.open(out.with_name("two") / "sub/a.png"))[9, 9] == 2


def test_numpy_reads_the_arrays(shards: list[Path], out: Path):
    write(shards, "numpy", out)
    found = {}
    for path in out.rglob("*.npz"):
        with np.load(path) as arrays:
            assert {name: arrays[name].dtype for name in ("masks", "boxes", "scores")} == {
                "masks": np.dtype(bool),
                "boxes": np.dtype(np.float32),
                "scores": np.dtype(np.float32),
            }
            assert arrays["masks"].shape[1:] == (HEIGHT, WIDTH)
            assert len(arrays["boxes"]) == len(arrays["scores"]) == len(arrays["masks"])
            found[str(arrays["photo"])] = list(arrays["masks"])
            if len(arrays["boxes"]):
                assert arrays["boxes"][0].tolist() in ([2, 3, 12, 13], [8, 5, 26, 25])
    same(found)


# ---------------------------------------------------------------------------------------------- labelme


def shape_mask(shape: dict[str, Any]) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    if shape["shape_type"] == "mask":
        (left, top), (right, bottom) = shape["points"]
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
            mask[top : bottom + 1, left : right + 1] = np.asarray(image) > 0
    else:
        corners = np.array(shape["points"])
        cv2.fillPoly(mask, [(corners - 0.5).round().astype(np.int32)], 1)
    return mask.astype(bool)


def test_labelme_has_polygons_groups_and_masks(shards: list[Path], out: Path):
    changed = write(shards, "labelme", out, category="thing", tolerance=0.0)
    assert changed == {
        "instances with holes, written as masks": 2,
        "instances of several parts, written as polygons of one group": 1,
    }
    content = json.loads((out / "sub/a.json").read_text())
    assert (content["imagePath"], content["imageHeight"], content["imageWidth"]) == ("a.jpg", HEIGHT, WIDTH)
    assert [(item["label"], item["shape_type"], item["group_id"]) for item in content["shapes"]] == [
        ("thing", "polygon", None),
        ("thing", "mask", None),
        ("thing", "polygon", 3),
        ("thing", "polygon", 3),
    ]
    assert content["shapes"][0]["points"] == [[2, 3], [12, 3], [12, 13], [2, 13]]
    np.testing.assert_array_equal(shape_mask(content["shapes"][1]), RING)
    assert json.loads((out / "empty.json").read_text())["shapes"] == []


def test_labelme_opens_its_files(shards: list[Path], out: Path):
    label_file = pytest.importorskip("labelme._label_file")
    utils = pytest.importorskip("labelme.utils")
    write(shards, "labelme", out, photos=True)
    found = {}
    for path in out.rglob("*.json"):
        read = label_file.read_label_file(str(path))
        _, instances = utils.shapes_to_label((HEIGHT, WIDTH, 3), [dict(shape) for shape in read.shapes], {"object": 1})
        found[str(path.relative_to(out).with_name(read.image_path))] = [
            instances == number for number in range(1, instances.max() + 1)
        ]
    assert sorted(found) == sorted(EXPECTED)
    # labelme draws the pixels on a polygon's edge as well, and later shapes over earlier ones.
    assert iou(found["sub/a.jpg"][-1], PARTS) > 0.75
    np.testing.assert_array_equal(found["sub/c\u00e9.PNG"][0], RING)


# ---------------------------------------------------------------------------------------------- yolo


def filled(line: str) -> NDArray[np.bool_]:
    """As Ultralytics fills a polygon, but with edges taken for edges of pixels."""
    corners = np.array(line.split()[1:], dtype=float).reshape(-1, 2) * (WIDTH, HEIGHT) * 8
    mask = np.zeros((HEIGHT * 8, WIDTH * 8), dtype=np.uint8)
    cv2.fillPoly(mask, [corners.round().astype(np.int32)], 1)
    return mask[4::8, 4::8].astype(bool)


def test_yolo_has_a_polygon_an_instance(shards: list[Path], out: Path):
    changed = write(shards, "yolo", out, tolerance=0.0)
    assert changed == {"instances of several parts or with holes, joined to one polygon": 3}
    found = {}
    for path in (out / "images").rglob("*.*"):
        name = path.relative_to(out / "images")
        lines = (out / "labels" / name.with_suffix(".txt")).read_text().splitlines()
        assert all(line.split()[0] == "0" for line in lines)
        assert all(0 <= float(value) <= 1 for line in lines for value in line.split())
        found[str(name)] = [filled(line) for line in lines]
    assert sorted(found) == sorted(EXPECTED)
    np.testing.assert_array_equal(found["sub/a.jpg"][0], PLAIN)
    # What joins two parts is a line of no width, which OpenCV draws one pixel wide.
    assert iou(found["sub/a.jpg"][1], RING) > 0.95
    assert iou(found["sub/a.jpg"][2], PARTS) > 0.95
    assert (out / "data.yaml").read_text() == 'train: images\nval: images\nnames:\n  0: "object"\n'


def test_yolo_is_read_by_supervision(shards: list[Path], out: Path):
    supervision = pytest.importorskip("supervision")
    write(shards, "yolo", out)
    dataset = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(out / "images/sub"),
        annotations_directory_path=str(out / "labels/sub"),
        data_yaml_path=str(out / "data.yaml"),
        force_masks=True,
    )
    assert dataset.classes == ["object"]
    found = {Path(path).name: list(detections.mask) for path, _, detections in dataset}
    assert sorted(found) == ["a.jpg", "c\u00e9.PNG"]
    assert [
        iou(mask, expected) > 0.75 for mask, expected in zip(found["a.jpg"], EXPECTED["sub/a.jpg"], strict=True)
    ] == [True] * 3


# ---------------------------------------------------------------------------------------------- label studio


def decoded(code: list[int]) -> NDArray[np.uint8]:
    """Label Studio's run-length code, by the comment in its own decoder."""
    bits = np.unpackbits(np.array(code, dtype=np.uint8)).tolist()
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int("".join(map(str, bits[at - count : at])), 2)

    values, size = np.zeros(read(32), dtype=np.uint8), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    place = 0
    while place < len(values):
        repeats, end = read(1), place + 1 + read(lengths[read(2)])
        if repeats:
            values[place:end] = read(size)
        else:
            values[place:end] = [read(size) for _ in range(end - place)]
        place = end
    return values


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 30), (300, 400)])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_brush_codes_give_the_mask_again(size: tuple[int, int], share: float):
    mask = np.random.default_rng(0).random(size) < share
    rgba = decoded(brush_code(mask)).reshape(*size, 4)
    assert set(np.unique(rgba)) <= {0, 255}
    for channel in range(4):
        np.testing.assert_array_equal(rgba[..., channel] > 0, mask)


def brush_masks(task: dict[str, Any], decode: Any) -> Masks:
    (prediction,) = task["predictions"]
    return [
        np.asarray(decode(item["value"]["rle"])).reshape(item["original_height"], item["original_width"], 4)[..., 3] > 0
        for item in prediction["result"]
    ]


def test_label_studio_has_tasks_with_predictions(shards: list[Path], out: Path):
    write(shards, "label-studio", out, category='a "b" & c')
    tasks = json.loads((out / "tasks.json").read_text())
    prefix = "/data/local-files/?d="
    same({task["data"]["image"].removeprefix(prefix): brush_masks(task, decoded) for task in tasks})
    region = tasks[1]["predictions"][0]["result"][0]
    config = ElementTree.fromstring((out / "labels.xml").read_text())
    assert config.find("BrushLabels").attrib["name"] == region["from_name"]  # type: ignore[union-attr]
    assert config.find("Image").attrib["name"] == region["to_name"]  # type: ignore[union-attr]
    assert config.find("BrushLabels/Label").attrib["value"] == 'a "b" & c'  # type: ignore[union-attr]
    assert region["value"]["brushlabels"] == ['a "b" & c']
    write(shards, "label-studio", out.with_name("two"), photo_prefix="s3://bucket/")
    (task, *_) = json.loads((out.with_name("two") / "tasks.json").read_text())
    assert task["data"]["image"] == "s3://bucket/empty.jpg"


def test_label_studios_own_decoder_and_checks_agree(shards: list[Path], out: Path):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    write(shards, "label-studio", out)
    tasks = json.loads((out / "tasks.json").read_text())
    same({task["data"]["image"].rpartition("?d=")[2]: brush_masks(task, brush.decode_rle) for task in tasks})
    view = interface.LabelInterface((out / "labels.xml").read_text())
    view.validate()
    for task in tasks:
        assert view.validate_task({"data": task["data"]})
        for prediction in task["predictions"]:
            assert view.validate_prediction(prediction)


# ---------------------------------------------------------------------------------------------- cvat


def test_cvat_has_masks_in_its_own_code(shards: list[Path], out: Path):
    write(shards, "cvat", out, category="a & b")
    root = ElementTree.parse(out / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert root.findtext("meta/task/labels/label/name") == "a & b"
    found = {}
    for number, image in enumerate(root.iter("image")):
        assert (image.get("id"), image.get("width"), image.get("height")) == (str(number), str(WIDTH), str(HEIGHT))
        found[str(image.get("name"))] = [cvat_mask(item) for item in image.iter("mask")]
    same(found)


def cvat_mask(item: ElementTree.Element) -> NDArray[np.bool_]:
    left, top, width, height = (int(str(item.get(name))) for name in ("left", "top", "width", "height"))
    runs = [int(run) for run in str(item.get("rle")).split(",")]
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + height, left : left + width] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(
        height, width
    )
    assert item.get("label") == "a & b"
    return mask


def test_cvat_is_read_by_datumaro(shards: list[Path], out: Path):
    datumaro = pytest.importorskip("datumaro")
    write(shards, "cvat", out, photos=True)
    dataset = datumaro.Dataset.import_from(str(out), "cvat")
    found = {item.id: [mask.image.astype(bool) for mask in item.annotations] for item in dataset}
    same(found, {file.rpartition(".")[0]: masks for file, masks in EXPECTED.items()})


def test_coco_is_read_by_datumaro_and_supervision(shards: list[Path], out: Path):
    datumaro = pytest.importorskip("datumaro")
    supervision = pytest.importorskip("supervision")
    write(shards, "coco", out / "annotations/instances_default.json")
    shutil.copytree(shards[0].parent.parent / "source", out / "images")
    dataset = datumaro.Dataset.import_from(str(out), "coco_instances")
    found = {  # in an order of its own
        item.id: sorted((mask.image.astype(bool) for mask in item.annotations if hasattr(mask, "image")), key=np.sum)
        for item in dataset
    }
    same(found, {file.rpartition(".")[0]: sorted(masks, key=np.sum) for file, masks in EXPECTED.items()})
    read = supervision.DetectionDataset.from_coco(
        images_directory_path=str(out / "images"),
        annotations_path=str(out / "annotations/instances_default.json"),
        force_masks=True,
    )
    found = {str(Path(path).relative_to(out / "images")): list(items.mask) for path, _, items in read if len(items)}
    same(found, {file: masks for file, masks in EXPECTED.items() if masks})


def test_every_format_is_tested_here():
    assert set(FORMATS) == {
        *("coco", "coco-results", "png", "labelmap", "labelme", "yolo", "label-studio", "cvat", "fiftyone", "numpy")
    }
