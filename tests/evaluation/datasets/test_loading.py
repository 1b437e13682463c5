from __future__ import annotations

from pathlib import Path

import pytest

from cuts3d_cli.errors import DatasetError, UsageError
from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS
from cuts3d_cli.evaluation.datasets.files import Photos, base_folders
from cuts3d_cli.evaluation.datasets.loading import Availability, list_datasets, open_benchmark, open_own
from tests.support.datasets import coco, coco_content, opened, photo, write
from tests.support.shapes import annotation, coco_file, image


@pytest.mark.parametrize("root", ["", "coco"])
def test_the_root_may_be_the_folder_of_all_datasets_or_of_one(tmp_path: Path, root: str):
    coco(tmp_path / "coco")
    assert len(opened("coco", tmp_path / root, images=2).paths) == 2


def test_another_datasets_folder_is_not_taken_for_this_ones(tmp_path: Path):
    names = BENCHMARKS["clipart"].folders
    (tmp_path / "comic").mkdir()
    assert base_folders(tmp_path / "comic", names) == []
    (tmp_path / "clipart").mkdir()
    assert base_folders(tmp_path / "clipart", names) == [tmp_path / "clipart"]


def test_a_root_between_is_found(tmp_path: Path):
    folder = tmp_path / "VOCdevkit/VOC2007"
    folder.mkdir(parents=True)
    for root in (tmp_path, tmp_path / "VOCdevkit", folder):
        assert base_folders(root, BENCHMARKS["voc"].folders) == [folder]


def test_a_wrong_root_is_one_line(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"nowhere is not a folder: name the folder with the datasets"):
        open_benchmark(BENCHMARKS["coco"], tmp_path / "nowhere")
    for name, benchmark in BENCHMARKS.items():
        with pytest.raises(DatasetError) as told:
            open_benchmark(benchmark, tmp_path)
        text = str(told.value)
        assert text.startswith(f"{name}: there is no {tmp_path / benchmark.folders[0]}")
        assert benchmark.page in text
        assert "\n" not in text


def test_what_is_missing_is_named(tmp_path: Path):
    write(tmp_path / "coco/annotations/instances_train2014.json", coco_content("{}.jpg", (1,)))
    (tmp_path / "coco/train2014").mkdir()
    missing = r"coco20k: there is no .*coco/annotations/coco_20k_filenames\.txt; get it from https://cocodataset"
    with pytest.raises(DatasetError, match=missing):
        opened("coco20k", tmp_path, images=1)


def test_missing_photos_are_one_line_unless_what_is_there_will_do(tmp_path: Path):
    coco(tmp_path / "coco", photos=[285])
    with pytest.raises(
        DatasetError,
        match=r"coco: 1 of 2 photos are missing in .*val2017 \(000000000139\.jpg\): get them from https.*set partial",
    ):
        opened("coco", tmp_path, images=2)
    dataset = opened("coco", tmp_path, images=2, partial=True)
    assert (list(dataset.paths), list(dataset.truth.images), dataset.missing) == ([285], [285], 1)


def test_an_annotation_file_of_another_size_is_one_line_unless_it_will_do(tmp_path: Path):
    coco(tmp_path / "coco")
    with pytest.raises(DatasetError, match=r"instances_val2017\.json has 2 images, the benchmark 5000: .*set partial"):
        open_benchmark(BENCHMARKS["coco"], tmp_path)
    assert open_benchmark(BENCHMARKS["coco"], tmp_path, partial=True).missing == 4998


def test_without_a_photo_even_a_part_is_refused(tmp_path: Path):
    coco(tmp_path / "coco", photos=[])
    photo(tmp_path / "coco/val2017/other.jpg")
    with pytest.raises(DatasetError, match=r"coco: none of its 2 photos is in .*val2017 \(000000000139\.jpg, .*\)"):
        opened("coco", tmp_path, images=2, partial=True)


def by_name(root: Path) -> dict[str, Availability]:
    return {item.benchmark.name: item for item in list_datasets(root)}


def test_the_list_says_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert {item.state for item in list_datasets(tmp_path / "nowhere")} == {"missing"}
    coco(tmp_path / "coco")
    item = by_name(tmp_path)["coco"]
    assert (item.state, item.count) == ("incomplete", 2)
    assert item.note == f"2 of 5000 photos in {tmp_path / 'coco/val2017'}"
    assert item.annotations == (tmp_path / "coco/annotations/instances_val2017.json",)
    assert by_name(tmp_path)["lvis"].note.startswith(f"there is no {tmp_path / 'coco/lvis_v1_val.json'}")
    for number in range(4998):
        (tmp_path / f"coco/val2017/x{number}.jpg").touch()
    item = by_name(tmp_path)["coco"]
    assert (item.state, item.note, item.count) == ("ready", "", 5000)
    stored = item.to_json()
    assert (stored["name"], stored["state"], stored["images"], stored["found"]) == ("coco", "ready", 5000, 5000)
    assert set(by_name(tmp_path)) == set(BENCHMARKS)


