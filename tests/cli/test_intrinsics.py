"""Cameras from `pack --intrinsics` and EXIF to the masks: what is stored, counted, told and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from tests.support.photos import encoded, records, scene_of, write_photos
from tests.support.running import Ran

FAST = ("--backbone", "dino-vits16", "--size", "224", "--no-crf", "-j", "0")
IN_PERSPECTIVE = ("--cloud", "perspective", "--tau-knn", "auto", "--concavity", "0.03", "--planes", "0.15")
CAMERA = {"fx": 128.0, "fy": 128.0}
ENTRIES = {"p0": CAMERA, "p1.jpg": [120.0, 130.0, 35.0, 45.0]}


def photo_with_exif(path: Path, *, focal: object, number: int = 0) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = focal
    Image.fromarray(scene_of(number).image).save(path, exif=exif)


@pytest.fixture
def photos(alone: Path) -> Path:
    """Four scenes with maps, of boxes at 1 m and 1.15 m; the third has a focal length in its EXIF data."""
    write_photos(alone, 4)
    for number in range(4):
        scene = scene_of(number)
        depth = np.where(scene.boxes[1], 1150, scene.depth).astype(np.uint16)
        (alone / f"maps/p{number}.png").write_bytes(encoded(depth, "PNG"))
    photo_with_exif(alone / "photos/p2.jpg", focal=40, number=2)
    return alone


def written(name: str, value: Any) -> str:
    Path(name).write_text(value if isinstance(value, str) else json.dumps(value))
    return name


def pack(cuts3d: Callable[..., Ran], *more: object, out: str = "d") -> Ran:
    return cuts3d("pack", "photos", "--depth-dir", "maps", "--out", out, "--name", "s", *more)


def rows_of(ran: Ran) -> dict[str, str]:
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ran.out.splitlines()]
    return {row[0]: row[1] for row in cells if len(row) == 2}


def test_what_is_stored_and_told(photos: Path, cuts3d: Callable[..., Ran]):
    ran = pack(cuts3d, "--intrinsics", written("c.json", {**ENTRIES, "p9.jpg": CAMERA}))
    assert ran.code == 0, ran.err
    assert rows_of(ran)["with intrinsics"] == "2"
    assert "2 of 4 photos have no camera in c.json" in ran.err.splitlines()
    assert "1 camera in c.json is no photo's, as p9.jpg" in ran.err.splitlines()
    facts = records(photos / "d/s-000.tar", "cuts3d.json")
    assert facts["p0"]["camera"] == CAMERA
    assert facts["p1"]["camera"] == {"fx": 120.0, "fy": 130.0}
    assert "camera" not in facts["p2"]
    assert "camera" not in facts["p3"]
    manifest = load_manifest(photos / "d/s-000.json")
    assert manifest.config["intrinsics"] is True
    assert (manifest.counts["with_camera"], manifest.counts["without_camera"]) == (2, 2)
    assert '"camera": {"fx": 128.0, "fy": 128.0}' in cuts3d("inspect", "d/s-000.tar").out
    assert cuts3d("verify", "d").code == 0


def test_without_intrinsics_the_bytes_are_as_before(photos: Path, cuts3d: Callable[..., Ran]):
    """EXIF data are read where they are: they change no shard."""
    assert pack(cuts3d).code == 0
    facts = records(photos / "d/s-000.tar", "cuts3d.json")
    assert all(set(item) == {"id", "source", "width", "height", "depth"} for item in facts.values())
    manifest = load_manifest(photos / "d/s-000.json")
    assert "intrinsics" not in manifest.config
    assert "with_camera" not in manifest.counts
    # A camera of one photo changes that photo's facts and no other member.
    assert pack(cuts3d, "--intrinsics", written("c.json", {"p0.jpg": CAMERA}), out="e").code == 0
    for name in ("jpg", "sensor.png"):
        assert members(photos / "d/s-000.tar", name) == members(photos / "e/s-000.tar", name)
    others = records(photos / "e/s-000.tar", "cuts3d.json")
    assert others["p0"].pop("camera")
    assert others == facts


def members(tar: Path, extension: str) -> dict[str, bytes]:
    from cuts3d_cli.shards.reader import read_shard

    return {sample.key: sample.members[extension] for sample in read_shard(tar)}


def test_another_camera_is_packed_anew_and_the_same_one_is_not(photos: Path, cuts3d: Callable[..., Ran]):
    c = written("c.json", ENTRIES)
    assert pack(cuts3d, "--intrinsics", c).code == 0
    before = Path("d/s-000.tar").stat().st_mtime_ns
    assert pack(cuts3d, "--intrinsics", c).code == 0
    assert Path("d/s-000.tar").stat().st_mtime_ns == before
    written("c.json", {**ENTRIES, "p0": {"fx": 90, "fy": 90}})
    assert pack(cuts3d, "--intrinsics", c).code == 0
    assert records(Path("d/s-000.tar"), "cuts3d.json")["p0"]["camera"]["fx"] == 90.0
    # With and without are other settings: nothing is replaced unasked.
    ran = pack(cuts3d)
    assert ran.code == 2
    assert "intrinsics" in ran.line
    assert "--if-exists replace" in ran.line


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"fx": -1, "fy": 1}, "c.json: it has -1 for fx"),
        ('{"fx": NaN, "fy": 1}', "c.json: it has nan for fx"),
        ({"a": 1}, "c.json holds no camera: give fx and fy, or a matrix K"),
        ({"other.jpg": CAMERA}, "c.json holds no camera of any photo: there is other.jpg, and no p0.jpg"),
        (
            {**CAMERA, "width": 640, "height": 100},
            "c.json does not fit p0.jpg: its camera takes photos of 640x100, and it is 80x60",
        ),
        ([4.2, 4.2, 40, 30], "c.json does not fit p0.jpg: its camera has a focal length of 0.0525 of the photo's"),
        ([500, 500, 320, 240], "c.json does not fit p0.jpg: its camera has its principal point at (320, 240), far"),
        ("no camera\n", "c.json is no camera: give JSON, YAML, or the numbers fx, fy, cx, cy"),
    ],
)
def test_bad_files(photos: Path, cuts3d: Callable[..., Ran], value: Any, reason: str):
    ran = pack(cuts3d, "--intrinsics", written("c.json", value))
    assert ran.code == 2
    assert ran.line.startswith(f"cuts3d: --intrinsics {reason}")
    assert not Path("d").exists()


def test_a_camera_that_fits_some_photos_fails_the_others(photos: Path, cuts3d: Callable[..., Ran]):
    ran = pack(cuts3d, "--intrinsics", written("c.json", {**CAMERA, "width": 160, "height": 120}))
    assert ran.code == 3
    assert "p1: its camera takes photos of 160x120, and it is 70x90" in ran.err
    assert records(Path("d/s-000.tar"), "cuts3d.json")["p0"]["camera"] == {"fx": 64.0, "fy": 64.0}


@pytest.fixture
def cut(photos: Path, cuts3d: Callable[..., Ran], weights: Path) -> Callable[..., Ran]:
    """Cuts shards d, with cameras and depth, by some options."""
    assert pack(cuts3d, "--intrinsics", written("c.json", ENTRIES)).code == 0
    assert cuts3d("depth", "--shards", "d", "--depth-backend", "sensor").code == 0
    return lambda *more: cuts3d("pseudo", "--shards", "d", *FAST, "--weights", weights, *more)


def test_masks_say_what_they_were_cut_with(cut: Callable[..., Ran]):
    ran = cut(*IN_PERSPECTIVE)
    assert ran.code == 0, ran.err
    assert ran.err.count("focal length: ") == 1
    line = "focal length: of 2 photos from intrinsics, 1 from EXIF, 1 by default (--focal 0.9); for the camera's own: "
    assert f"{line}pack with --intrinsics FILE" in ran.err.splitlines()
    manifest = load_manifest(Path("d/s-000.pseudo.json"))
    names = ("focal_intrinsics", "focal_exif", "focal_default")
    assert [manifest.counts[name] for name in names] == [2, 1, 1]
    assert "focal" not in manifest.config["pseudo"]
    masks = records(Path("d/s-000.pseudo.tar"), "pseudo.json")
    assert masks["p0"]["focal"] == {"x": 128 / 80, "y": 128 / 60, "source": "intrinsics"}
    assert masks["p1"]["focal"] == {"x": 120 / 70, "y": 130 / 90, "source": "intrinsics"}
    assert masks["p2"]["focal"]["source"] == "exif"
    assert masks["p2"]["focal"]["x"] == pytest.approx(40 / 43.2666 * 1.25, abs=1e-4)
    assert "focal" not in masks["p3"]


def test_a_given_setting_goes_before_cameras(cut: Callable[..., Ran]):
    ran = cut(*IN_PERSPECTIVE, "--focal", "0.9")
    assert ran.code == 0, ran.err
    assert "focal length" not in ran.err
    assert load_manifest(Path("d/s-000.pseudo.json")).config["pseudo"]["focal"] == 0.9
    assert not any("focal" in item for item in records(Path("d/s-000.pseudo.tar"), "pseudo.json").values())


def test_the_papers_cloud_knows_no_cameras(cut: Callable[..., Ran]):
    ran = cut()
    assert ran.code == 0, ran.err
    assert "focal" not in ran.err
    assert not any(name.startswith("focal") for name in load_manifest(Path("d/s-000.pseudo.json")).counts)
    assert not any("focal" in item for item in records(Path("d/s-000.pseudo.tar"), "pseudo.json").values())


def test_cameras_change_the_masks_and_a_batch_gives_the_same(cut: Callable[..., Ran]):
    """The boxes lie 0.14 times the focal length apart: they are one where it is 0.9 or 1.2, two from 1.4 on."""
    near = ("--cloud", "perspective", "--tau-knn", "0.2")
    assert cut(*near).code == 0
    tar = sidecar(Path("d/s-000.tar"), "pseudo")
    own, counts, sizes = tar.read_bytes(), load_manifest(manifest_path(tar)).counts, largest(tar)
    on_device = ("--set", "graphs=device", "--batch-size", "3", "--if-exists", "overwrite")
    assert cut(*near, *on_device).code == 0
    assert tar.read_bytes() == own
    assert load_manifest(manifest_path(tar)).counts == counts
    assert cut(*near, "--focal", "0.9", "--if-exists", "replace").code == 0
    by_default = largest(tar)
    assert [sizes[key] < 0.7 * by_default[key] for key in sizes] == [True, True, False, False]
    assert sizes["p3"] == by_default["p3"]


def largest(tar: Path) -> dict[str, int]:
    """Key -> pixels of its largest mask."""
    return {key: max(item["area"] for item in value["instances"]) for key, value in records(tar, "pseudo.json").items()}


def test_confidence_sees_what_the_cut_saw(cut: Callable[..., Ran], cuts3d: Callable[..., Ran]):
    """Of the same masks, cut with the photo's own focal length or with the same one as a setting: the same maps."""
    found = []
    for focal in ((), ("--focal", "1.6")):
        assert cut(*IN_PERSPECTIVE, *focal, "--if-exists", "replace").code == 0
        ran = cuts3d("confidence", "--shards", "d", "-j", "0")
        assert ran.code == 0, ran.err
        masks = records(Path("d/s-000.pseudo.tar"), "pseudo.json")["p0"]
        masks.pop("focal", None)
        found.append((masks, members(Path("d/s-000.confidence.tar"), "confidence.npy")["p0"]))
    assert found[0] == found[1]
    assert found[0][0]["instances"]
    # The sidecar is checked like all others.
    assert cuts3d("verify", "d").code == 0


