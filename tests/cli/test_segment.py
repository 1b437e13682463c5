"""`cuts3d segment`: from photos to masks, pictures and COCO in one command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cuts3d_cli.config import DepthConfig
from cuts3d_cli.depth.base import DepthBackend, DepthSpec
from cuts3d_cli.errors import FileError
from cuts3d_cli.exports.output import Output
from cuts3d_cli.features.catalogue import BACKBONES
from cuts3d_cli.files import one_writer
from cuts3d_cli.recipes import segment as recipe
from cuts3d_cli.stages.pack import Packing
from tests.support.depth_networks import zoedepth
from tests.support.photos import encoded, scene_of, write_photos
from tests.support.running import Ran

FAST = ("--size", "224", "--no-crf", "-j", "0")


@pytest.fixture
def settings(weights: Path) -> tuple[object, ...]:
    """Of a small backbone, and what finds the two boxes with random weights."""
    return ("--backbone", "dino-vits16", "--weights", weights, *FAST)


@pytest.fixture
def photos(alone: Path) -> Path:
    """Three scenes: photos/p0.jpg, ..., maps/p0.png, ..."""
    write_photos(alone, 3)
    return alone


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_command_gives_masks_pictures_and_coco(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]
):
    ran = cuts3d("segment", "photos", "--depth-dir", "maps", "--out", "out", "--json", *settings)
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["photos"] == 3
    assert result["instances"] > 0
    assert result["failed"] == []
    assert result["written"] == {
        "coco": "out/annotations.json",
        "png": "out/masks",
        "pictures": "out/pictures",
    }
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "annotations.json",
        "masks",
        "pictures",
        "segment.json",
    ]
    # The COCO JSON and the PNGs hold the same masks, and scores of Spatial Confidence.
    coco = json.loads(Path("out/annotations.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["p0.jpg", "p1.jpg", "p2.jpg"]
    masks = sorted(Path("out/masks").glob("*.png"))
    assert len(masks) == len(coco["annotations"]) == result["instances"]
    with Image.open(masks[0]) as mask:
        assert np.array(mask).astype(bool).sum() == coco["annotations"][0]["area"]
    assert all(0 < item["score"] <= 1 for item in coco["annotations"])
    assert sorted(path.name for path in Path("out/pictures").iterdir()) == ["p0.jpg", "p1.jpg", "p2.jpg"]
    # The preset is `objects`, since depth is given.
    record = json.loads(Path("out/segment.json").read_text())
    assert record["settings"]["pseudo"]["cloud"] == "perspective"
    assert record["settings"]["depth"]["backend"] == "sensor"


def test_a_second_run_does_nothing_and_says_the_same(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
):
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "out", "--json", *settings)
    first = json.loads(cuts3d(*command).out)
    before = contents(Path("out"))
    monkeypatch.setattr(recipe, "pack", lambda *_, **__: pytest.fail("it worked again"))
    ran = cuts3d(*command)
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out) == {**first, "finished_before": True}
    assert contents(Path("out")) == before


def test_an_interrupted_run_goes_on_and_gives_the_same(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
):
    command = ("segment", "photos", "--depth-dir", "maps", *settings)
    assert cuts3d(*command, "--out", "whole").code == 0
    with monkeypatch.context() as patched:
        patched.setattr(recipe, "draw_all", _fail)
        assert cuts3d(*command, "--out", "out").code == 1
    assert Path("out/.shards/photos-000.pseudo.tar").is_file()
    ran = cuts3d(*command, "--out", "out")
    assert ran.code == 0
    assert "photos-000.tar: finished before, skipped" in ran.err
    assert contents(Path("out")) == contents(Path("whole"))


def test_shards_are_kept_where_asked_for(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "out", *settings)
    assert cuts3d(*command, "--keep-shards").code == 0
    assert cuts3d("export", "out/shards", "--to", "numpy", "--out", "arrays").code == 0
    assert len(list(Path("arrays").glob("*.npz"))) == 3
    # Without the option they stay: nobody asked to remove them.
    ran = cuts3d(*command, "--if-exists", "overwrite")
    assert ran.code == 0
    assert Path("out/shards/photos-000.pseudo.tar").is_file()


def test_results_of_other_settings_or_photos_are_replaced_only_where_asked_for(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]
):
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "out", *settings)
    assert cuts3d(*command).code == 0
    before = contents(Path("out"))
    ran = cuts3d(*command, "-n", "1")
    assert ran.code == 2
    way_out = "choose another --out, or set --if-exists replace to remove them"
    assert ran.line == f'cuts3d: out holds results of other settings (--instances "all" -> 1): {way_out}'
    (photos / "photos/p2.jpg").unlink()
    ran = cuts3d(*command)
    assert ran.line == f"cuts3d: out holds results of other photos: {way_out}"
    (photos / "maps/p1.png").touch()
    assert cuts3d(*command).line == f"cuts3d: out holds results of other photos and depth maps: {way_out}"
    assert contents(Path("out")) == before
    # What is replaced leaves nothing of before.
    assert cuts3d(*command, "-n", "1", "--if-exists", "replace").code == 0
    assert sorted(path.name for path in Path("out/pictures").iterdir()) == ["p0.jpg", "p1.jpg"]
    assert len(list(Path("out/masks").glob("*.png"))) <= 2
    assert cuts3d(*command, "-n", "1", "--if-exists", "fail").code == 2


def test_files_of_others_are_never_touched(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    Path("out/masks").mkdir(parents=True)
    Path("out/masks/mine.png").touch()
    for how in ("resume", "replace", "overwrite"):
        ran = cuts3d("segment", "photos", "--depth-dir", "maps", "--out", "out", "--if-exists", how, *settings)
        assert ran.code == 2
        assert ran.line.startswith("cuts3d: out/masks is there, and was not written by `cuts3d segment`")
    assert sorted(path.name for path in Path("out").rglob("*")) == ["masks", "mine.png"]


def test_photos_that_fail_are_listed_and_the_others_done(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]
):
    (photos / "photos/p0.jpg").write_bytes(b"\xff\xd8\xff damaged")
    (photos / "maps/p1.png").unlink()
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "out", "--json", *settings)
    for _ in range(2):  # a finished run says the same again
        ran = cuts3d(*command)
        assert ran.code == 3
        result = json.loads(ran.out)
        assert result["photos"] == 1
        assert [(item["file"], item["stage"]) for item in result["failed"]] == [("p0.jpg", "pack"), ("p1.jpg", "depth")]
        assert "failed: p1.jpg: failed in `cuts3d depth`: there is no depth map of it in maps" in ran.err
    assert [path.name for path in Path("out/pictures").iterdir()] == ["p2.jpg"]


def test_no_photo_at_all(alone: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    Path("a.jpg").write_bytes(b"\xff\xd8\xff damaged")
    ran = cuts3d("segment", "a.jpg", "--out", "out", "--method", "maskcut", *settings)
    assert ran.code == 3
    assert "warning: no photo could be segmented" in ran.err


def test_without_depth_and_without_a_network_it_cuts_in_2d_and_says_so_once(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]
):
    ran = cuts3d("segment", "photos/p0.jpg", "photos/p1.jpg", "--out", "out", "--json", *settings)
    assert ran.code == 0
    assert ran.err.count("no depth, so the photos are cut in 2D: ") == 1
    assert "; --depth-dir DIR takes maps" in ran.err
    result = json.loads(ran.out)
    assert result["photos"] == 2
    # Why, and what to do, is said where the command was typed.
    for notes in (result["notes"], json.loads(Path("out/segment.json").read_text())["result"]["notes"]):
        assert notes == ["no depth, so the photos are cut in 2D"]
    assert "--depth-weights FOLDER" in ran.err
    assert "depth.weights" not in ran.err


def test_what_the_user_named_never_falls_back(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    ran = cuts3d("segment", "photos", "--out", "out", "--depth-backend", "marigold", *settings)
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("cuts3d: weights of marigold are not in the cache")
    ran = cuts3d("segment", "photos", "--out", "out", "--backbone", "dino-vits8", *FAST)
    assert ran.code == 1
    assert "weights of dino-vits8" in ran.err.splitlines()[-1]
    ran = cuts3d("segment", "photos", "--out", "out", "--backbone", "dino-vitb8", *FAST)  # the default, named
    assert ran.code == 1
    assert "weights of dino-vitb8" in ran.err.splitlines()[-1]
    assert "falling back" not in ran.err
    ran = cuts3d("segment", "photos", "--out", "out", "--depth-backend", "sensor", *settings)
    assert (ran.code, "whose maps are not given: name their folder by --depth-dir" in ran.err) == (2, True)
    ran = cuts3d("segment", "photos", "--out", "out", "--depth-dir", "maps", "--depth-backend", "marigold", *settings)
    assert (ran.code, "which estimates depth, and --depth-dir gives it: leave one out" in ran.err) == (2, True)
    assert list(Path("out").iterdir()) == []


@pytest.mark.parametrize("where", ["variable", "file"])
def test_what_a_variable_or_a_file_names_never_falls_back(
    photos: Path,
    cuts3d: Callable[..., Ran],
    settings: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
):
    """The defaults, named: a value of the same name that nobody chose would fall back."""

    def name(section: str, field: str, value: str) -> None:
        if where == "variable":
            monkeypatch.setenv(f"CUTS3D_{section}_{field}".upper(), value)
        else:
            Path("cuts3d.toml").write_text(f'[{section}]\n{field} = "{value}"\n')

    name("features", "backbone", "dino-vitb8")
    for command in (("segment", "photos", "--out", "out"), ("viz", "photos/p0.jpg")):
        ran = cuts3d(*command, *FAST)
        assert (ran.code, "weights of dino-vitb8" in ran.err.splitlines()[-1]) == (1, True), ran.err
        assert "falling back" not in ran.err
    monkeypatch.delenv("CUTS3D_FEATURES_BACKBONE", raising=False)
    name("depth", "backend", "zoedepth")
    for command in (("segment", "photos", "--out", "out"), ("viz", "photos/p0.jpg")):
        ran = cuts3d(*command, *settings)
        assert (ran.code, "weights of zoedepth" in ran.err.splitlines()[-1]) == (1, True), ran.err
    # Maps of one command take the place of a network that is named for all of them.
    ran = cuts3d("segment", "photos/p0.jpg", "--depth-dir", "maps", "--out", "out", *settings)
    assert ran.code == 0, ran.err


def test_depth_weights_that_cannot_be_loaded_are_told_before_any_work(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]
):
    repo = photos.parent / "hub/models--Intel--zoedepth-nyu-kitti"
    place = repo / "snapshots" / ("a" * 40)
    place.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text("a" * 40)
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (place / name).write_text("{}")
    command = ("segment", "photos", "--out", "out", *settings)
    ran = cuts3d(*command, "--depth-backend", "zoedepth")
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith(f"cuts3d: {place}/model.safetensors cannot be read: it is JSON")
    assert "== pack" not in ran.err
    ran = cuts3d(*command)
    assert ran.code == 0, ran.err
    told = f"no depth, so the photos are cut in 2D: {place}/model.safetensors cannot be read: it is JSON"
    assert told in ran.err.partition("== pack")[0]
    assert "replace it by `cuts3d weights pull zoedepth --from FOLDER`; --depth-dir DIR takes maps" in ran.err


def test_every_folder_is_listed_once_and_the_cameras_are_read_once(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
):
    from cuts3d_cli.stages import camera_pairs, depth_pairs

    looked: list[str] = []

    def noted(module: Any, name: str) -> None:
        original = getattr(module, name)

        def wrapper(path: Path, *arguments: Any, **named: Any) -> Any:
            looked.append(path.name)
            return original(path, *arguments, **named)

        monkeypatch.setattr(module, name, wrapper)

    noted(depth_pairs, "files_in")
    noted(camera_pairs, "read_cameras")
    Path("cameras.json").write_text(json.dumps({"fx": 300, "fy": 300}))
    command = ("segment", "photos", "--depth-dir", "maps", "--intrinsics", "cameras.json", "--out", "out", *settings)
    ran = cuts3d(*command)
    assert ran.code == 0, ran.err
    assert sorted(looked) == ["cameras.json", "maps"]
    # A map more is of another run.
    encoded_map = (photos / "maps/p0.png").read_bytes()
    (photos / "maps/p9.png").write_bytes(encoded_map)
    assert "depth maps" in cuts3d(*command).err


def test_a_depth_network_is_loaded_once(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
):
    """To see that it can be, and then to run: with the maps of a network that `cuts3d depth` loads."""
    from cuts3d_cli.depth import zoedepth as module

    network = zoedepth(photos / "network")
    loads: list[Path | None] = []

    def load(spec: DepthSpec, *, config: DepthConfig, **further: Any) -> DepthBackend:
        loads.append(config.weights)
        return original(spec, config=config, **further)

    original = module.load_zoedepth
    monkeypatch.setattr(module, "load_zoedepth", load)
    ran = cuts3d("segment", "photos", "--out", "out", "--depth-weights", network, "--keep-shards", *settings)
    assert ran.code == 0, ran.err
    assert "no depth, so" not in ran.err
    assert loads == [network]
    (depth,) = Path("out/shards").glob("*.depth.tar")
    before = depth.read_bytes()
    again = cuts3d("depth", "--shards", "out/shards", "--depth-weights", network, "--if-exists", "overwrite")
    assert again.code == 0, again.err
    assert loads == [network, network]
    assert depth.read_bytes() == before


def test_further_formats_and_no_pictures(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    ran = cuts3d(
        *("segment", "photos", "--depth-dir", "maps", "--out", "out", "--no-pictures", "--category", "box"),
        *("--to", "labelmap", "--to", "yolo", *settings),
    )
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in Path("out").iterdir()) == ["labelmap", "segment.json", "yolo"]
    assert "box" in Path("out/yolo/data.yaml").read_text()
    ran = cuts3d("segment", "photos", "--out", "other", "--to", "jpg")
    assert (ran.code, ran.line.startswith("cuts3d: --to is 'jpg': choose one of coco, ")) == (2, True)


def test_a_coco_json_keeps_its_ids(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    images = [{"id": 7 + number, "file_name": f"p{number}.jpg"} for number in range(2)]
    Path("truth.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    command = ("segment", "truth.json", "--images", "photos", "--depth-dir", "maps", "--out", "out", *settings)
    assert cuts3d(*command).code == 0
    coco = json.loads(Path("out/annotations.json").read_text())
    assert [image["id"] for image in coco["images"]] == [7, 8]


def test_a_detector_in_place_of_cutting(photos: Path, cuts3d: Callable[..., Ran], tiny_detector: Path):
    command = ("segment", "photos", "--checkpoint", tiny_detector, "--out", "out", "--json", "--device", "cpu")
    ran = cuts3d(*command, "--score", "0.001")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["photos"] == 3
    assert sorted(path.name for path in Path("out/pictures").iterdir()) == ["p0.jpg", "p1.jpg", "p2.jpg"]
    if result["instances"]:
        coco = json.loads(Path("out/annotations.json").read_text())
        assert all(item["score"] > 0.001 for item in coco["annotations"])
    ran = cuts3d(*command[:-3], "--score", "0.99999", "--out", "none")
    assert ran.code == 0
    assert "warning: no instance was found in any photo" in ran.err


def test_predict_takes_photos_too(photos: Path, cuts3d: Callable[..., Ran], tiny_detector: Path):
    command = ("predict", "photos", "-c", tiny_detector, "--device", "cpu")
    ran = cuts3d(*command, "--out", "out", "--score", "0.001", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["photos"] == 3
    assert len(list(Path("out/pictures").iterdir())) == 3
    assert cuts3d(*command, "--out", "out", "--score", "0.001").out.startswith("cuts3d predict: finished before")
    for named in ("photos", "photos/p0.jpg"):
        ran = cuts3d("predict", named, "-c", tiny_detector)
        assert ran.code == 2
        assert ran.line == (f"cuts3d: {named} is no shard: to detect in photos, name a folder for the results by --out")
    assert cuts3d("predict", "--shards", "s.tar", "-c", tiny_detector, "--out", "out").code == 2


def test_the_preset_that_nobody_named_is_told(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    command = ("segment", "photos/p0.jpg", "--no-pictures", "--to", "png", *settings)
    maps = ("--depth-dir", "maps")
    line = "preset objects, since depth maps are given: --preset paper takes the paper's"
    assert line in cuts3d(*command, *maps, "--out", "a").err.splitlines()
    assert "preset" not in cuts3d(*command, *maps, "--out", "a").err, "finished before"
    assert "preset paper, since no depth maps are given" in cuts3d(*command, "--out", "b").err.splitlines()
    assert "since depth maps" not in cuts3d(*command, *maps, "--preset", "objects", "--out", "c").err
    Path("cuts3d.toml").write_text('preset = "best"')
    assert "since depth maps" not in cuts3d(*command, *maps, "--out", "d").err


def test_a_folder_of_results_is_no_folder_of_shards(done: tuple[object, ...], cuts3d: Callable[..., Ran]):
    commands = (
        ("report", "out", "--out", "page"),
        ("export", "out", "--to", "coco", "--out", "a.json"),
        ("verify", "out"),
    )
    for command in commands:
        ran = cuts3d(*command)
        assert ran.code == 1
        line = "cuts3d: out holds results of segment, which has left no shards: run it again with --keep-shards"
        assert ran.line == line
    assert cuts3d(*done, "--keep-shards").code == 0
    assert cuts3d(*commands[0]).line == "cuts3d: out holds results of segment: name its shards, out/shards"


@pytest.mark.parametrize(
    ("further", "problem"),
    [
        (["--score", "0.5"], "--score has no effect without --checkpoint: leave it out"),
        (["-c", "none.pth"], "checkpoint none.pth does not exist"),
        (["-c", "none.pth", "--depth-dir", "maps"], "--depth-dir has no effect with --checkpoint: leave it out"),
        (["-c", "none.pth", "-n", "3"], "--instances has no effect with --checkpoint: leave it out"),
        (["--nms", "0.5"], "--nms has no effect without --checkpoint: leave it out"),
        (["--depth-scale", "0.01"], "--depth-scale has no effect without --depth-dir: leave it out"),
    ],
)
def test_options_that_do_not_go_together(photos: Path, cuts3d: Callable[..., Ran], further: list[str], problem: str):
    ran = cuts3d("segment", "photos", "--out", "out", *further)
    assert ran.code in (1, 2)
    assert ran.line == f"cuts3d: {problem}"
    assert not Path("out").exists()


def test_results_within_the_folder_of_photos_are_no_photos(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]
):
    (photos / "photos/depth").mkdir()
    for number in range(3):
        (photos / f"photos/depth/p{number}.png").write_bytes(encoded(scene_of(number).depth, "PNG"))
    command = ("segment", "photos", "--depth-dir", "photos/depth", "--out", "photos/out", "--json", *settings)
    for _ in range(2):
        assert json.loads(cuts3d(*command).out)["photos"] == 3


def _fail(*_: Any, **__: Any) -> None:
    raise FileError("interrupted")


QUICK = ("--no-pictures", "--to", "png")


@pytest.fixture
def done(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]) -> tuple[object, ...]:
    """A command whose results lie in `out`."""
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "out", *QUICK, *settings)
    assert cuts3d(*command).code == 0
    return command


def test_a_users_files_among_results_are_not_removed(done: tuple[object, ...], cuts3d: Callable[..., Ran]):
    mine = Path("out/masks/sub/mine.txt")
    mine.parent.mkdir()
    mine.write_text("mine")
    assert cuts3d(*done, "-n", "1", "--if-exists", "replace").code == 0
    assert cuts3d(*done, "-n", "1", "--if-exists", "overwrite").code == 0
    assert len(list(Path("out/masks").glob("*.png"))) == 3
    assert mine.read_text() == "mine"
    mine = Path("out/annotations.json")
    mine.write_text("mine")
    ran = cuts3d(*done, "--to", "coco", "--if-exists", "replace")
    assert ran.code == 2
    assert "out/annotations.json is there, and was not written by `cuts3d segment`" in ran.line
    assert mine.read_text() == "mine"


def test_what_the_user_has_changed_is_kept(done: tuple[object, ...], cuts3d: Callable[..., Ran]):
    mask, other = sorted(Path("out/masks").glob("*.png"))[:2]
    changed = bytes(len(mask.read_bytes()))  # no longer, and no shorter
    mask.write_bytes(changed)
    # Where nothing is to be done, and where another format is added, it stays without a word.
    assert cuts3d(*done).code == 0
    assert cuts3d(*done, "--to", "labelme").code == 0
    assert mask.read_bytes() == changed
    # Where it would be made again or removed, the command says so before any work.
    other.unlink()
    for further in ((), ("-n", "1", "--if-exists", "replace")):
        ran = cuts3d(*done, *further)
        assert ran.code == 2
        assert ran.err.splitlines()[-1] == (
            f"cuts3d: {mask} was changed since `cuts3d segment` wrote it: move it away, choose another --out, or set"
            " --if-exists overwrite to replace it"
        )
        assert "== pack" not in ran.err
        assert mask.read_bytes() == changed
    assert not other.exists()
    assert cuts3d(*done, "--if-exists", "overwrite").code == 0
    assert mask.read_bytes() != changed
    assert other.exists()


def test_formats_that_are_not_asked_for_stay_as_long_as_they_are_of_the_same_settings(
    done: tuple[object, ...], cuts3d: Callable[..., Ran]
):
    assert cuts3d(*done, "--to", "labelme").code == 0
    corrected = next(Path("out/labelme").glob("*.json"))
    corrected.write_text("corrected")
    # Done all over again are those that are asked for.
    ran = cuts3d(*done, "--if-exists", "overwrite")
    assert ran.code == 0
    assert corrected.read_text() == "corrected"
    assert "removed" not in ran.err
    # Other settings would remove it, which nothing can ask for but by its name.
    for how in ("replace", "overwrite"):
        ran = cuts3d(*done, "-n", "1", "--if-exists", how)
        last = f"cuts3d: {corrected} was changed since `cuts3d segment` wrote it: move it away, or choose another --out"
        assert (ran.code, ran.err.splitlines()[-1]) == (2, last)
        assert corrected.read_text() == "corrected"
    corrected.unlink()
    ran = cuts3d(*done, "-n", "1", "--if-exists", "replace")
    assert ran.code == 0
    assert "removed labelme, which other photos or settings gave" in ran.err.splitlines()
    assert not Path("out/labelme").exists()


def test_a_users_file_among_interrupted_results_is_not_removed(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
):
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "out", "--to", "png", *settings)
    write = Output.write

    def write_two(self: Output, name: str, data: bytes) -> None:
        if name == "p2.jpg":
            raise FileError("the disk is full")
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Output, "write", write_two)
        assert cuts3d(*command).code == 1
    assert sorted(path.name for path in Path("out/pictures").iterdir()) == ["p0.jpg", "p1.jpg"]
    # A file of a name that the run itself needs.
    mine = Path("out/pictures/p2.jpg")
    mine.write_text("mine")
    ran = cuts3d(*command)
    assert ran.code == 2
    last = ran.err.splitlines()[-1]
    assert (
        last == "cuts3d: out/pictures/p2.jpg was not written by `cuts3d segment`: move it away, or choose another --out"
    )
    assert mine.read_text() == "mine"
    mine.rename("out/pictures/mine.jpg")
    # One that it does not need changes nothing, and one of the run's own that was changed is named.
    picture = Path("out/pictures/p0.jpg")
    before = picture.read_bytes()
    picture.write_text("mine too")
    ran = cuts3d(*command)
    assert ran.code == 2
    assert "out/pictures/p0.jpg was changed since `cuts3d segment` wrote it" in ran.err.splitlines()[-1]
    assert "== pack" not in ran.err
    picture.write_bytes(before)
    assert cuts3d(*command).code == 0
    record = json.loads(Path("out/segment.json").read_text())
    assert set(record["files"]) == set(contents(Path("out"))) - {"segment.json", "pictures/mine.jpg"}
    assert cuts3d(*command, "-n", "1", "--if-exists", "replace").code == 0
    assert Path("out/pictures/mine.jpg").read_text() == "mine"


def test_a_run_that_did_nothing_leaves_nothing_to_replace(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
):
    Path("none").mkdir()
    command = ("segment", "photos", "--out", "out", *QUICK, *settings)
    assert cuts3d(*command, "--depth-dir", "none").code == 2
    assert not Path("out/segment.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "pack", _fail)
        assert cuts3d(*command, "--depth-dir", "maps").code == 1
    assert Path("out/segment.json").exists()
    assert cuts3d(*command, "--depth-dir", "maps", "-n", "1").code == 0


def test_advice_that_comes_with_an_error_can_be_followed(
    photos: Path, cuts3d: Callable[..., Ran], weights: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run that ended before its first mask leaves packed photos, which are the same with other settings."""
    monkeypatch.setitem(BACKBONES, "dino-vits16", replace(BACKBONES["dino-vits16"], tau_ncut=None))
    backbone = ("--backbone", "dino-vits16", "--weights", weights, *FAST)
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "out", *backbone)
    asked = cuts3d(*command)
    assert asked.code == 2
    assert "--tau-ncut auto takes" in asked.err.splitlines()[-1]
    assert cuts3d(*command, "--tau-ncut", "auto").code == 0
    # Masks are results.
    assert "holds results of other settings" in cuts3d(*command, "--tau-ncut", "0.5").err


