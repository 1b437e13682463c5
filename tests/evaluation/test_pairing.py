from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cuts3d_cli.errors import UsageError
from cuts3d_cli.evaluation.datasets.ground_truth import ListedImage
from cuts3d_cli.evaluation.pairing import Pairing, ShardImage, pair_images
from cuts3d_cli.paths import plain_path


def true_images(files: Mapping[int, str]) -> dict[int, ListedImage]:
    return {number: ListedImage(file=plain_path(file), id=number, size=None) for number, file in files.items()}


def photo(
    source: str,
    *,
    coco_id: int | None = None,
    size: tuple[int, int] | None = (30, 20),
    shard: str = "s-000.tar",
) -> ShardImage:
    return ShardImage(shard=Path(shard), key=source.partition(".")[0], source=source, coco_id=coco_id, size=size)


def pair(files: Mapping[int, str], photos: Sequence[ShardImage]) -> Pairing:
    return pair_images(true_images(files), photos, path=Path("gt.json"))


def sources(pairing: Pairing) -> dict[int, str]:
    return {number: found.source for number, found in pairing.photos.items()}


def test_paths_tell_images_and_the_rest_is_left_over():
    pairing = pair({4: "a/x.jpg", 7: "b/x.jpg", 9: "c.jpg"}, [photo("b/x.jpg"), photo("d.jpg"), photo("./a/x.jpg")])
    assert sources(pairing) == {7: "b/x.jpg", 4: "./a/x.jpg"}
    assert pairing.missing == [9]
    assert [item.source for item in pairing.extra] == ["d.jpg"]
    assert pairing.by_base_name == []


def test_the_id_of_the_coco_json_tells_images_whose_folders_count_from_elsewhere():
    files = {1: "val/x.jpg", 2: "train/x.jpg"}
    photos = [photo("images/one/x.jpg", coco_id=1), photo("images/two/x.jpg", coco_id=2)]
    assert sources(pair(files, photos)) == {1: "images/one/x.jpg", 2: "images/two/x.jpg"}


def test_the_id_does_not_count_where_the_name_is_another():
    pairing = pair({1: "x.jpg", 2: "y.jpg"}, [photo("y.jpg", coco_id=1), photo("z.jpg", coco_id=2)])
    assert sources(pairing) == {2: "y.jpg"}
    assert [item.source for item in pairing.extra] == ["z.jpg"]


def test_the_path_counts_for_more_than_the_id():
    files = {1: "a/x.jpg", 2: "b/x.jpg"}
    photos = [photo("a/x.jpg", coco_id=2), photo("b/x.jpg", coco_id=1)]
    assert sources(pair(files, photos)) == {1: "a/x.jpg", 2: "b/x.jpg"}


def test_the_id_tells_images_of_one_path():
    assert sources(pair({1: "x.jpg", 2: "x.jpg"}, [photo("x.jpg", coco_id=2)])) == {2: "x.jpg"}
    with pytest.raises(UsageError, match=r"gt\.json: the images 1, 2 have the same file_name x\.jpg"):
        pair({1: "x.jpg", 2: "x.jpg"}, [photo("x.jpg")])


def test_a_base_name_that_is_unique_tells_images():
    pairing = pair(
        {1: "val2017/x.jpg", 2: "y.jpg", 3: "old/z.jpg"}, [photo("x.jpg"), photo("a/y.jpg"), photo("new/z.jpg")]
    )
    assert sources(pairing) == {1: "x.jpg", 2: "a/y.jpg", 3: "new/z.jpg"}
    assert pairing.by_base_name == [3]


def test_a_photo_of_the_same_base_name_is_left_over_where_another_has_the_path():
    pairing = pair({1: "a/x.jpg"}, [photo("b/x.jpg"), photo("a/x.jpg")])
    assert sources(pairing) == {1: "a/x.jpg"}
    assert [item.source for item in pairing.extra] == ["b/x.jpg"]