def segment(cuts3d: Callable[..., Ran], weights: Path, *more: object) -> Ran:
    return cuts3d("segment", "photos", "--out", "out", "--no-pictures", *FAST, "--weights", weights, *more)


def test_segment_takes_cameras(photos: Path, cuts3d: Callable[..., Ran], weights: Path):
    c = written("c.json", ENTRIES)
    command = ("--depth-dir", "maps", "--intrinsics", c, "--keep-shards")
    ran = segment(cuts3d, weights, *command)
    assert ran.code == 0, ran.err
    line = "focal length: of 2 photos from intrinsics, 1 from EXIF, 1 by default (--focal 0.9); for the camera's own: "
    assert ran.err.splitlines().count(f"{line}--intrinsics FILE") == 1
    assert records(Path("out/shards/photos-000.pseudo.tar"), "pseudo.json")["p0"]["focal"]["x"] == 1.6
    assert "finished before" in segment(cuts3d, weights, *command).out
    # Other cameras are other results.
    written("c.json", {**ENTRIES, "p0": {"fx": 90, "fy": 90}})
    ran = segment(cuts3d, weights, *command)
    assert (ran.code, "results of other cameras: " in ran.line) == (2, True)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (
            ("--depth-dir", "maps", "--preset", "paper"),
            "has no effect with --cloud paper: leave it out, or take --preset",
        ),
        ((), "has no effect with --cloud paper"),
        (("--depth-dir", "maps", "--focal", "0.8"), "has no effect with --focal 0.8: leave it out"),
        (("--method", "maskcut"), "has no effect with --method maskcut"),
    ],
)
def test_cameras_without_effect_are_refused(
    photos: Path, cuts3d: Callable[..., Ran], weights: Path, more: tuple[str, ...], reason: str
):
    ran = segment(cuts3d, weights, "--intrinsics", written("c.json", ENTRIES), *more)
    assert ran.code == 2
    assert ran.line.startswith(f"cuts3d: --intrinsics {reason}")
    assert not Path("out").exists()


