"""Which camera of a file belongs to which photo."""

from __future__ import annotations

from pathlib import Path

import pytest

from cuts3d_cli.depth.camera_files import CameraFile
from cuts3d_cli.depth.intrinsics import Intrinsics
from cuts3d_cli.errors import SettingError
from cuts3d_cli.stages.camera_pairs import pair_cameras

FILE = Path("cameras.json")


def camera(number: int) -> Intrinsics:
    return Intrinsics(fx=float(number), fy=float(number))


def pairs(photos: list[str], names: list[str], *, common: int | None = None) -> dict[str, int]:
    """Photo -> place of its name; the number of the common camera is its own."""
    cameras = {name: camera(place) for place, name in enumerate(names, start=1)}
    file = CameraFile(path=FILE, common=None if common is None else camera(common), of_photos=cameras)
    return {photo: int(found.fx) for photo, found in pair_cameras(photos, file).of.items()}


@pytest.mark.parametrize(
    ("photos", "names", "expected"),
    [
        (["a.jpg", "b.jpg"], ["b.jpg", "a.jpg"], {"a.jpg": 2, "b.jpg": 1}),
        (["sub/a.jpg"], ["sub/a"], {"sub/a.jpg": 1}),
        (["a.jpg", "a.png"], ["a.png", "a.jpg"], {"a.jpg": 2, "a.png": 1}),
        (["x/a.jpg", "y/a.jpg"], ["y/a.jpg", "x/a.jpg"], {"x/a.jpg": 2, "y/a.jpg": 1}),
        (["a.jpg"], ["data/photos/a.png", "b"], {"a.jpg": 1}),  # the names start from elsewhere
        (["photos/a.jpg"], ["a.jpg"], {"photos/a.jpg": 1}),
        (["a.jpg"], ["x/a.jpg", "y/a.jpg", "a"], {"a.jpg": 3}),
        (["xa.jpg", "a.jpg"], ["a"], {"a.jpg": 1}),  # whole folders and names alone
        (["rgb/000048.png", "rgb/000001.png"], ["1", "48"], {"rgb/000048.png": 2, "rgb/000001.png": 1}),
        (["000048.png", "a.png"], ["48", "47"], {"000048.png": 1}),
    ],
)
def test_by_name_and_number(photos: list[str], names: list[str], expected: dict[str, int]):
    assert pairs(photos, names) == expected


def test_the_common_camera_is_of_all_others():
    assert pairs(["a.jpg", "b.jpg"], ["b.jpg"], common=9) == {"a.jpg": 9, "b.jpg": 1}
    assert pairs(["a.jpg"], [], common=9) == {"a.jpg": 9}


def test_what_is_left():
    cameras = CameraFile(path=FILE, of_photos={"a.jpg": camera(1), "c.jpg": camera(2)})
    found = pair_cameras(["a.jpg", "b.jpg"], cameras)
    assert (list(found.of), found.unused) == (["a.jpg"], ["c.jpg"])


@pytest.mark.parametrize(
    ("photos", "names", "reason"),
    [
        (["a.jpg"], ["b.jpg"], r"holds no camera of any photo: there is b.jpg, and no a.jpg"),
        (["x/a.jpg", "y/a.jpg"], ["a.jpg"], r"'a.jpg' may be x/a.jpg and y/a.jpg: name photos by their paths"),
        (["1/rgb/07.png", "2/rgb/07.png"], ["7"], r"'7' may be 1/rgb/07.png and 2/rgb/07.png"),
        (["a.jpg"], ["x/a.jpg", "y/a.jpg"], "holds no camera of any photo"),
    ],
)
def test_doubts_are_refused(photos: list[str], names: list[str], reason: str):
    with pytest.raises(SettingError, match=reason):
        pairs(photos, names)
