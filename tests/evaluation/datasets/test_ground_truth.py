from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.errors import UsageError
from cuts3d_cli.evaluation.datasets.frames import PhotoHead
from cuts3d_cli.evaluation.datasets.ground_truth import list_ground_truth, read_ground_truth
from cuts3d_cli.exports.coco import write_coco
from cuts3d_cli.exports.exporting import TITLES
from cuts3d_cli.exports.options import Options
from cuts3d_cli.exports.output import Output
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


def warnings_of(path: Path) -> list[str]:
    return [line.removeprefix(f"{path}: ") for line in read_ground_truth(path).warnings]


GOOD = annotation(1, 1, BOX)


# ---------------------------------------------------------------------------------------------- ids


@pytest.mark.parametrize(
    ("image_ids", "own"),
    [((0, 1), (0, 1)), (("0", "1"), (0, 1)), ((0.0, 1.0), (0, 1)), ((10**30, -7), (10**30, -7)), (("a1", 7), (0, 1))],
)
@pytest.mark.parametrize("written_as", [lambda number: number, str])
def test_ids_may_be_numbers_from_0_and_texts(tmp_path: Path, image_ids: Any, own: Any, written_as: Any):
    if isinstance(image_ids[0], float) and written_as is str:
        written_as = lambda number: str(int(number))  # noqa: E731
    images = [image(number, f"{place}.jpg") for place, number in enumerate(image_ids)]
    boxes = [annotation(place, written_as(number), BOX, category_id=0) for place, number in enumerate(image_ids)]
    path = coco_file(tmp_path / "gt.json", images, boxes, categories=[{"id": 0, "name": "objects"}, {"id": 1}])
    truth = read_ground_truth(path)
    assert {number: len(items) for number, items in truth.instances.items()} == dict.fromkeys(own, 1)
    assert {number: facts.file for number, facts in truth.images.items()} == dict(
        zip(own, ("0.jpg", "1.jpg"), strict=True)
    )
    assert (truth.warnings, truth.annotations, truth.dropped) == ([], 2, 0)


def test_ids_that_are_texts_are_kept_for_what_is_exported(tmp_path: Path):
    path = coco_file(tmp_path / "gt.json", [image("x-1", "a.jpg"), image("8", "b.jpg")], [])  # type: ignore[arg-type]
    assert [facts.id for facts in read_ground_truth(path).images.values()] == ["x-1", "8"]
    path = coco_file(tmp_path / "gt.json", [image("7", "a.jpg"), image("8", "b.jpg")], [])  # type: ignore[arg-type]
    assert {number: facts.id for number, facts in read_ground_truth(path).images.items()} == {7: None, 8: None}


@pytest.mark.parametrize("number", [0, -3, None, True, "x", 1.5, [1], {"a": 1}, 10**40])
def test_the_id_of_an_annotation_plays_no_part(tmp_path: Path, number: Any):
    path = written(tmp_path, GOOD, annotation(1, 2, BOX) | {"id": number})
    truth = read_ground_truth(path)
    assert [len(items) for items in truth.instances.values()] == [1, 1]
    assert truth.warnings == []


def test_an_id_that_two_annotations_have_is_told_and_a_copy_counts_once(tmp_path: Path):
    path = written(tmp_path, GOOD, annotation(1, 2, BOX), GOOD)
    truth = read_ground_truth(path)
    assert [len(items) for items in truth.instances.values()] == [1, 1]
    assert warnings_of(path) == [
        "1 of 3 annotations stand in the file twice, id and all, and count once: annotations 1",
        "1 of 3 annotations have the id of another one; each counts: annotations 1",
    ]
    assert (truth.annotations, truth.dropped) == (3, 1)


@pytest.mark.parametrize("number", [77, "77", None, [1], True, "", {}])
def test_annotations_of_no_image_are_left_out(tmp_path: Path, number: Any):
    path = written(tmp_path, GOOD, annotation(5, 1, BOX) | {"image_id": number})
    truth = read_ground_truth(path)
    assert (len(truth.instances[1]), truth.dropped) == (1, 1)
    (warning,) = warnings_of(path)
    assert warning.startswith(
        "1 of 2 annotations belong to no image of the file and are left out: annotations 5 (image_id"
    )


