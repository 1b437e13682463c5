"""`cuts3d pack`: what it prints of photos and depth maps, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.photos import encoded, two_boxes, write_photos
from tests.support.running import Ran


def rows_of(ran: Ran) -> dict[str, str]:
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ran.out.splitlines()]
    return {row[0]: row[1] for row in cells if len(row) == 2}


def test_files_that_are_no_photos_are_counted(cuts3d: Callable[..., Ran], alone: Path):
    (alone / "in/sub").mkdir(parents=True)
    photo = encoded(two_boxes().image)
    for name in ("a.jpg", "b.JPG_large", "sub/c", "sub/a.jpg"):
        (alone / "in" / name).write_bytes(photo)
    for name in ("notes.txt", "sub/list"):
        (alone / "in" / name).write_bytes(b"text")
    ran = cuts3d("pack", "in", "--out", "d")
    assert ran.code == 0
    rows = rows_of(ran)
    assert (rows["images"], rows["failed"], rows["no photos, passed over"]) == ("4", "0", "2")
    assert "with a depth map" not in rows
    result = json.loads(cuts3d("pack", "in", "--out", "d", "--json").out)
    assert (result["passed_over"], result["keys_made_longer"], result["counts"]["samples_out"]) == (2, 0, 4)
    manifest = json.loads((alone / "d/in-000.json").read_text())
    assert manifest["info"]["passed_over"] == 2


def test_depth_maps_are_counted_and_doubts_name_their_options(cuts3d: Callable[..., Ran], alone: Path):
    source = write_photos(alone / "in", 3)
    marked = two_boxes().depth
    marked[:3, :5] = 65535
    (source / "maps/p0.png").write_bytes(encoded(marked, "PNG"))
    (source / "maps/p1.png").unlink()
    (source / "maps/more.png").write_bytes(b"")
    ran = cuts3d("pack", source / "photos", "--out", "d", "--name", "s", "--depth-dir", source / "maps")
    assert ran.code == 0
    rows = rows_of(ran)
    assert (rows["with a depth map"], rows["without"]) == ("2", "1")
    lines = ran.err.splitlines()
    assert f"1 of 3 photos have no depth map in {source}/maps" in lines
    assert f"1 of 3 files in {source}/maps are no photo's depth map, as more.png" in lines
    assert "65535 is taken as 'not measured' in 1 depth map; if it is a distance: --depth-invalid 0" in lines
    heavy = [line for line in lines if "largest value" in line]
    assert heavy[0].endswith("as 2000 in p0.png: if it means 'not measured', name it by --depth-invalid")
    # The depth of the shard is that of the other values, and a reader of the shard is told.
    ran = cuts3d("depth", "--shards", "d", "--backend", "sensor")
    assert ran.code == 3  # p1 has none
    assert (
        "65535 is taken as 'not measured' in 1 depth map; if it is a distance: pack with --depth-invalid 0" in ran.err
    )
    assert '"max": 2.0, "min": 1.0' in cuts3d("inspect", "d/s-000.depth.tar").out
    ran = cuts3d("verify", "d")
    assert ran.code == 0


def test_a_folder_of_maps_of_which_none_is_used(cuts3d: Callable[..., Ran], alone: Path):
    source = write_photos(alone / "in", 1)
    (alone / "empty").mkdir()
    ran = cuts3d("pack", source / "photos", "--out", "d", "--depth-dir", "empty")
    assert (ran.code, ran.line) == (2, "cuts3d: --depth-dir empty holds no files")
    (source / "maps/p0.png").rename(source / "maps/q0.png")
    ran = cuts3d("pack", source / "photos", "--out", "d", "--depth-dir", source / "maps")
    assert ran.code == 2
    assert "that of p0.jpg would be p0.png" in ran.line
    assert not (alone / "d").exists()


def test_settings_of_maps(cuts3d: Callable[..., Ran], alone: Path):
    source = write_photos(alone / "in", 1)
    for option in (("--depth-invalid", "0"), ("--depth-scale", "0.1"), ("--depth-orientation", "stored")):
        ran = cuts3d("pack", source / "photos", "--out", "d", *option)
        assert (ran.code, ran.line) == (2, f"cuts3d: {option[0]} has no effect without --depth-dir: leave it out")
    ran = cuts3d("pack", source / "photos", "--out", "d", "--depth-dir", source / "maps", "--depth-invalid", "x")
    assert ran.code == 2
    assert ran.line.startswith("cuts3d: --depth-invalid is 'x': give 'auto', or the values that mean 'not measured'")


def test_a_photo_that_exif_turns_names_the_option(cuts3d: Callable[..., Ran], alone: Path):
    turned = Image.Exif()
    turned[0x0112] = 6
    for folder in ("in", "maps"):
        (alone / folder).mkdir()
    Image.new("RGB", (80, 60)).save("in/a.jpg", exif=turned)
    Image.fromarray(np.full((60, 80), 1500, np.uint16)).save("maps/a.png")
    ran = cuts3d("pack", "in", "--out", "d", "--depth-dir", "maps")
    assert ran.code == 3
    assert "before its EXIF orientation 6 turns it" in ran.err
    assert "before EXIF turns it: --depth-orientation stored turns such maps along" in ran.err
    ran = cuts3d("pack", "in", "--out", "e", "--depth-dir", "maps", "--depth-orientation", "stored")
    assert (ran.code, rows_of(ran)["with a depth map"]) == (0, "1")
