from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.errors import UsageError
from cuts3d_cli.evaluation.datasets.ground_truth import read_ground_truth
from cuts3d_cli.stages.export import export_coco
from tests.support.shapes import HEIGHT, WIDTH, annotation, coco_file, image, rectangle

BOX = (10, 20, 30, 40)


def written(folder: Path, *annotations: dict[str, Any], **more: Any) -> Path:
    return coco_file(folder / "gt.json", [image(1, "a.jpg"), image(2, "b/c.jpg")], annotations, **more)


def test_boxes_masks_crowds_and_images_without_instances_are_read(tmp_path: Path):
    crowd = annotation(9, 1, (0, 0, 50, 50), iscrowd=1, segmentation=rectangle(0, 0, 50, 50), area=2000.5)
    truth = read_ground_truth(written(tmp_path, annotation(4, 1, BOX), crowd))
    assert {number: (facts.file, facts.width, facts.height) for number, facts in truth.images.items()} == {
        1: ("a.jpg", WIDTH, HEIGHT),
        2: ("b/c.jpg", WIDTH, HEIGHT),
    }
    one, other = truth.instances[1]
    assert (one.box, one.area, one.crowd) == (BOX, 1200, False)
    assert one.mask is not None
    np.testing.assert_array_equal(decode_rle(one.mask), decode_rle(rectangle(*BOX)))
    assert (other.box, other.area, other.crowd, other.mask) == (
        (0, 0, 50, 50),
        2000.5,
        True,
        rectangle(0, 0, 50, 50),
    )
    assert truth.instances[2] == []
    assert truth.warnings == []


def test_what_is_missing_is_made_from_the_rest(tmp_path: Path):
    no_box = annotation(1, 1, BOX, bbox=None, area=None, iscrowd=None, category_id=None)
    (item,) = read_ground_truth(written(tmp_path, no_box, categories=None)).instances[1]
    assert (item.box, item.area, item.crowd) == (BOX, 1200, False)
    no_mask = annotation(1, 1, (1.5, 2, 3, 4), segmentation=None, area=None)
    (item,) = read_ground_truth(written(tmp_path, no_mask)).instances[1]
    assert (item.box, item.area, item.mask) == ((1.5, 2, 3, 4), 12, None)


def test_any_categories_become_one(tmp_path: Path):
    path = written(
        tmp_path,
        annotation(1, 1, BOX, category_id=90),
        annotation(2, 1, BOX, category_id=7),
        categories=[{"id": 7, "name": "a"}, {"id": 90, "name": "b"}],
    )
    first, second = read_ground_truth(path).instances[1]
    assert first == second


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ([annotation(0, 1, BOX)], "annotation 0: COCO's evaluation takes an id of 0 for 'no match'"),
        ([annotation(-3, 1, BOX)], "annotation -3: "),
        ([annotation(5, 1, BOX), annotation(5, 2, BOX)], "annotation 5: two annotations have this id"),
        ([annotation(5, 1, BOX, id=None)], "entry 0 of 'annotations' needs a whole number 'id'"),
        ([annotation(5, 1, BOX, id=True)], "entry 0 of 'annotations' needs a whole number 'id'"),
        ([7], "entry 0 of 'annotations' needs a whole number 'id'"),
        ([annotation(5, 1, BOX, category_id=0)], "annotation 5: its category_id is 0"),
        ([annotation(5, 77, BOX)], "annotation 5: its image_id 77 is not the id of an image"),
        ([annotation(5, 1, BOX, image_id=[1])], r"annotation 5: its image_id \[1\] is not the id of an image"),
        ([annotation(5, 1, BOX, bbox=[1, 2, -3, 4])], "annotation 5: its bbox .* has a negative size"),
        ([annotation(5, 1, BOX, bbox=[301, 2, 3, 4])], "annotation 5: its bbox .* outside a.jpg, which is 300x200"),
        ([annotation(5, 1, BOX, bbox=[-9, 2, 3, 4])], "annotation 5: its bbox .* outside a.jpg"),
        ([annotation(5, 1, BOX, bbox=[1, 2, 3])], r"annotation 5: its bbox is \[1, 2, 3\]"),
        ([annotation(5, 1, BOX, bbox=[1, 2, 3, "4"])], "annotation 5: its bbox is"),
        ([annotation(5, 1, BOX, bbox=None, segmentation=None)], "annotation 5: its bbox is None"),
        ([annotation(5, 1, BOX, area="big")], "annotation 5: its area is 'big'"),
        ([annotation(5, 1, BOX, area=-1)], "annotation 5: its area is -1"),
        ([annotation(5, 1, BOX, iscrowd=2)], "annotation 5: its iscrowd is 2"),
        (
            [annotation(5, 1, BOX, segmentation=rectangle(1, 1, 2, 2, size=(WIDTH, HEIGHT)))],
            r"annotation 5: its segmentation has the size \(height, width\) \[300, 200\], its image \[200, 300\]",
        ),
        ([annotation(5, 1, BOX, segmentation=[[1, 2, 3, 4]])], "annotation 5: its segmentation has a polygon"),
    ],
)
def test_a_bad_annotation_is_named_with_its_file(tmp_path: Path, annotations: list[Any], words: str):
    with pytest.raises(UsageError, match=rf"gt\.json: {words}"):
        read_ground_truth(written(tmp_path, *annotations))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([image(1, "a.jpg"), image(1, "b.jpg")], "image 1: two images have this id"),
        ([{"file_name": "a.jpg"}], "entry 0 of 'images' needs a whole number 'id'"),
        ([image(1, "")], "image 1 needs a 'file_name'"),
        ([{"id": 1, "file_name": "a.jpg", "width": 5}], "image 1 needs a 'width' and a 'height'"),
        ([image(1, "a.jpg", width=0)], "image 1 needs a 'width' and a 'height'"),
    ],
)
def test_a_bad_image_is_named_with_its_file(tmp_path: Path, images: list[Any], words: str):
    with pytest.raises(UsageError, match=rf"gt\.json: {words}"):
        read_ground_truth(coco_file(tmp_path / "gt.json", images, []))


