"""`cuts3d viz`: where its picture goes, and the depth maps that it takes."""

from __future__ import annotations

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