@pytest.mark.parametrize(
    ("files", "photos"),
    [
        ({1: "x.jpg"}, [photo("a/x.jpg"), photo("b/x.jpg")]),
        ({1: "a/x.jpg", 2: "b/x.jpg"}, [photo("x.jpg")]),
        ({1: "a/x.jpg", 2: "b/x.jpg"}, [photo("c/x.jpg"), photo("d/x.jpg")]),
    ],
)
def test_a_base_name_that_is_not_unique_is_refused(files: dict[int, str], photos: list[ShardImage]):
    with pytest.raises(UsageError, match=r"gt\.json: several of its images or of the photos are called x\.jpg"):
        pair(files, photos)


def test_two_photos_of_one_image_are_refused():
    with pytest.raises(UsageError, match=r"gt\.json: image 1 is both x of s-000\.tar and x of t-000\.tar"):
        pair({1: "x.jpg"}, [photo("x.jpg"), photo("x.jpg", shard="t-000.tar")])


def test_ids_that_are_texts_tell_images_too():
    images = {
        0: ListedImage(file="val/x.jpg", id="b7", size=None),
        1: ListedImage(file="train/x.jpg", id="a7", size=None),
    }
    pairing = pair_images(images, [photo("one/x.jpg", coco_id="a7")], path=Path("gt.json"))
    assert sources(pairing) == {1: "one/x.jpg"}


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("sub\\caf\u00e9.jpg", "sub/cafe\u0301.jpg"),
        ("./sub/cafe\u0301.jpg", "sub/caf\u00e9.jpg"),
        ("C:\\data\\sub\\a.jpg", "sub/a.jpg"),
        ("/data/photos/sub/a.jpg", "photos/sub/a.jpg"),
    ],
)
def test_paths_may_be_written_in_many_ways(file: str, source: str):
    pairing = pair({1: file, 2: "other/a.jpg"}, [photo(source), photo("none/a.jpg"), photo("other/a.jpg")][:1])
    assert (sources(pairing), pairing.by_base_name, pairing.by_old_name) == ({1: source}, [], [])


def test_absolute_paths_are_told_apart_by_their_folders():
    files = {1: "/data/a/x.jpg", 2: "/data/b/x.jpg", 3: "/data/b/y.jpg"}
    pairing = pair(files, [photo("b/x.jpg"), photo("a/x.jpg"), photo("c/y.jpg")])
    assert sources(pairing) == {1: "a/x.jpg", 2: "b/x.jpg", 3: "c/y.jpg"}
    assert pairing.by_base_name == [3]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("a_b_jpg.rf.0123456789abcdef0123456789abcdef.jpg", "photos/a_b.jpg"),
        ("dog_png.rf.0123456789abcdef.jpg", "dog.png"),
        ("images/1/90fbb0c7-dog.jpg", "dog.jpg"),
        ("IMG_1.JPG", "img_1.jpg"),
        ("a%20b.jpg", "a b.jpg"),
    ],
)
def test_a_name_that_a_tool_has_changed_is_recognised(file: str, source: str):
    pairing = pair({1: file, 2: "z.jpg"}, [photo(source), photo("z.jpg")])
    assert (sources(pairing), pairing.by_old_name) == ({1: source, 2: "z.jpg"}, [1])


def test_changed_names_that_are_not_unique_tell_nothing():
    files = {1: f"dog_jpg.rf.{'0' * 16}.jpg", 2: f"dog_jpg.rf.{'1' * 16}.jpg"}
    pairing = pair(files, [photo("dog.jpg")])
    assert (sources(pairing), pairing.missing, [item.source for item in pairing.extra]) == ({}, [1, 2], ["dog.jpg"])


def test_the_order_of_images_and_photos_does_not_matter():
    files = {number: f"val/{number:03}.jpg" for number in range(1, 9)}
    photos = [photo(f"{number:03}.jpg") for number in range(3, 12)]
    expected = sources(pair(files, photos))
    assert expected == {number: f"{number:03}.jpg" for number in range(3, 9)}
    for seed in range(5):
        items = list(files.items())
        random.Random(seed).shuffle(items)
        random.Random(seed + 1).shuffle(photos)
        assert sources(pair(dict(items), photos)) == expected