NOISY = "is noisy: it is taken as less steep than the focal length says, so that surfaces stay whole"


def test_noisy_depth_is_counted_and_told(photos: Path, cuts3d: Callable[..., Ran], weights: Path):
    """The noise of a long lens's photo, in two of four maps; the others are clean."""
    chance = np.random.default_rng(0)
    for number in range(2):
        scene = scene_of(number)
        depth = scene.depth * np.exp(0.05 * chance.standard_normal(scene.depth.shape))
        (photos / f"maps/p{number}.png").write_bytes(encoded(depth.astype(np.uint16), "PNG"))
    network = (*FAST[:-2], "--weights", weights, *IN_PERSPECTIVE, "--focal", "3")
    assert pack(cuts3d).code == 0
    assert cuts3d("depth", "--shards", "d", "--depth-backend", "sensor").code == 0
    ran = cuts3d("pseudo", "--shards", "d", *network, "-j", "0")
    assert ran.code == 0, ran.err
    assert f"the depth of 2 photos {NOISY}" in ran.err.splitlines()
    assert load_manifest(Path("d/s-000.pseudo.json")).counts["noisy_depth"] == 2
    ran = cuts3d("viz", "photos", "--depth", "maps", "--out", "pictures", *network)
    assert ran.code == 0, ran.err
    assert ran.err.count(NOISY) == 1