def test_a_file_of_which_nothing_is_left_is_refused(tmp_path: Path):
    with pytest.raises(
        UsageError, match=r"gt\.json: 1 of 1 annotations belong to no image.*: not one of its annotations"
    ):
        read_ground_truth(written(tmp_path, annotation(5, 9, BOX)))
    with pytest.raises(
        UsageError, match=r"gt\.json: 2 of 2 annotations belong to no image.*: annotations entry 0 \(image_id None"
    ):
        read_ground_truth(written(tmp_path, 7, None))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- bad annotations


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [1, 2, -3, 4]}, "its bbox [1, 2, -3, 4] has a negative size"),
        ({"bbox": [301, 2, 3, 4]}, "its bbox [301.0, 2.0, 3.0, 4.0] lies outside its image, which is 300x200"),
        ({"bbox": [-9, 2, 3, 4]}, "lies outside its image"),
        ({"bbox": [10, 20, 0, 0]}, "its bbox [10.0, 20.0, 0.0, 0.0] covers nothing"),
        ({"bbox": [1, 2, 3]}, "its bbox is [1, 2, 3]"),
        ({"bbox": [1, 2, 3, "4"]}, "its bbox is [1, 2, 3, '4']"),
        ({"bbox": [1, 2, 3, float("nan")]}, "its bbox is [1, 2, 3, nan]"),
        ({"bbox": "1, 2, 3, 4"}, "its bbox is '1, 2, 3, 4'"),
        ({"bbox": []}, "it has no bbox"),
        ({"bbox": None}, "it has no bbox"),
        ({"bbox": list(range(999))}, "15, 16, 1..."),
    ],
)
def test_a_bad_box_without_a_mask_is_left_out(tmp_path: Path, change: dict[str, Any], reason: str):
    path = written(tmp_path, GOOD, annotation(5, 1, BOX, segmentation=None) | change)
    truth = read_ground_truth(path)
    assert (len(truth.instances[1]), truth.annotations, truth.dropped) == (1, 2, 1)
    (warning,) = warnings_of(path)
    assert warning.startswith("1 of 2 annotations are unusable and left out: annotations 5 (")
    assert reason in warning
    assert truth.instances[1][0].mask is not None


@pytest.mark.parametrize(
    ("bbox", "words"),
    [
        ([1, 2, -3, 4], "have a damaged bbox, and that of their segmentation takes its place"),
        ([1, 2, 3], "have a damaged bbox"),
        ([400, 2, 3, 4], "have a bbox that is not [x, y, width, height] of their segmentation"),
        ([10, 20, 40, 60], "have a bbox that is not [x, y, width, height] of their segmentation"),
        ([0.03, 0.1, 0.1, 0.2], "have a bbox that is not [x, y, width, height] of their segmentation"),
    ],
)
def test_a_bad_box_beside_a_mask_is_the_masks(tmp_path: Path, bbox: list[float], words: str):
    path = written(tmp_path, GOOD, annotation(5, 1, BOX, bbox=bbox))
    assert [item.box for item in read_ground_truth(path).instances[1]] == [BOX, BOX]
    (warning,) = warnings_of(path)
    assert words in warning
    assert "annotations 5 (its bbox " in warning


@pytest.mark.parametrize(
    "bbox", [[9, 19, 32, 41], [8.2, 21, 31, 41], {"x": 10, "y": 20, "width": 30, "height": 40, "cx": 25}]
)
def test_a_box_that_is_rounded_or_written_otherwise_is_kept(tmp_path: Path, bbox: Any):
    assert warnings_of(written(tmp_path, annotation(5, 1, BOX, bbox=bbox))) == []


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4]],
        [[]],
        [[10, 20, 40, 20, 40]],
        [[10, 20, 40, 20, 40, float("nan")]],
        [[1000, 20, 1040, 20, 1040, 60]],
        {"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]},
        {"size": [HEIGHT, WIDTH], "counts": [100, 50, 10]},
        {"size": [HEIGHT, WIDTH], "counts": "abc"},
        {"size": [HEIGHT, WIDTH]},
        "polygon",
        7,
    ],
)
def test_a_bad_mask_is_its_box(tmp_path: Path, segmentation: Any):
    path = written(tmp_path, GOOD, annotation(5, 1, BOX, segmentation=segmentation))
    one, other = read_ground_truth(path).instances[1]
    assert (other.box, other.area, other.mask) == (one.box, one.area, one.mask)
    (warning,) = warnings_of(path)
    assert warning.startswith(
        "1 of 2 annotations have a damaged segmentation, and their box takes its place: annotations 5 (it "
    )