def test_formats_are_added_to_finished_results(
    done: tuple[object, ...], cuts3d: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
):
    before = contents(Path("out"))
    ran = cuts3d(*done, "--to", "labelme", "--json")
    assert ran.code == 0, ran.err
    assert set(json.loads(ran.out)["written"]) >= {"png", "labelme"}
    after = contents(Path("out"))
    assert {name: after[name] for name in before if name != "segment.json"} == {
        name: data for name, data in before.items() if name != "segment.json"
    }
    assert Path("out/labelme").is_dir()
    # Both are finished now, asked for together or alone.
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "pack", lambda *_, **__: pytest.fail("it worked again"))
        for formats in (("--to", "labelme"), ()):
            ran = cuts3d(*done, *formats, "--json")
            assert (ran.code, json.loads(ran.out)["finished_before"]) == (0, True)
    # Other settings replace them all.
    Path("out/mine.txt").write_text("mine")
    assert cuts3d(*done, "--to", "labelme", "-n", "1", "--if-exists", "replace").code == 0
    assert len(list(Path("out/masks").glob("*.png"))) < len([name for name in before if name.endswith(".png")])
    assert Path("out/mine.txt").read_text() == "mine"


def test_results_that_were_finished_stay_so_where_adding_to_them_was_interrupted(
    done: tuple[object, ...], cuts3d: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
):
    mask = next(Path("out/masks").glob("*.png"))
    mask.write_text("corrected")
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "export", _fail)
        assert cuts3d(*done, "--to", "labelme").code == 1
    assert cuts3d(*done, "--to", "labelme").code == 0
    assert mask.read_text() == "corrected"
    assert len(list(Path("out/labelme").glob("*.json"))) == 3