def test_segment_refuses_a_bad_file_before_any_work(photos: Path, cuts3d: Callable[..., Ran], weights: Path):
    ran = segment(cuts3d, weights, "--depth-dir", "maps", "--intrinsics", written("c.json", {"fx": 0, "fy": 1}))
    assert (ran.code, ran.line) == (2, "cuts3d: --intrinsics c.json: it has 0 for fx")
    assert not Path("out").exists()


def test_viz_takes_cameras(photos: Path, cuts3d: Callable[..., Ran], weights: Path):
    network = (*FAST[:-2], "--weights", weights, *IN_PERSPECTIVE)
    c = written("c.json", ENTRIES)
    one = ("viz", "photos/p0.jpg", "--depth", "maps/p0.png", "--out", "a.png")
    ran = cuts3d(*one, *network, "--intrinsics", c)
    assert ran.code == 0, ran.err
    assert "focal length: of 1 photo from intrinsics" in ran.err
    ran = cuts3d(*one, *network)
    line = "focal length: of 1 photo by default (--focal 0.9); for the camera's own: --intrinsics FILE"
    assert line in ran.err.splitlines()
    ran = cuts3d("viz", "photos", "--depth", "maps", "--out", "pictures", *network, "--intrinsics", c)
    assert ran.code == 0, ran.err
    told = [line for line in ran.err.splitlines() if line.startswith("focal length")]
    assert len(told) == 3  # once for each source
    ran = cuts3d(*one, *network, "--intrinsics", written("d.json", {"q.jpg": CAMERA}))
    assert ran.code == 2
    assert ran.line == "cuts3d: --intrinsics d.json holds no camera of any photo: there is q.jpg, and no p0.jpg"
    ran = cuts3d(*one, "--intrinsics", c, "--cloud", "paper")
    assert "has no effect with --cloud paper" in ran.line
    ran = cuts3d("viz", "--shards", "d", "--key", "p0", "--intrinsics", c)
    assert ran.line == "cuts3d: --intrinsics has no effect with --shards, which draws what is stored: leave it out"
