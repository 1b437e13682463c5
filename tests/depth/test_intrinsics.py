"""Cameras as people and programs write them, and the focal lengths that follow: known answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cuts3d_cli.depth.camera_files import read_cameras
from cuts3d_cli.depth.intrinsics import Intrinsics, exif_focal, focal_of, is_camera, parse_camera
from cuts3d_cli.errors import SampleError, SettingError
from cuts3d_cli.images import Upright

K = [525.0, 0.0, 319.5, 0.0, 526.0, 239.5, 0.0, 0.0, 1.0]
ROWS = [K[:3], K[3:6], K[6:]]
COLUMNS = [ROWS[row][column] for column in range(3) for row in range(3)]
ALONE = Intrinsics(fx=525.0, fy=526.0, centre=(319.5, 239.5))
SIZED = Intrinsics(fx=525.0, fy=526.0, centre=(319.5, 239.5), size=(480, 640))
PLAIN = {"fx": 525.0, "fy": 526.0, "cx": 319.5, "cy": 239.5}
SIDES = {"width": 640, "height": 480}


def photo(width: int = 640, height: int = 480, *, orientation: int = 1) -> Upright:
    return Upright(Image.new("RGB", (width, height)), orientation)


STYLES: dict[str, tuple[Any, Intrinsics]] = {
    "plain": (PLAIN, ALONE),
    "plain, with sides": (PLAIN | SIDES, SIZED),
    "BOP camera.json": ({**PLAIN, **SIDES, "depth_scale": 0.1}, SIZED),
    "BOP scene_camera.json, one entry": ({"cam_K": K, "depth_scale": 0.1, "cam_R_w2c": [1.0] * 9}, ALONE),
    "ROS camera_info": ({**SIDES, "K": K, "D": [0.0] * 5, "R": [0.0] * 9, "P": [0.0] * 12}, SIZED),
    "ROS 2 camera_info": ({**SIDES, "k": K, "d": [0.0] * 5}, SIZED),
    "ROS calibration": ({"image_width": 640, "image_height": 480, "camera_matrix": {"rows": 3, "data": K}}, SIZED),
    "OpenCV": ({"camera_matrix": ROWS, "dist_coeff": [[0.1, 0, 0, 0]]}, ALONE),
    "Open3D, by columns": ({**SIDES, "intrinsic_matrix": COLUMNS}, SIZED),
    "RealSense": ({**SIDES, "fx": 525.0, "fy": 526.0, "ppx": 319.5, "ppy": 239.5, "model": "none"}, SIZED),
    "nerfstudio": ({"fl_x": 525.0, "fl_y": 526.0, "cx": 319.5, "cy": 239.5, "w": 640, "h": 480}, SIZED),
    "ORB-SLAM": ({"Camera.fx": 525.0, "Camera.fy": 526.0, "Camera.cx": 319.5, "Camera.cy": 239.5}, ALONE),
    "inner": ({**SIDES, "camera": {"intrinsics": {"K": K}}}, SIZED),
    "four numbers": ([525.0, 526.0, 319.5, 239.5], ALONE),
    "nine numbers": (K, ALONE),
    "3x3": (ROWS, ALONE),
    "3x4": ([[*row, 0.0] for row in ROWS], ALONE),
    "4x4, as ScanNet": ([[*row, 0.0] for row in ROWS] + [[0.0, 0.0, 0.0, 1.0]], ALONE),
    "one length": ({"focal_length": 525.0}, Intrinsics(fx=525.0, fy=525.0)),
    "two lengths": ({"focal_length": [525.0, 526.0]}, Intrinsics(fx=525.0, fy=526.0)),
    "whole numbers": ({"fx": 525, "fy": 526}, Intrinsics(fx=525.0, fy=526.0)),
}


@pytest.mark.parametrize("name", STYLES)
def test_styles(name: str, tmp_path: Path):
    value, expected = STYLES[name]
    assert parse_camera(value) == expected
    path = tmp_path / "camera.json"
    path.write_text(json.dumps(value))
    found = read_cameras(path)
    assert (found.common, found.of_photos) == (expected, {})


TEXTS = {
    "TUM": ("525.0 526.0 319.5 239.5\n", ALONE),
    "commas and a remark": ("# fx, fy, cx, cy\n525, 526, 319.5, 239.5\n", ALONE),
    "ScanNet": ("525 0 319.5 0\n0 526 239.5 0\n0 0 1 0\n0 0 0 1\n", ALONE),
    "lines of 3": ("525 0 319.5\n0 526 239.5\n0 0 1", ALONE),
    "ORB-SLAM": ("%YAML:1.0\nCamera.fx: 525.0\nCamera.fy: 526.0\nCamera.cx: 319.5\nCamera.cy: 239.5\n", ALONE),
    "ROS": (
        f"image_width: 640\nimage_height: 480\ncamera_name: rgb\ncamera_matrix:\n  rows: 3\n  cols: 3\n  data: {K}\n",
        SIZED,
    ),
    "OpenCV": (
        f"%YAML:1.0\n---\ncamera_matrix: !!opencv-matrix\n   rows: 3\n   cols: 3\n   dt: d\n   data: {K}\n",
        ALONE,
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str, tmp_path: Path):
    text, expected = TEXTS[name]
    path = tmp_path / "camera"
    path.write_text(text)
    assert read_cameras(path).common == expected


BAD: dict[str, tuple[Any, str]] = {
    "negative": ({"fx": -3, "fy": 5}, "has -3 for fx"),
    "zero, as of an uncalibrated camera": ({"K": [0.0] * 9}, "neither fx, fy, cx, cy nor a matrix"),
    "text": ({"fx": "525", "fy": 526}, "has '525' for fx"),
    "true": ({"fx": True, "fy": 526}, "has True for fx"),
    "only one": ({"fx": 525}, "has no fy"),
    "centre": ({**PLAIN, "cx": "a"}, "has 'a' for cx"),
    "side": ({**PLAIN, "width": 0, "height": 480}, "has 0 for width"),
    "half a pixel": ({**PLAIN, "width": 640.5, "height": 480}, "has 640.5 for width"),
    "eight numbers": ({"K": K[:8]}, "neither fx, fy, cx, cy nor a matrix"),
    "no matrix": ({"K": [1.0] * 9}, "neither fx, fy, cx, cy nor a matrix"),
    "words": ({"K": ["a"] * 9}, "are not all numbers"),
    "other things": ({"K": 5}, "neither fx, fy, cx, cy nor a matrix"),
    "nothing": ({"a": 1}, "it has no fx and fy, and no matrix K"),
    "a text": ("525", "is no camera"),
    "negative in a matrix": ([-525.0, 525.0, 319.5, 239.5], "has -525.0 for fx"),
    "without end": ({"camera": {"camera": {"camera": {"camera": {"camera": K}}}}}, "it has no fx and fy"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_camera(name: str):
    value, reason = BAD[name]
    with pytest.raises(ValueError, match=reason):
        parse_camera(value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-Infinity"])
def test_numbers_that_are_none(tmp_path: Path, number: str):
    path = tmp_path / "c.json"
    path.write_text(f'{{"fx": {number}, "fy": 500}}')
    with pytest.raises(SettingError, match=r"c.json.* for fx"):
        read_cameras(path)
    path.write_text(f"{number} 500 320 240")
    with pytest.raises(SettingError, match=r"c.json.* no camera"):
        read_cameras(path)


FILES = {
    "a photo": (b"\xff\xd8\xff\xe0 jpeg", "is no camera: give JSON, YAML, or the numbers"),
    "empty": (b"", "is empty"),
    "blank": (b"  \n", "is no camera"),
    "a page": (b"<!DOCTYPE html><p>", "is a web page"),
    "damaged JSON": (b'{"fx": 525', "not JSON"),
    "damaged YAML": (b"fx: [525", "is no camera"),
    "a sentence": (b"my camera", "is no camera"),
    "other JSON": (b'{"a": {"b": 1}}', "holds no camera: give fx and fy, or a matrix K"),
    "COCO without cameras": (b'{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}', "holds no camera"),
    "an entry": (b'{"a.jpg": {"fx": 525, "fy": 526}, "b.jpg": {"fx": 0, "fy": 1}}', "the camera of b.jpg has 0 for fx"),
    "YAML that goes round in circles": (b"camera: &a\n  camera: *a\n", "it is no camera"),
    "YAML that grows": (
        b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
        b"d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nK: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n",
        "are not all numbers",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_files_are_named_in_one_short_line(tmp_path: Path, name: str):
    data, reason = FILES[name]
    path = tmp_path / "c.json"
    path.write_bytes(data)
    with pytest.raises(SettingError, match=reason) as caught:
        read_cameras(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_what_cannot_be_read(tmp_path: Path):
    with pytest.raises(SettingError, match="does not exist"):
        read_cameras(tmp_path / "none.json")
    with pytest.raises(SettingError, match="is a folder"):
        read_cameras(tmp_path)


def test_a_camera_a_photo(tmp_path: Path):
    other = {"fx": 100.0, "fy": 100.0}
    written: dict[str, tuple[Any, list[str]]] = {
        "names": ({"a.jpg": PLAIN, "sub\\b.jpg": other}, ["a.jpg", "sub/b.jpg"]),
        "lists": ({"a.jpg": [525.0, 526.0, 319.5, 239.5], "./b.jpg": K}, ["a.jpg", "b.jpg"]),
        "BOP": ({"3": {"cam_K": K, "depth_scale": 0.1}, "12": {"cam_K": K}}, ["3", "12"]),
        "COCO": (
            {
                "images": [
                    {"id": 1, "file_name": "a.jpg", **SIDES, "fx": 525.0, "fy": 526.0},
                    {"id": 2, "file_name": "b.jpg", "cam_K": K},
                    {"id": 3, "file_name": "c.jpg", "camera_intrinsics": ROWS},
                    {"id": 4, "file_name": "d.jpg", "focal_length": 525.0},
                    {"id": 5, "file_name": "e.jpg"},
                ],
                "annotations": [],
            },
            ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
        ),
    }
    for name, (value, names) in written.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(value))
        found = read_cameras(path)
        assert (found.common, list(found.of_photos)) == (None, names), name
        assert found.of_photos[names[0]].fx == 525.0
    path.write_text(json.dumps({"fl_x": 300, "fl_y": 300, "frames": [{"file_path": "./a.jpg", "fl_x": 5, "fl_y": 5}]}))
    found = read_cameras(path)
    assert found.common == Intrinsics(fx=300.0, fy=300.0)
    assert found.of_photos == {"a.jpg": Intrinsics(fx=5.0, fy=5.0)}


def test_fields_of_a_camera():
    assert is_camera({"K": None, "fx": 1})
    assert not is_camera({"K": None, "file_name": "a.jpg"})
    assert not is_camera([1])


def test_the_focal_length_follows_the_photo():
    assert focal_of(ALONE, photo()).x == 525 / 640
    assert focal_of(ALONE, photo()).y == 526 / 480
    # Of another resolution than the camera's, which says its own.
    assert focal_of(SIZED, photo(1280, 960)) == focal_of(SIZED, photo())
    assert focal_of(SIZED, photo(320, 240)).x == 525 / 640


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0, 3.0])
def test_photo_and_camera_enlarged_together(scale: float):
    large = Intrinsics(
        fx=525 * scale, fy=526 * scale, centre=(319.5 * scale, 239.5 * scale), size=(int(480 * scale), int(640 * scale))
    )
    own, other = focal_of(SIZED, photo()), focal_of(large, photo(int(640 * scale), int(480 * scale)))
    np.testing.assert_allclose([own.x, own.y], [other.x, other.y])


@pytest.mark.parametrize(
    ("camera", "width", "height", "reason"),
    [
        (SIZED, 1000, 400, "its camera takes photos of 640x480, and it is 1000x400"),
        (SIZED, 480, 640, "its camera takes photos of 640x480, and it is 480x640"),
        (ALONE, 1280, 960, r"principal point at \(319.5, 239.5\), far from the middle .*give its width and height"),
        (ALONE, 320, 240, "principal point"),
        (Intrinsics(fx=4.2, fy=4.2), 640, 480, "has a focal length of 0.00656 of the photo's longer side, which no"),
        (Intrinsics(fx=1e9, fy=1e9), 640, 480, "no lens has"),
    ],
)
def test_cameras_of_other_photos(camera: Intrinsics, width: int, height: int, reason: str):
    with pytest.raises(SampleError, match=reason):
        focal_of(camera, photo(width, height))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_photo_that_exif_turns_by_a_quarter(orientation: int):
    camera = Intrinsics(fx=500.0, fy=600.0, centre=(320.0, 240.0), size=(480, 640))
    turned = focal_of(camera, photo(480, 640, orientation=orientation))
    assert (turned.x, turned.y) == (600 / 480, 500 / 640)
    # The camera of the upright photo, and one without size.
    upright = Intrinsics(fx=500.0, fy=600.0, size=(640, 480))
    assert focal_of(upright, photo(480, 640, orientation=orientation)).x == 500 / 480
    wide = photo(400, 1000, orientation=orientation)
    assert focal_of(Intrinsics(fx=500.0, fy=600.0, centre=(500.0, 200.0)), wide).x == 600 / 400
    assert focal_of(Intrinsics(fx=500.0, fy=600.0, centre=(200.0, 500.0)), wide).x == 500 / 400


@pytest.mark.parametrize(
    ("millimetres", "size", "longer"),
    [
        (36.0, (1000, 1500), 1.0),
        (50.0, (1500, 1000), 50 / 36),
        (27.0, (3000, 4000), 27 / math.hypot(36, 24) * 1.25),
        (26.0, (3024, 4032), 0.7511),
    ],
)
def test_the_focal_length_on_film(millimetres: float, size: tuple[int, int], longer: float):
    focal = exif_focal(millimetres, size=size)
    assert focal is not None
    assert (focal.source, focal.longer) == ("exif", pytest.approx(longer, abs=1e-4))
    assert focal.x * size[1] == pytest.approx(focal.y * size[0])


@pytest.mark.parametrize("millimetres", [None, 0.0, 1.0, 65535.0, math.nan])
def test_no_focal_length_on_film(millimetres: float | None):
    assert exif_focal(millimetres, size=(480, 640)) is None