def test_a_format_whose_run_was_interrupted_is_not_taken_for_finished(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
):
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "out", "--no-pictures", *settings)
    with monkeypatch.context() as patch:
        patch.setattr(Output, "write", _fail)
        assert cuts3d(*command, "--to", "png").code == 1
    assert cuts3d(*command, "--to", "coco").code == 0
    assert list(Path("out/masks").iterdir()) == []
    ran = cuts3d(*command, "--to", "png", "--json")
    assert not json.loads(ran.out)["finished_before"]
    assert list(Path("out/masks").iterdir()) != []


def test_a_users_file_among_finished_results_changes_nothing(
    done: tuple[object, ...], cuts3d: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
):
    mine = Path("out/masks/mine.txt")
    mine.write_text("mine")
    Path("out/notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "pack", lambda *_, **__: pytest.fail("it worked again"))
        for how in ("resume", "replace"):
            ran = cuts3d(*done, "--if-exists", how, "--json")
            assert (ran.code, json.loads(ran.out)["finished_before"]) == (0, True)
    # A result that is gone is made again, beside what is the user's.
    mask = next(Path("out/masks").glob("*.png"))
    before = mask.read_bytes()
    mask.unlink()
    assert cuts3d(*done).code == 0
    assert mask.read_bytes() == before
    assert mine.read_text() == "mine"


def test_a_strangers_record_is_left_alone(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    Path("out").mkdir()
    Path("out/segment.json").write_text('{"segments": []}')
    ran = cuts3d("segment", "photos", "--depth-dir", "maps", "--out", "out", *QUICK, *settings)
    assert ran.code == 2
    assert "out/segment.json is there, and was not written by `cuts3d segment`: choose another --out" in ran.line
    assert [path.name for path in Path("out").iterdir()] == ["segment.json"]


def test_photos_are_listed_once(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
):
    listings = []
    monkeypatch.setattr(Packing, "listing", lambda self, own=Packing.listing: listings.append(self) or own(self))
    ran = cuts3d("segment", "photos", "--depth-dir", "maps", "--out", "out", *QUICK, *settings)
    assert (ran.code, len(listings)) == (0, 1)


def test_photos_of_a_users_beside_the_results_are_photos_too(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]
):
    # The results go into a folder below the photos' that holds photos as well.
    for folder in ("photos", "maps"):
        Path(folder, "sub").mkdir()
    Path("photos/p2.jpg").rename("photos/sub/p2.jpg")
    Path("maps/p2.png").rename("maps/sub/p2.png")
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "photos/sub", "--json", *QUICK, *settings)
    ran = cuts3d(*command)
    assert (ran.code, json.loads(ran.out)["photos"]) == (0, 3)
    assert json.loads(cuts3d(*command).out)["finished_before"]


