from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cuts3d_cli.errors import UsageError
from cuts3d_cli.evaluation.datasets.ground_truth import TrueImage
from cuts3d_cli.evaluation.pairing import Pairing, ShardImage, pair_images


def true_images(files: Mapping[int, str]) -> dict[int, TrueImage]:
    return {number: TrueImage(file=file, width=30, height=20) for number, file in files.items()}


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


def test_a_photo_of_another_size_is_refused():
    with pytest.raises(UsageError, match=r"gt\.json: image 5 \(x\.jpg\) is 30x20, x of s-000\.tar is 20x30 upright"):
        pair({5: "x.jpg"}, [photo("x.jpg", size=(20, 30))])
    assert sources(pair({5: "x.jpg"}, [photo("x.jpg", size=None)])) == {5: "x.jpg"}


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
