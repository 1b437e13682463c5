"""Every benchmark, read from a small one in its true format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuts3d_cli.cut.masks import decode_rle, rle_area
from cuts3d_cli.errors import DatasetError
from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS
from cuts3d_cli.evaluation.datasets.coco import read_coco
from cuts3d_cli.evaluation.datasets.kitti import read_kitti
from cuts3d_cli.evaluation.datasets.voc import read_voc
from tests.support.datasets import (
    HEIGHT,
    OPEN_IMAGES_HEAD,
    WIDTH,
    coco,
    coco_content,
    kitti_line,
    lvis,
    opened,
    photo,
    polygon,
    voc,
    voc_object,
    voc_xml,
    write,
)


def test_coco(tmp_path: Path):
    coco(tmp_path / "coco")
    dataset = opened("coco", tmp_path, images=2)
    assert (dataset.name, dataset.masks, dataset.missing) == ("coco", True, 0)
    assert dataset.paths == {number: tmp_path / f"coco/val2017/{number:012}.jpg" for number in (139, 285)}
    facts = dataset.truth.images[139]
    assert (facts.file, facts.width, facts.height) == ("000000000139.jpg", WIDTH, HEIGHT)
    thing, crowd = dataset.truth.instances[139]
    assert (thing.box, thing.area, thing.crowd) == ((10, 10, 20, 10), 150, False)
    assert thing.mask is not None
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[10:20, 10:20] = expected[10:20, 25:30] = True
    np.testing.assert_array_equal(decode_rle(thing.mask), expected)
    assert (crowd.box, crowd.area, crowd.crowd) == ((0, 0, 1, 5), 5, True)
    assert crowd.mask is not None
    assert rle_area(crowd.mask) == 5
    assert dataset.truth.instances[285] == []
    assert not dataset.truth.warnings


LISTED = "COCO_train2014_{:012}.jpg"


def coco20k_photos(root: Path) -> None:
    for number in (9, 30):
        photo(root / f"coco/train2014/{LISTED.format(number)}")


def test_coco20k_from_the_list_of_its_images(tmp_path: Path):
    coco20k_photos(tmp_path)
    content = coco_content(LISTED, (30, 9, 77))
    write(tmp_path / "coco/annotations/instances_train2014.json", content)
    names = "".join(f"train2014/{LISTED.format(number)}\n" for number in (9, 30))
    write(tmp_path / "coco/coco_20k_filenames.txt", names)
    dataset = opened("coco20k", tmp_path, images=2)
    assert sorted(dataset.truth.images) == [9, 30]
    assert [len(dataset.truth.instances[number]) for number in (9, 30)] == [0, 2]


@pytest.mark.parametrize(
    "file", ["annotations/coco20k_trainval_gt.json", "annotations/instances_train2014_sel20k.json"]
)
def test_coco20k_from_a_file_of_its_images_alone(tmp_path: Path, file: str):
    coco20k_photos(tmp_path)
    write(tmp_path / "coco" / file, coco_content(LISTED, (9, 30)))
    assert sorted(opened("coco20k", tmp_path, images=2).paths) == [9, 30]


def test_lvis(tmp_path: Path):
    dataset = opened("lvis", lvis(tmp_path), images=2)
    assert dataset.masks
    assert dataset.paths == {
        397133: tmp_path / "coco/val2017/000000397133.jpg",
        98304: tmp_path / "coco/train2017/000000098304.jpg",
    }
    (item,) = dataset.truth.instances[98304]
    assert (item.box, item.area, item.crowd) == ((1, 2, 10, 10), 99.5, False)
    assert item.mask is not None
    assert rle_area(item.mask) == 100


def test_voc_takes_trainval_and_test_with_difficult_objects_as_crowds(tmp_path: Path):
    part = (
        "<part>\n<name>head</name>\n<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox>\n</part>"
    )
    voc(
        tmp_path / "VOCdevkit/VOC2007",
        {"trainval": ["000005", "000012"], "test": ["000001"], "train": ["000005"]},
        {
            "000001": voc_xml([voc_object((1, 1, WIDTH, HEIGHT))]),
            "000005": voc_xml([voc_object((11, 21, 20, 40), part=part), voc_object((2, 3, 4, 5), difficult=1)]),
            "000012": voc_xml([]),
            "000099": voc_xml([]),
        },
    )
    dataset = opened("voc", tmp_path, images=3)
    assert not dataset.masks
    assert {number: path.name for number, path in dataset.paths.items()} == {
        1: "000001.jpg",
        2: "000005.jpg",
        3: "000012.jpg",
    }
    (whole,) = dataset.truth.instances[1]
    assert (whole.box, whole.area, whole.mask) == ((0, 0, WIDTH, HEIGHT), WIDTH * HEIGHT, None)
    plain, difficult = dataset.truth.instances[2]
    assert (plain.box, plain.area, plain.crowd) == ((10, 20, 10, 20), 200, False)
    assert (difficult.box, difficult.crowd) == ((1, 2, 3, 3), True)
    assert dataset.truth.instances[3] == []


@pytest.mark.parametrize("name", ["clipart", "comic", "watercolor"])
def test_art_is_in_the_format_of_voc(tmp_path: Path, name: str):
    text = voc_xml([voc_object((11, 21, 20, 40))])
    voc(tmp_path / name, {"train": ["375390294"], "test": ["163330523"]}, {"375390294": text, "163330523": text})
    dataset = opened(name, tmp_path, images=2)
    assert [item.box for items in dataset.truth.instances.values() for item in items] == [(10, 20, 10, 20)] * 2
    assert [path.name for path in dataset.paths.values()] == ["163330523.jpg", "375390294.jpg"]


def test_a_size_that_the_xml_does_not_have_is_the_photos(tmp_path: Path):
    folder = voc(
        tmp_path / "comic", {"train": ["a"], "test": ["b"]}, {"a": voc_xml([], width=0), "b": voc_xml([], height=0)}
    )
    photo(folder / "JPEGImages/b.jpg", width=20, height=30)
    sizes = opened("comic", tmp_path, images=2).truth.images
    assert [(item.width, item.height) for item in sizes.values()] == [(WIDTH, HEIGHT), (20, 30)]


def test_objects365(tmp_path: Path):
    files = ["images/v1/patch8/objects365_v1_00420917.jpg", "images/v2/patch16/objects365_v2_00908726.jpg"]
    images = [
        {"height": HEIGHT, "id": number, "license": 5, "width": WIDTH, "file_name": file, "url": ""}
        for number, file in zip((420917, 908726), files, strict=True)
    ]
    annotation = {"isfake": 0, "isreflected": 0, "category_id": 95, "image_id": 420917}
    annotations = [
        annotation | {"id": 10, "iscrowd": 0, "area": 199.99, "bbox": [5.5, 6.0, 20.0, 10.0]},
        annotation | {"id": 11, "iscrowd": 1, "area": 50.0, "bbox": [-1.0, 40.0, 5.0, 10.0]},
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"name": "Person", "id": 1}]}
    write(tmp_path / "objects365/zhiyuan_objv2_val.json", content)
    # As the archives are unpacked: the first with all of the path, the second without its beginning.
    photo(tmp_path / "objects365/val" / files[0])
    photo(tmp_path / "objects365/val/patch16/objects365_v2_00908726.jpg")
    dataset = opened("objects365", tmp_path, images=2)
    assert not dataset.masks
    one, crowd = dataset.truth.instances[420917]
    assert (one.box, one.area, one.crowd, one.mask) == ((5.5, 6, 20, 10), 199.99, False, None)
    assert (crowd.box, crowd.crowd) == ((-1, 40, 5, 10), True)
    assert [path.name for path in dataset.paths.values()] == [Path(file).name for file in files]


def test_kitti_has_dont_care_regions_as_crowds(tmp_path: Path):
    folder = tmp_path / "kitti/training"
    lines = [
        kitti_line("Pedestrian", (7.12, 14.3, 18.12, 30.3)),
        kitti_line("Misc", (0, 0, 10, 10)),
        "DontCare -1 -1 -10 50.00 10.00 60.50 20.00 -1 -1 -1 -1000 -1000 -1000 -10\n",
    ]
    write(folder / "label_2/000000.txt", "".join(lines))
    write(folder / "label_2/000001.txt", "")
    photo(folder / "image_2/000000.png")
    photo(folder / "image_2/000001.png", width=70, height=30)
    dataset = opened("kitti", tmp_path, images=2)
    sizes = {number: (item.width, item.height) for number, item in dataset.truth.images.items()}
    assert sizes == {1: (WIDTH, HEIGHT), 2: (70, 30)}
    first, second, region = dataset.truth.instances[1]
    assert first.box == pytest.approx((7.12, 14.3, 11, 16))
    assert first.area == pytest.approx(176)
    assert (second.box, first.crowd, second.crowd) == ((0, 0, 10, 10), False, False)
    assert (region.box, region.crowd) == ((50, 10, 10.5, 10), True)
    assert dataset.truth.instances[2] == []


def test_kitti_may_have_jpegs(tmp_path: Path):
    write(tmp_path / "kitti/label_2/000007.txt", kitti_line("Car", (0, 0, 10, 10)))
    photo(tmp_path / "kitti/JPEGImages/000007.jpg")
    assert opened("kitti", tmp_path, images=1).paths == {1: tmp_path / "kitti/JPEGImages/000007.jpg"}


def test_uvo(tmp_path: Path):
    content = {
        "info": {},
        "images": [{"id": 3, "width": WIDTH, "height": HEIGHT, "file_name": "GkJ8kuUGgHk/30.png"}],
        "annotations": [
            {
                "id": 0,
                "image_id": 3,
                "category_id": 0,
                "iscrowd": 0,
                "bbox": [3, 4, 10, 10],
                "area": 100,
                "segmentation": [polygon(3, 4, 10, 10)],
            }
        ],
        "categories": [{"id": 0, "name": "object"}],
    }
    write(tmp_path / "uvo/FrameSet/UVO_frame_val.json", content)
    photo(tmp_path / "uvo/uvo_videos_sparse_frames/GkJ8kuUGgHk/30.png")
    photo(tmp_path / "uvo/uvo_videos_sparse_frames/another/30.png")
    dataset = opened("uvo", tmp_path, images=1)
    assert dataset.paths == {3: tmp_path / "uvo/uvo_videos_sparse_frames/GkJ8kuUGgHk/30.png"}
    (item,) = dataset.truth.instances[3]
    assert (item.box, item.area) == ((3, 4, 10, 10), 100)


def test_open_images_has_groups_as_crowds(tmp_path: Path):
    rows = [
        "0001eeaf4aed83f9,xclick,/m/0cmf2,1,0.25,0.75,0.5,1,0,0,0,0,0\n",
        "0001eeaf4aed83f9,xclick,/m/0cmf2,1,0,0.5,0.25,0.5,1,0,1,0,0\n",
        "000595fe6fee6369,xclick,/m/02wbm,1,0,1,0,1,0,1,0,0,1\n",
    ]
    write(tmp_path / "openimages/validation-annotations-bbox.csv", OPEN_IMAGES_HEAD + "".join(rows))
    photo(tmp_path / "openimages/validation/0001eeaf4aed83f9.jpg", width=80, height=40)
    photo(tmp_path / "openimages/validation/000595fe6fee6369.jpg", width=80, height=40, orientation=6)
    photo(tmp_path / "openimages/validation/ffffffffffffffff.jpg")
    dataset = opened("openimages", tmp_path, images=2)
    one, group = dataset.truth.instances[1]
    assert (one.box, one.area, one.crowd) == ((20, 20, 40, 20), 800, False)
    assert (group.box, group.crowd) == ((0, 10, 40, 10), True)
    (turned,) = dataset.truth.instances[2]
    assert turned.box == (0, 0, 40, 80)
    assert [(item.width, item.height) for item in dataset.truth.images.values()] == [(80, 40), (40, 80)]


# ---------------------------------------------------------------------------------------------- damage


def test_a_damaged_mask_gives_way_to_its_box_with_a_warning(tmp_path: Path):
    folder = coco(tmp_path / "coco")
    path = folder / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    write(path, content)
    dataset = opened("coco", tmp_path, images=2)
    item = dataset.truth.instances[139][0]
    assert item.mask is not None
    assert (rle_area(item.mask), item.area) == (200, 150)
    (warning,) = dataset.truth.warnings
    assert "1 of 2 annotations have a damaged segmentation, and their box takes its place: annotations 1768" in warning


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda content: content["annotations"][1].update(bbox=None, segmentation=None),
            "entry 1 of 'annotations' is damaged",
        ),
        (lambda content: content["annotations"][1].update(bbox=[1, 2, 3]), "entry 1 of 'annotations' is damaged"),
        (lambda content: content["annotations"][1].update(iscrowd=2), "entry 1 of 'annotations' is damaged"),
        (
            lambda content: content["annotations"][0].update(image_id=7),
            "entry 0 of 'annotations' has no image in the file",
        ),
        (lambda content: content["annotations"].append(None), "entry 2 of 'annotations' has no image in the file"),
        (
            lambda content: content["images"][1].update(file_name="", coco_url=None),
            "entry 1 of 'images' is damaged",
        ),
        (lambda content: content["images"][1].update(width="64"), "entry 1 of 'images' is damaged"),
        (lambda content: content["images"][1].update(id=139), "entry 1 of 'images' is damaged"),
        (lambda content: content.pop("annotations"), "is not a COCO JSON"),
    ],
)
def test_a_damaged_json_is_told(tmp_path: Path, change: object, words: str):
    folder = coco(tmp_path / "coco")
    path = folder / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    change(content)  # type: ignore[operator]
    write(path, content)
    with pytest.raises(DatasetError, match=rf"instances_val2017\.json.*{words}"):
        opened("coco", tmp_path, images=2)


def test_a_json_that_is_cut_off_is_told(tmp_path: Path):
    folder = coco(tmp_path / "coco")
    path = folder / "annotations/instances_val2017.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"instances_val2017\.json is not JSON .*: fetch it again"):
        opened("coco", tmp_path, images=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation><object>", r"a\.xml is damaged"),
        (voc_xml(["<object><name>dog</name></object>"]), r"a\.xml is damaged \(an object has no complete bndbox\)"),
        (voc_xml([voc_object((1, 2, 3, 4)).replace("<xmin>1<", "<xmin>one<")]), r"a\.xml is damaged"),
    ],
)
def test_a_damaged_xml_is_told(tmp_path: Path, text: str, words: str):
    voc(tmp_path / "comic", {"train": ["a"], "test": []}, {"a": text})
    with pytest.raises(DatasetError, match=words):
        opened("comic", tmp_path, images=1)


def test_a_missing_xml_is_told(tmp_path: Path):
    voc(tmp_path / "comic", {"train": ["a"], "test": ["b"]}, {"a": voc_xml([])})
    with pytest.raises(DatasetError, match=r"b\.xml cannot be read: No such file .*: the annotations are incomplete"):
        opened("comic", tmp_path, images=2)


@pytest.mark.parametrize("line", ["Car 0.00 0 -0.20 1 2 3\n", kitti_line("Car", (1, 2, 3, 4)).replace("1.00", "x")])
def test_a_damaged_label_of_kitti_is_told(tmp_path: Path, line: str):
    write(tmp_path / "kitti/label_2/000000.txt", kitti_line("Car", (1, 2, 3, 4)) + line)
    photo(tmp_path / "kitti/image_2/000000.png")
    with pytest.raises(DatasetError, match=r"000000\.txt, line 2 is not a label of KITTI"):
        opened("kitti", tmp_path, images=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a CSV of boxes: there is no column ImageID, IsGroupOf"),
        ("ImageID,XMin,XMax,YMin,YMax\n", "there is no column IsGroupOf"),
        (OPEN_IMAGES_HEAD + "a,xclick,/m/0cmf2,1,0,1,0,1,0,0,0,0,0\nb,xclick,/m/0", "line 3 is damaged or cut off"),
        (OPEN_IMAGES_HEAD + "a,xclick,/m/0cmf2,1,left,1,0,1,0,0,0,0,0\n", "line 2 is damaged or cut off"),
    ],
)
def test_a_damaged_csv_is_told(tmp_path: Path, text: str, words: str):
    write(tmp_path / "openimages/validation-annotations-bbox.csv", text)
    photo(tmp_path / "openimages/validation/a.jpg")
    with pytest.raises(DatasetError, match=rf"bbox\.csv.*{words}"):
        opened("openimages", tmp_path, images=1)


def test_a_photo_without_a_size_that_is_damaged_is_told(tmp_path: Path):
    write(tmp_path / "kitti/label_2/000000.txt", kitti_line("Car", (1, 2, 3, 4)))
    write(tmp_path / "kitti/image_2/000000.png", "no photo")
    with pytest.raises(DatasetError, match=r"000000\.png is not a photo, or is damaged"):
        opened("kitti", tmp_path, images=1)


def test_every_benchmark_is_tested_here():
    assert set(BENCHMARKS) == {
        *("coco", "coco20k", "lvis", "voc", "objects365", "kitti", "uvo", "openimages", "clipart", "comic"),
        "watercolor",
    }


@pytest.mark.parametrize(
    "changes",
    [{"image_id": []}, {"image_id": {}}, {"segmentation": None, "bbox": [1e12, 0, 5, 5]}, {"bbox": [float("nan")] * 4}],
)
def test_odd_values_in_a_published_json_are_told(tmp_path: Path, changes: dict[str, Any]):
    content = coco_content("{:012}.jpg", (139,))
    content["annotations"][0] |= changes
    path = write(tmp_path / "x.json", content)
    with pytest.raises(DatasetError, match="entry 0 of 'annotations'"):
        read_coco(path, masks=True)


def test_an_image_of_impossible_size_is_told(tmp_path: Path):
    content = coco_content("{:012}.jpg", (139,))
    content["images"][0]["height"] = 2**31
    with pytest.raises(DatasetError, match="entry 0 of 'images' is damaged"):
        read_coco(write(tmp_path / "x.json", content), masks=True)


@pytest.mark.parametrize("value", ["inf", "nan", "1e999", "1e300"])
def test_numbers_that_are_none_are_told(tmp_path: Path, value: str):
    write(tmp_path / "list.txt", "a\n")
    box = voc_object((1, 2, 9, 8)).replace("<xmax>9<", f"<xmax>{value}<")
    write(tmp_path / "a.xml", voc_xml([box]))
    with pytest.raises(DatasetError, match=r"a\.xml is damaged"):
        read_voc(tmp_path, tmp_path / "list.txt")
    write(tmp_path / "a.xml", voc_xml([]).replace("<width>64<", "<width>inf<"))
    with pytest.raises(DatasetError, match=r"a\.xml is damaged"):
        read_voc(tmp_path, tmp_path / "list.txt")
    write(tmp_path / "kitti/000000.txt", kitti_line("Car", (1, 2, 3, 4)).replace("3.00", value))
    with pytest.raises(DatasetError, match="is not a label of KITTI"):
        read_kitti(tmp_path / "kitti")
