from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts3d_cli.errors import UsageError
from cuts3d_cli.shards.keys import key_problem
from cuts3d_cli.stages.listing import assign_keys, list_source
from tests.support.photos import encoded, two_boxes


def touch(root: Path, *files: str) -> None:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def files_of(source: Path, **options: Any) -> list[str]:
    return [photo.file for photo in list_source(source, images=None, **options).photos]


def test_any_layout_in_one_order(tmp_path: Path) -> None:
    files = ["z.jpg", "A.JPG", "n01/b.JPEG", "n01/a.png", "n01/deep/er/c.WebP", "n00/x.jpeg"]
    touch(tmp_path, *files, ".hidden.jpg", ".cache/a.jpg", "n01/._a.png", "README.md", "labels.json", "a.npy")
    listing = list_source(tmp_path, images=None)
    assert [photo.file for photo in listing.photos] == sorted(files)
    assert [photo.id for photo in listing.photos] == [1, 2, 3, 4, 5, 6]
    assert [photo.key for photo in listing.photos] == ["A", "n00/x", "n01/a", "n01/b", "n01/deep/er/c", "z"]
    assert listing.renamed == 0


def test_photos_of_other_kinds_are_not_left_out_in_silence(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.TIF", "c.heic")
    problems = [photo.problem for photo in list_source(tmp_path, images=None).photos]
    assert problems == [
        None,
        "files of kind 'tif' are not read: convert it to JPEG, PNG or WebP",
        "files of kind 'heic' are not read: convert it to JPEG, PNG or WebP",
    ]


def test_links_are_followed_but_not_round_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "photos/x/a.jpg", "elsewhere/b.jpg")
    os.symlink(tmp_path / "elsewhere", tmp_path / "photos/linked")
    os.symlink("..", tmp_path / "photos/x/up")
    os.symlink(tmp_path / "elsewhere/b.jpg", tmp_path / "photos/c.jpg")
    os.symlink("nowhere", tmp_path / "photos/broken.jpg")
    assert files_of(tmp_path / "photos") == ["broken.jpg", "c.jpg", "linked/b.jpg", "x/a.jpg"]


def test_a_folder_can_be_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "depth/a.png")
    assert files_of(tmp_path, leave_out=[tmp_path / "." / "depth"]) == ["a.jpg"]


def test_no_source(tmp_path: Path) -> None:
    touch(tmp_path, "empty/a.txt")
    with pytest.raises(UsageError, match=r"none does not exist"):
        list_source(tmp_path / "none", images=None)
    with pytest.raises(UsageError, match=r"empty holds no photos \(jpg, jpeg, png, webp\)"):
        list_source(tmp_path / "empty", images=None)
    with pytest.raises(UsageError, match="images belongs to a COCO JSON"):
        list_source(tmp_path / "empty", images=tmp_path)


def test_keys_that_collide() -> None:
    keys, renamed = assign_keys(["a.b.jpg", "a.jpg", "a.png", "a_b.jpg", "x/a.jpg"])
    # The digits are those of `printf a.png | sha256sum` and `printf a_b.jpg | sha256sum`.
    assert keys == ["a_b", "a", "a-7f071235", "a_b-dc2016a3", "x/a"]
    assert renamed == 2
    assert assign_keys(["a.jpg", "a-7f071235.jpg", "a.png", "a.png"])[0] == [
        "a",
        "a-7f071235",
        "a-f2b9033a",
        "a-2d968df8",
    ]


def test_keys_that_webdataset_would_skip_or_tear() -> None:
    assert assign_keys(["__x__/a.jpg", "v1.0/a.b.jpg", "a\nb\udcff.jpg"])[0] == ["_x__/a", "v1_0/a_b", "a_b_"]


paths = st.lists(st.text(st.sampled_from("ab_-.") | st.characters(), min_size=1, max_size=4), min_size=1, max_size=3)


@settings(deadline=None)
@given(st.lists(paths.map(lambda parts: "/".join(part.replace("/", "_") for part in parts) + ".jpg"), max_size=8))
def test_keys_are_unique_and_good(files: list[str]) -> None:
    keys, renamed = assign_keys(files)
    assert len(set(keys)) == len(keys) == len(files)
    assert [key_problem(key) for key in keys] == [None] * len(keys)
    assert sum("-" in key and len(key.rpartition("-")[2]) == 8 for key in keys) >= renamed
    assert assign_keys(files) == (keys, renamed)


def coco(path: Path, images: Any, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"info": {"images": 1}, "annotations": [{"id": 1, "bbox": [0.5]}], "images": images} | more)
    )
    return path


def test_coco_keeps_ids_and_sorts_by_them(tmp_path: Path) -> None:
    source = coco(
        tmp_path / "c.json",
        [
            {"id": 7, "file_name": "train/b.jpg", "width": 3},
            {"id": 2, "file_name": "./c.JPG"},
            {"id": 0, "file_name": "a.jpg"},
        ],
    )
    listing = list_source(source, images=tmp_path)
    assert [(p.id, p.file, p.key) for p in listing.photos] == [
        (0, "a.jpg", "a"),
        (2, "c.JPG", "c"),
        (7, "train/b.jpg", "train/b"),
    ]
    assert (listing.kind, listing.root) == ("coco", tmp_path)