def test_a_category_of_id_0_is_refused_even_without_annotations(tmp_path: Path):
    with pytest.raises(UsageError, match=r"gt\.json: a category has the id 0"):
        read_ground_truth(written(tmp_path, categories=[{"id": 0, "name": "fg"}]))


def test_an_image_id_of_0_is_fine(tmp_path: Path):
    path = coco_file(tmp_path / "gt.json", [image(0, "a.jpg")], [annotation(1, 0, BOX)])
    assert len(read_ground_truth(path).instances[0]) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[]", "is not a COCO JSON"),
        (b'[{"image_id": 1, "score": 0.5}]', "is not a COCO JSON"),
        (b'{"images": []}', "is not a COCO JSON"),
        (b'{"images": {}, "annotations": []}', "is not a COCO JSON"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, words: str):
    path = tmp_path / "gt.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"gt\.json {words}"):
        read_ground_truth(path)
    with pytest.raises(UsageError, match=r"no such folder.*cannot be read: No such file"):
        read_ground_truth(tmp_path / "no such folder" / "gt.json")


@pytest.mark.parametrize(
    "description",
    ["pseudo-masks by cuts3d 0.1.0", "ImageNet-1K: pseudo-masks with MaskCut", "Pseudo labels", "pseudo_masks"],
)
def test_pseudo_masks_are_no_ground_truth(tmp_path: Path, description: str):
    with pytest.raises(UsageError, match=r"gt\.json holds pseudo-masks, not a ground truth"):
        read_ground_truth(written(tmp_path, annotation(1, 1, BOX), info={"description": description}))


def test_our_own_export_is_no_ground_truth(tmp_path: Path):
    export_coco([], tmp_path / "masks.json")
    with pytest.raises(UsageError, match=r"masks\.json holds pseudo-masks"):
        read_ground_truth(tmp_path / "masks.json")


@pytest.mark.parametrize("info", [None, "2017", {"description": None}, {"description": "COCO 2017 Dataset"}])
def test_a_single_category_fg_is_no_sign_of_pseudo_masks(tmp_path: Path, info: Any):
    path = written(tmp_path, annotation(1, 1, BOX, width=WIDTH, height=HEIGHT), info=info)
    assert read_ground_truth(path).warnings == []


def test_masks_are_left_out_where_some_are_missing(tmp_path: Path):
    truth = read_ground_truth(
        written(tmp_path, annotation(1, 1, BOX), annotation(2, 1, BOX, segmentation=[]), annotation(3, 2, BOX))
    )
    assert [item.mask for items in truth.instances.values() for item in items] == [None] * 3
    (warning,) = truth.warnings
    assert warning.endswith(
        "gt.json: 1 of 3 annotations have no segmentation, so boxes alone are compared: annotations 2"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bbox": [250, 20, 60, 40]}, "boxes reach over the edge of their image"),
        ({"bbox": [-2, 20, 60, 40]}, "boxes reach over the edge of their image"),
        ({"score": 0.7}, "annotations have a score, as predictions do"),
        ({"iscrowd": 1, "bbox": [0, 0, 300, 190]}, "crowd regions cover their image"),
    ],
)
def test_what_is_odd_is_a_warning(tmp_path: Path, change: dict[str, Any], words: str):
    path = written(tmp_path, *(annotation(number, 1, BOX, **change) for number in range(3, 8)))
    (warning,) = read_ground_truth(path).warnings
    assert words in warning
    assert " 5 " in warning
    assert warning.endswith("annotations 3, 4, 5, ...")


def test_a_pixel_over_the_edge_is_usual(tmp_path: Path):
    assert read_ground_truth(written(tmp_path, annotation(1, 1, (-0.4, 0, 300.9, 200)))).warnings == []


@pytest.mark.parametrize("categories", [3, 0.5, "x", {"id": 0}, None])
def test_categories_that_are_no_list_play_no_part(tmp_path: Path, categories: object):
    path = tmp_path / "gt.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    assert read_ground_truth(path).images == {}