def test_the_good_polygons_of_a_mask_are_kept(tmp_path: Path):
    polygons = [GOOD["segmentation"][0], [1, 2, 3, 4]]
    path = written(tmp_path, GOOD, annotation(5, 1, (10, 20, 200, 100), segmentation=polygons))
    one, other = read_ground_truth(path).instances[1]
    assert other.mask == one.mask
    assert other.box == (10, 20, 200, 100)
    (warning,) = warnings_of(path)
    assert "1 of 2 annotations have a segmentation of which a part is damaged and left out: annotations 5" in warning


@pytest.mark.parametrize("area", ["big", -1, 0, [2], float("nan")])
def test_an_area_that_is_none_is_computed(tmp_path: Path, area: Any):
    path = written(tmp_path, annotation(5, 1, BOX, area=area))
    assert read_ground_truth(path).instances[1][0].area == 1200
    (warning,) = warnings_of(path)
    assert "have an area that is no positive number, and it is computed: annotations 5 (it is " in warning


@pytest.mark.parametrize(
    ("value", "crowd"),
    [
        (0, False),
        (1, True),
        ("0", False),
        ("1", True),
        (True, True),
        (False, False),
        (1.0, True),
        (None, False),
        ("", False),
    ],
)
def test_a_crowd_flag_may_be_written_in_many_ways(tmp_path: Path, value: Any, crowd: bool):
    path = written(tmp_path, annotation(5, 1, BOX) | {"iscrowd": value})
    assert read_ground_truth(path).instances[1][0].crowd is crowd
    assert warnings_of(path) == []


@pytest.mark.parametrize("value", [2, "yes", [1], -1])
def test_a_crowd_flag_that_is_none_is_told(tmp_path: Path, value: Any):
    path = written(tmp_path, annotation(5, 1, BOX, iscrowd=value))
    assert read_ground_truth(path).instances[1][0].crowd is False
    (warning,) = warnings_of(path)
    assert "have an iscrowd that is neither 0 nor 1, and count as single objects: annotations 5 (it is " in warning


def test_three_of_many_are_named(tmp_path: Path):
    bad = [annotation(number, 1, BOX, segmentation=[[1, 2, 3, 4]]) for number in range(2, 9)]
    (warning,) = warnings_of(written(tmp_path, GOOD, *bad))
    assert warning.startswith("7 of 8 annotations have a damaged segmentation")
    assert [word for word in ("annotations 2 (", " 3 (", " 4 (", " 5") if word not in warning] == [" 5"]
    assert warning.endswith(", ...")


def test_boxes_in_fractions_are_refused(tmp_path: Path):
    boxes = [annotation(number, 1, (0.1, 0.2, 0.3, 0.4), segmentation=None) for number in (1, 2)]
    with pytest.raises(
        UsageError, match=r"gt\.json: all boxes lie within one pixel.*multiply fractions by width and height"
    ):
        read_ground_truth(written(tmp_path, *boxes))


# ---------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("bad", [{"file_name": "x.jpg"}, image(7, ""), {"id": 7}, 5, None, image(None, "x.jpg")])  # type: ignore[arg-type]
def test_a_bad_image_is_left_out(tmp_path: Path, bad: Any):
    path = coco_file(tmp_path / "gt.json", [image(1, "a.jpg"), bad], [GOOD])
    assert list(read_ground_truth(path).images) == [1]
    (warning,) = warnings_of(path)
    assert warning.startswith("1 of 2 images are unusable and left out: entry 1 (no ")
    with pytest.raises(UsageError, match=r"gt\.json: 1 of 1 images are unusable.*: not one is left"):
        read_ground_truth(coco_file(tmp_path / "gt.json", [bad], []))