def test_photos_are_found_by_any_end_of_their_path(tmp_path: Path):
    for name in ("a/b/x.jpg", "b/y.jpg", "z.jpg", "other/z.jpg"):
        photo(tmp_path / name)
    photos = Photos([tmp_path, tmp_path / "other"])
    found = {
        name: photos.find(name) for name in ("a/b/x.jpg", "a/b/y.jpg", "a/b/z.jpg", "b/x.jpg", "../z.jpg", "/z.jpg")
    }
    assert found == {
        "a/b/x.jpg": tmp_path / "a/b/x.jpg",
        "a/b/y.jpg": tmp_path / "b/y.jpg",
        "a/b/z.jpg": tmp_path / "z.jpg",
        "b/x.jpg": None,
        "../z.jpg": tmp_path / "z.jpg",
        "/z.jpg": tmp_path / "z.jpg",
    }
    assert photos.find("z.png") is None
    assert photos.find("z.png", extensions=(".jpg",)) == tmp_path / "z.jpg"


def own(folder: Path) -> Path:
    boxes = [annotation(1, 1, (10, 20, 30, 10)), annotation(2, 2, (5, 5, 10, 10))]
    return coco_file(
        folder / "own.json",
        [image(number, file, width=64, height=48) for number, file in ((1, "a.jpg"), (2, "b.jpg"))],
        boxes,
    )


def test_ones_own_json_goes_with_a_folder(tmp_path: Path):
    path = own(tmp_path)
    for name in ("a", "b"):
        photo(tmp_path / f"photos/{name}.jpg")
    dataset = open_own(path, tmp_path / "photos")
    assert (dataset.name, dataset.title, dataset.masks, dataset.missing) == (
        "own",
        f"{tmp_path.name}/own.json",
        True,
        0,
    )
    assert dataset.paths == {1: tmp_path / "photos/a.jpg", 2: tmp_path / "photos/b.jpg"}
    assert [len(items) for items in dataset.truth.instances.values()] == [1, 1]


def test_ones_own_photos_must_be_there(tmp_path: Path):
    path = own(tmp_path)
    with pytest.raises(DatasetError, match=r"photos is not a folder: name the folder of the photos of .*own\.json"):
        open_own(path, tmp_path / "photos")
    photo(tmp_path / "photos/b.jpg")
    with pytest.raises(DatasetError, match=r"own\.json: 1 of 2 photos are missing in .*photos \(a\.jpg\): set partial"):
        open_own(path, tmp_path / "photos")
    dataset = open_own(path, tmp_path / "photos", partial=True)
    assert (list(dataset.paths), list(dataset.truth.instances), dataset.missing) == ([2], [2], 1)
    (tmp_path / "photos/b.jpg").unlink()
    with pytest.raises(DatasetError, match=r"own\.json: none of its 2 photos is in .*photos"):
        open_own(path, tmp_path / "photos", partial=True)
    with pytest.raises(UsageError, match=r"missing\.json cannot be read"):
        open_own(tmp_path / "missing.json", tmp_path / "photos")


@pytest.mark.parametrize(
    "name",
    [
        "sub\\caf\u00e9.jpg",
        "C:\\data\\sub\\caf\u00e9.jpg",
        "/data/photos/./sub//cafe\u0301.jpg",
        "..\\..\\media\\sub/cafe\u0301.jpg",
        "/data/local-files/?d=sub/caf\u00e9.jpg",
        "https://host/photos/sub/caf%C3%A9.jpg?token=1",
    ],
)
@pytest.mark.parametrize("on_disk", ["caf\u00e9", "cafe\u0301"])
def test_photos_are_found_however_their_path_is_written(tmp_path: Path, name: str, on_disk: str):
    there = photo(tmp_path / f"photos/sub/{on_disk}.jpg")
    path = coco_file(tmp_path / "own.json", [image(1, name, width=64, height=48)], [annotation(1, 1, (5, 5, 10, 10))])
    assert open_own(path, tmp_path / "photos").paths == {1: there}


def test_annotations_go_with_the_upright_photo(tmp_path: Path):
    photo(tmp_path / "photos/a.jpg", width=64, height=48, orientation=6)
    photo(tmp_path / "photos/b.jpg", width=64, height=40)
    path = coco_file(
        tmp_path / "own.json",
        [image(1, "a.jpg", width=64, height=48), image(2, "b.jpg", width=60, height=40)],
        [annotation(1, 1, (40, 5, 20, 10)), annotation(2, 2, (5, 5, 10, 10))],
    )
    dataset = open_own(path, tmp_path / "photos")
    assert (list(dataset.paths), dataset.missing) == ([1], 1)
    assert (dataset.truth.images[1].width, dataset.truth.images[1].height) == (48, 64)
    assert [item.box for item in dataset.truth.instances[1]] == [(33, 40, 10, 20)]
    assert [line.partition(": ")[2].partition(":")[0] for line in dataset.truth.warnings] == [
        "1 photo is turned by their EXIF orientation and their annotations are not, so that these are turned along",
        "1 of 2 images are of another size than their photo, or of none, and left out",
    ]
