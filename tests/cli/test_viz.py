"""`cuts3d viz`: where its picture goes, and the depth maps that it takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.photos import encoded, two_boxes
from tests.support.running import Ran

SMALL = ("--backbone", "dino-vits16", "--size", "224", "--crf-size", "160")


@pytest.mark.parametrize(
    ("out", "problem"),
    [
        ("o.gif", "--out is o.gif, whose ending names no kind of picture: use one of .png, .jpg, .jpeg"),
        ("o", "--out is o, whose ending names no kind of picture"),
        ("no/o.png", "--out is no/o.png, but there is no folder no: make it first"),
        ("d.png", "--out is d.png, which is a folder: name a file"),
    ],
)
@pytest.mark.parametrize(
    "what", [["a.jpg"], ["a.jpg", "--checkpoint", "c.pth"], ["--shards", "a.tar", "--key", "k"]], ids=len
)
def test_where_no_picture_can_go_is_told_first(
    what: list[str], out: str, problem: str, cuts3d: Callable[..., Ran], alone: Path
):
    (alone / "d.png").mkdir()
    (alone / "a.tar").touch()
    ran = cuts3d("viz", *what, "-o", out)
    assert ran.code == 2
    assert ran.line.startswith(f"cuts3d: {problem}")


def test_a_jpeg_of_a_photo_with_a_map_of_another_format(cuts3d: Callable[..., Ran], alone: Path, weights: Path):
    scene = two_boxes()
    (alone / "a.jpg").write_bytes(encoded(scene.image))
    marked = np.where(scene.depth == 0, np.uint16(65535), scene.depth)
    (alone / "a.TIFF").write_bytes(encoded(marked, "TIFF"))
    ran = cuts3d("viz", "a.jpg", "--depth", "a.TIFF", *SMALL, "--weights", weights, "-o", "o.JPG")
    assert (ran.code, ran.out) == (0, "o.JPG\n")
    assert "65535 is taken as 'not measured'; if it is a distance, give --depth-invalid 0" in ran.err
    with Image.open("o.JPG") as picture:
        assert picture.format == "JPEG"


@pytest.mark.parametrize(
    ("depth", "problem"),
    [
        (np.full((80, 60), 1500, np.uint16), "a.png: the depth is 60x80, the upright photo 80x60: they differ in"),
        (np.full((60, 80), 65535, np.uint16), "a.png: the depth map has no valid pixel"),
    ],
)
def test_maps_are_checked_as_packing_does(depth: np.ndarray, problem: str, cuts3d: Callable[..., Ran], alone: Path):
    (alone / "a.jpg").write_bytes(encoded(two_boxes().image))
    (alone / "a.png").write_bytes(encoded(depth, "PNG"))
    ran = cuts3d("viz", "a.jpg", "--depth", "a.png")
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith(f"cuts3d: {problem}")


def test_a_map_that_exif_would_turn_names_the_option(cuts3d: Callable[..., Ran], alone: Path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (80, 60)).save("a.jpg", exif=turned)
    Image.fromarray(np.full((60, 80), 1500, np.uint16)).save("a.png")
    ran = cuts3d("viz", "a.jpg", "--depth", "a.png")
    assert ran.code == 1
    assert "before its EXIF orientation 6 turns it" in ran.line
    assert ran.line.endswith("--depth-orientation stored turns it along")


@pytest.fixture
def folders(alone: Path) -> Path:
    """photos/a.jpg, photos/sub/a.jpg and a file that is damaged; maps of the first two."""
    scene = two_boxes()
    for file in ("a", "sub/a"):
        for folder, ending, data in (
            ("photos", "jpg", encoded(scene.image)),
            ("maps", "png", encoded(scene.depth, "PNG")),
        ):
            path = alone / f"{folder}/{file}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return alone


def test_a_folder_gives_a_picture_a_photo(folders: Path, cuts3d: Callable[..., Ran], weights: Path):
    (folders / "photos/b.jpg").write_bytes(b"\xff\xd8\xff damaged")
    (folders / "maps/b.png").write_bytes(encoded(two_boxes().depth, "PNG"))
    command = ("viz", "photos", "--depth", "maps", *SMALL, "--weights", weights)
    ran = cuts3d(*command)
    assert ran.code == 3
    assert ran.out.splitlines() == ["cuts3d-pictures/a.cuts3d.png", "cuts3d-pictures/sub/a.cuts3d.png"]
    assert "failed: b.jpg: " in ran.err
    for file in ran.out.splitlines():
        with Image.open(file) as picture:
            assert picture.format == "PNG"
    # The folder of the photos may be that of the pictures, which are no photos.
    (folders / "photos/b.jpg").unlink()
    for _ in range(2):
        ran = cuts3d(*command, "--out", "photos", "--json")
        assert ran.code == 0
        assert len(json.loads(ran.out)["pictures"]) == 2
    assert sorted(path.name for path in Path("photos").iterdir()) == ["a.cuts3d.png", "a.jpg", "sub"]


def test_several_photos_say_once_what_falls_back(folders: Path, cuts3d: Callable[..., Ran], weights: Path):
    ran = cuts3d("viz", "photos/a.jpg", "photos/sub/a.jpg", *SMALL, "--weights", weights, "--out", "o", "--json")
    assert ran.code == 0
    assert ran.err.count("no depth, so the cut is in 2D") == 1
    notes = [picture["notes"] for picture in json.loads(ran.out)["pictures"]]
    # Why, and what to do, is said where the command was typed.
    assert notes == [["no depth, so the cut is in 2D"]] * 2
    assert "--depth-weights FOLDER" in ran.err
    assert "depth.weights" not in ran.err
    ran = cuts3d("viz", "photos/a.jpg", *SMALL, "--weights", weights, "--depth-backend", "zoedepth", "--out", "o.png")
    assert (ran.code, "\ncuts3d: weights of zoedepth are not in the cache" in ran.err) == (1, True)


def test_a_backbone_that_is_named_never_falls_back(folders: Path, cuts3d: Callable[..., Ran]):
    for photos in (("photos/a.jpg",), ("photos/a.jpg", "photos/sub/a.jpg")):
        ran = cuts3d("viz", *photos, "--backbone", "dino-vitb8", "--out", "o.png" if len(photos) == 1 else "o")
        assert ran.code == 1
        assert "weights of dino-vitb8 are not in the cache" in ran.err.splitlines()[-1]
        assert "falling back" not in ran.err


def test_depth_maps_take_the_preset_for_them_unless_one_is_named(
    folders: Path, cuts3d: Callable[..., Ran], weights: Path, monkeypatch: pytest.MonkeyPatch
):
    one = ("viz", "photos/a.jpg", "--depth", "maps/a.png", "--no-crf", *SMALL, "--weights", weights, "--out")
    line = "preset objects, since depth maps are given: --preset paper takes the paper's"

    def picture(*more: object) -> tuple[bytes, list[str]]:
        ran = cuts3d(*one, "a.png", *more)
        assert ran.code == 0, ran.err
        return Path("a.png").read_bytes(), ran.err.splitlines()

    plain, told = picture()
    assert told.count(line) == 1
    named, told_named = picture("--preset", "objects")
    assert line not in told_named
    of_paper, told_paper = picture("--preset", "paper")
    assert not any(text.startswith("preset ") for text in told_paper)
    assert plain == named != of_paper
    # A camera needs no further option then, and settings of one's own win.
    Path("c.json").write_text('{"fx": 70, "fy": 70}')
    assert any("of 1 photo from intrinsics" in text for text in picture("--intrinsics", "c.json")[1])
    ran = cuts3d(*one, "a.png", "--intrinsics", "c.json", "--cloud", "paper")
    assert "--intrinsics has no effect with --cloud paper" in ran.line
    # A variable and a file name one, too; without maps it stays the paper's.
    monkeypatch.setenv("CUTS3D_PRESET", "paper")
    assert picture() == (of_paper, told_paper)
    monkeypatch.delenv("CUTS3D_PRESET")
    Path("cuts3d.toml").write_text('preset = "paper"')
    assert picture() == (of_paper, told_paper)
    Path("cuts3d.toml").unlink()
    ran = cuts3d("viz", "photos/a.jpg", *SMALL, "--weights", weights)
    assert "preset paper, since no depth maps are given" in ran.err.splitlines()
    # Of a folder it is said once.
    ran = cuts3d("viz", "photos", "--depth", "maps", "--no-crf", *SMALL, "--weights", weights)
    assert (ran.code, ran.err.splitlines().count(line)) == (0, 1)


def test_one_photo_finds_its_map_in_a_folder(folders: Path, cuts3d: Callable[..., Ran], weights: Path):
    ran = cuts3d("viz", "photos/a.jpg", "--depth", "maps", *SMALL, "--weights", weights)
    assert (ran.code, ran.out) == (0, "a.cuts3d.png\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["photos", "--depth", "maps/a.png"], "--depth is maps/a.png: of several photos, name the folder of their"),
        (["photos", "--out", "photos/a.jpg"], "--out is photos/a.jpg, but "),
        (["maps/none"], "maps/none: No such file or directory"),
        (["none/*.jpg"], "'none/*.jpg' matches no file"),
        (["photos/a.jpg", "none.jpg"], "none.jpg does not exist"),
    ],
)
def test_what_cannot_be_drawn(folders: Path, cuts3d: Callable[..., Ran], arguments: list[str], problem: str):
    ran = cuts3d("viz", *arguments)
    assert ran.code in (1, 2)
    assert ran.line.startswith(f"cuts3d: {problem}")
    assert "Is a directory" not in ran.err


def test_what_fails_leaves_no_empty_folder(folders: Path, cuts3d: Callable[..., Ran], weights: Path):
    ran = cuts3d("viz", "photos", "--backbone", "dino-vits8")
    assert (ran.code, "weights of dino-vits8" in ran.line) == (1, True)
    for file in ("a.jpg", "sub/a.jpg"):
        Path("photos", file).write_bytes(b"\xff\xd8\xff damaged")
    ran = cuts3d("viz", "photos", *SMALL, "--weights", weights, "--out", "new/pictures")
    assert ran.code == 3
    assert sorted(path.name for path in Path().iterdir()) == ["maps", "photos"]