def test_two_images_of_one_id_must_be_of_one_file(tmp_path: Path):
    one = image(1, "a.jpg")
    assert list(read_ground_truth(coco_file(tmp_path / "gt.json", [one, one], [GOOD])).images) == [1]
    with pytest.raises(UsageError, match=r"gt\.json: image 1: two images have this id \(a\.jpg, b\.jpg\)"):
        read_ground_truth(coco_file(tmp_path / "gt.json", [one, image(1, "b.jpg")], []))


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        ("300", "200", (300, 200)),
        (300.0, 200.0, (300, 200)),
        (0, 0, None),
        (None, None, None),
        (300, 0, None),
        ("?", 2, None),
    ],
)
def test_sizes_may_be_missing_where_the_photo_tells_them(tmp_path: Path, width: Any, height: Any, size: Any):
    entry = {"id": 1, "file_name": "a.jpg", "width": width, "height": height}
    path = coco_file(tmp_path / "gt.json", [entry], [GOOD])
    assert list_ground_truth(path).images[1].size == size
    truth = list_ground_truth(path).read({1: PhotoHead(size=(300, 200))})
    assert (truth.images[1].width, truth.images[1].height, truth.instances[1][0].mask) == (300, 200, rectangle(*BOX))
    if size is None:
        with pytest.raises(
            UsageError, match=r"1 of 1 images are of another size.*a\.jpg \(no width and height, its photo unknown"
        ):
            read_ground_truth(path)


def test_an_image_of_another_size_than_its_photo_is_left_out(tmp_path: Path):
    path = coco_file(tmp_path / "gt.json", [image(1, "a.jpg"), image(2, "b.jpg")], [GOOD])
    heads = {1: PhotoHead(size=(WIDTH, HEIGHT)), 2: PhotoHead(size=(150, 100))}
    truth = list_ground_truth(path).read(heads)
    assert list(truth.images) == [1]
    (warning,) = truth.warnings
    assert "1 of 2 images are of another size than their photo" in warning
    assert warning.endswith("left out: b.jpg (300x200, its photo 150x100)")
    with pytest.raises(UsageError, match="they must be the same photos at the same size"):
        list_ground_truth(path).read({2: heads[2]})


def test_only_the_images_that_are_asked_for_are_read(tmp_path: Path):
    path = written(tmp_path, GOOD, annotation(2, 2, BOX, segmentation=[[1, 2]]))
    truth = list_ground_truth(path).read({1: PhotoHead(size=None)})
    assert (list(truth.images), list(truth.instances), truth.warnings, truth.annotations) == ([1], [1], [], 1)


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
    write_coco([], Output(tmp_path), Options(file="masks.json", title=f"{TITLES['masks']} by cuts3d 9.9"))
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
        ({"bbox": [250, 20, 60, 40]}, "have a bbox that reaches over the edge of its image"),
        ({"bbox": [-2, 20, 60, 40]}, "have a bbox that reaches over the edge of its image"),
        ({"score": 0.7}, "have a score, as predictions do"),
        ({"iscrowd": 1, "bbox": [0, 0, 300, 190]}, "are crowd regions whose bbox covers its image"),
    ],
)
def test_what_is_odd_is_a_warning(tmp_path: Path, change: dict[str, Any], words: str):
    path = written(tmp_path, *(annotation(number, 1, BOX, segmentation=None, **change) for number in range(3, 8)))
    (warning,) = read_ground_truth(path).warnings
    assert words in warning
    assert "5 of 5 annotations " in warning
    assert warning.endswith("annotations 3, 4, 5, ...")


def test_a_pixel_over_the_edge_is_usual(tmp_path: Path):
    assert read_ground_truth(written(tmp_path, annotation(1, 1, (-0.4, 0, 300.9, 200)))).warnings == []


@pytest.mark.parametrize("categories", [3, 0.5, "x", {"id": 0}, None])
def test_categories_that_are_no_list_play_no_part(tmp_path: Path, categories: object):
    path = tmp_path / "gt.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    assert read_ground_truth(path).images == {}


@pytest.mark.parametrize(
    ("encoding", "mark"), [("utf-8", b""), ("utf-8", b"\xef\xbb\xbf"), ("utf-16", b""), ("latin-1", b"")]
)
def test_the_text_may_be_in_old_encodings(tmp_path: Path, encoding: str, mark: bytes):
    content = {"images": [image(1, "caf\u00e9.jpg")], "annotations": [GOOD]}
    path = tmp_path / "gt.json"
    path.write_bytes(mark + json.dumps(content, ensure_ascii=False).encode(encoding))
    assert read_ground_truth(path).images[1].file == "caf\u00e9.jpg"