@pytest.mark.parametrize("name", ["..", "", "../photos", "mine"])
def test_a_record_that_names_other_files_removes_none(done: tuple[object, ...], cuts3d: Callable[..., Ran], name: str):
    Path("out/mine").mkdir()
    record = json.loads(Path("out/segment.json").read_text())
    Path("out/segment.json").write_text(json.dumps({**record, "outputs": [name], "files": {}}))
    before = contents(Path("photos"))
    cuts3d(*done, "-n", "2", "--if-exists", "replace")
    assert contents(Path("photos")) == before
    assert Path("out/mine").is_dir()


def test_results_that_are_gone_are_made_again(done: tuple[object, ...], cuts3d: Callable[..., Ran]):
    before = contents(Path("out"))
    next(Path("out/masks").glob("*.png")).unlink()
    assert cuts3d(*done).code == 0
    assert contents(Path("out")) == before


def test_a_folder_that_was_moved_names_its_own_files(done: tuple[object, ...], cuts3d: Callable[..., Ran]):
    Path("out").rename("moved")
    ran = cuts3d(*done[: done.index("out")], "moved", *done[done.index("out") + 1 :], "--json")
    result = json.loads(ran.out)
    assert (result["finished_before"], result["written"]) == (True, {"png": "moved/masks"})