def test_coco_finds_its_images(tmp_path: Path) -> None:
    source = coco(tmp_path / "x/c.json", [{"id": 1, "file_name": "a.jpg"}])
    touch(tmp_path, "x/images/a.jpg")
    assert list_source(source, images=None).root == tmp_path / "x/images"
    touch(tmp_path, "x/a.jpg")
    assert list_source(source, images=None).root == tmp_path / "x"
    with pytest.raises(UsageError, match="is not a folder: name the one that"):
        list_source(source, images=tmp_path / "none")


def test_coco_file_names_stay_within_the_image_folder(tmp_path: Path) -> None:
    inside = str((tmp_path / "sub/b.jpg").absolute())
    names = ["../a.jpg", "/etc/passwd.jpg", inside, "x/../c.jpg", "d.tiff"]
    source = coco(tmp_path / "c.json", [{"id": n, "file_name": name} for n, name in enumerate(names)])
    photos = list_source(source, images=tmp_path).photos
    assert [photo.problem is None for photo in photos] == [False, False, True, True, False]
    assert [photo.file for photo in photos[2:]] == ["sub/b.jpg", "c.jpg", "d.tiff"]
    assert photos[0].problem == photos[1].problem == "its name leads out of the image folder"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is nested deeper than 100 levels"),
        ("[1]", "is not a COCO JSON"),
        ('{"images": 3}', "is not a COCO JSON"),
        ('{"annotations": []}', "is not a COCO JSON"),
        ('{"images": []}', "holds no photos"),
        ('{"images": [{"file_name": "a.jpg"}]}', "entry 0 of 'images' needs"),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2}]}', "entry 1 of 'images' needs"),
        ('{"images": [{"id": "1", "file_name": "a.jpg"}]}', "needs a whole number 'id'"),
        ('{"images": [{"id": true, "file_name": "a.jpg"}]}', "needs a whole number 'id'"),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]}', "two images have the id 1"),
    ],
)
def test_what_is_not_coco(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=rf"c\.json:? .*{message}|c\.json {message}|c\.json: {message}") as caught:
        list_source(path, images=None)
    assert "\n" not in str(caught.value)


def write(root: Path, **files: bytes) -> None:
    for name, data in files.items():
        (root / name).write_bytes(data)


def test_first_bytes_tell_where_the_ending_does_not(tmp_path: Path) -> None:
    photo, png = encoded(two_boxes().image), encoded(two_boxes().image, "PNG")
    names = {
        "a.jpe": photo, "b.JPG_large": photo, "c.jpg?size=2": photo, "d.jpg ": photo, "e": photo, "f.ARW": photo,
        "g.heic": png, "h\nh": png, "i.jfif": photo, "gif": b"GIF89a", "raw.ARW": b"II*\0\x08\0\0\0", "notes": b"text",
        "empty": b"", "list.txt": b"a", "Thumbs.db": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    }  # fmt: skip
    write(tmp_path, **names)
    os.mkfifo(tmp_path / "pipe")
    os.symlink("nowhere", tmp_path / "broken")
    listing = list_source(tmp_path, images=None)
    good = {photo.file: photo.extension for photo in listing.photos if photo.problem is None}
    assert good == dict.fromkeys(list(names)[:6], "jpg") | {"g.heic": "png", "h\nh": "png", "i.jfif": "jpg"}
    assert {photo.file: photo.problem for photo in listing.photos if photo.problem} == {
        "gif": "GIF files are not read: convert it to JPEG, PNG or WebP",
        "raw.ARW": "TIFF files are not read: convert it to JPEG, PNG or WebP",
    }
    assert listing.passed_over == ["Thumbs.db", "broken", "empty", "list.txt", "notes", "pipe"]
    assert [photo.key for photo in listing.photos][:3] == ["a", "b", "c"]


def test_a_folder_without_photos_says_what_it_holds(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt", "b.csv")
    with pytest.raises(UsageError, match=r"holds no photos \(jpg, jpeg, png, webp\), only 2 other files"):
        list_source(tmp_path, images=None)


def test_a_json_of_lvis_names_its_photos_by_their_urls(tmp_path: Path) -> None:
    url = "http://images.cocodataset.org/val2017/000000397133.jpg"
    source = coco(
        tmp_path / "lvis.json", [{"id": 397133, "coco_url": url}, {"id": 5, "coco_url": url.replace("133", "134")}]
    )
    touch(tmp_path, "coco/val2017/000000397133.jpg")
    missing, found = list_source(source, images=tmp_path / "coco").photos
    assert (found.id, found.file, found.key, found.problem) == (
        397133, "val2017/000000397133.jpg", "val2017/000000397133", None
    )  # fmt: skip
    assert missing.file == "val2017/000000397134.jpg"
    assert list_source(source, images=tmp_path / "coco/val2017").photos[1].file == "000000397133.jpg"


def test_a_json_may_name_photos_without_a_telling_ending(tmp_path: Path) -> None:
    write(tmp_path, a=encoded(two_boxes().image), b=b"text")
    source = coco(tmp_path / "c.json", [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "b"}])
    photo, text = list_source(source, images=tmp_path).photos
    assert (photo.file, photo.extension, photo.problem) == ("a", "jpg", None)
    assert text.problem == "it is no image, by its name and its first bytes"