def test_weights_that_changed_are_other_settings(done: tuple[object, ...], cuts3d: Callable[..., Ran], weights: Path):
    own = Path("own.pth")
    own.write_bytes(weights.read_bytes())
    command = tuple("own.pth" if word == weights else "other" if word == "out" else word for word in done)
    assert cuts3d(*command).code == 0
    own.write_bytes(weights.read_bytes() + b"0")
    ran = cuts3d(*command)
    assert ran.code == 2
    assert "other holds results of other settings (own.pth as it was -> changed since)" in ran.line


def test_kept_shards_are_asked_for_later(done: tuple[object, ...], cuts3d: Callable[..., Ran]):
    assert cuts3d(*done, "--keep-shards").code == 0
    assert Path("out/shards/photos-000.pseudo.tar").is_file()


def test_a_folder_named_shards_is_not_taken_over(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]
):
    mine = Path("out/shards")
    mine.mkdir(parents=True)
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "out", *QUICK, *settings)
    ran = cuts3d(*command, "--keep-shards")
    assert ran.code == 2
    assert "out/shards is there, and was not written by `cuts3d segment`" in ran.line
    assert cuts3d(*command).code == 0
    assert list(mine.iterdir()) == []


def test_two_runs_on_one_folder(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    with one_writer(Path("out"), lock=".segment.lock"):
        ran = cuts3d("segment", "photos", "--depth-dir", "maps", "--out", "out", *QUICK, *settings)
    assert ran.code == 1
    assert "out is being written by another run: wait for it, or choose another --out" in ran.line


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("photos", "--out", "photos"), "--out is photos, the folder of the photos: name another"),
        (
            ("photos", "--depth-dir", "photos", "--out", "out"),
            "--depth-dir is photos, the folder of the photos: keep maps in their own",
        ),
        (("photos", "--depth-dir", "none", "--out", "out"), "--depth-dir is none, which is no folder"),
        (("photos", "--depth-dir", "maps/p0.png", "--out", "out"), "--depth-dir is maps/p0.png, which is no folder"),
    ],
)
def test_folders_that_cannot_be(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...], words: tuple[str, ...], problem: str
):
    ran = cuts3d("segment", *words, *settings)
    assert ran.code == 2
    assert problem in ran.line


def test_the_results_may_lie_among_the_maps(photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]):
    command = ("segment", "photos", "--depth-dir", "maps", "--out", "maps/out", *QUICK, *settings, "--json")
    assert cuts3d(*command).code == 0
    assert json.loads(cuts3d(*command).out)["finished_before"]


def test_ids_of_a_coco_json_are_part_of_what_is_asked(
    photos: Path, cuts3d: Callable[..., Ran], settings: tuple[object, ...]
):
    def truth(number: int) -> None:
        image = {"id": number, "file_name": "p0.jpg", "width": 80, "height": 60}
        Path("photos/all.json").write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))

    command = ("segment", "photos/all.json", "--depth-dir", "maps", "--out", "out", "--to", "coco", *settings)
    truth(7)
    assert cuts3d(*command, "--no-pictures").code == 0
    truth(99)
    ran = cuts3d(*command, "--no-pictures")
    assert ran.code == 2
    assert "out holds results of other photos: choose" in ran.line
