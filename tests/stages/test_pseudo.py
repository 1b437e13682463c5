from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy.sparse.linalg import ArpackNoConvergence
from torch import Tensor

from cuts3d_cli.config import Config
from cuts3d_cli.cut import ncut
from cuts3d_cli.cut.masks import decode_rle, mask_iou
from cuts3d_cli.errors import ShardError
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.sidecars.photos import FACTS
from cuts3d_cli.stages import depth, features
from cuts3d_cli.stages import pseudo as stage
from tests.support.killers import cut_or_die
from tests.support.photos import (
    encoded,
    pack_photos,
    packed,
    records,
    scene_of,
    settings,
    two_boxes,
    write_photos,
    write_shard,
)
from tests.support.running import Ran

SCRIPT = Path(sys.executable).with_name("cuts3d")
GRID = (14, 14)
BACKBONE = ("--backbone", "dino-vits16", "--size", "224")


def config(weights: Path | None, *, run: dict[str, Any] | None = None, size: int = 224, **changes: Any) -> Config:
    return settings(
        {
            "pseudo": {"crf_size": 160, **changes},
            "features": {"backbone": "dino-vits16", "size": size, "weights": weights},
            "run": {"device": "cpu", "workers": 0, **(run or {})},
        }
    )


def pseudo_records(base: Path) -> dict[str, dict[str, Any]]:
    return records(sidecar(base, "pseudo"), "pseudo.json")


def manifest_of(base: Path, name: str = "pseudo") -> Any:
    return load_manifest(manifest_path(sidecar(base, name)))


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".") or path.suffix not in (".tar", ".json")]


# ---------------------------------------------------------------------------------------------- what comes out


def test_touching_boxes_are_told_apart_by_depth_and_not_without(alone: Path, weights: Path):
    (base,) = pack_photos(alone, 4)
    stage.run([base], config=config(weights))
    for number, record in enumerate(pseudo_records(base).values()):
        scene = scene_of(number)
        assert (record["height"], record["width"]) == scene.depth.shape
        masks = [decode_rle(item["segmentation"]) for item in record["instances"]]
        for box in scene.boxes:
            assert max(mask_iou(mask, box) for mask in masks) > 0.7
    stage.run([base], config=config(weights, method="maskcut", run={"if_exists": "replace"}))
    for number, record in enumerate(pseudo_records(base).values()):
        both = scene_of(number).boxes[0] | scene_of(number).boxes[1]
        assert mask_iou(decode_rle(record["instances"][0]["segmentation"]), both) > 0.7
        assert record["method"] == "maskcut"


@pytest.mark.parametrize("method", ["cuts3d", "maskcut"])
def test_every_number_of_a_record_agrees_with_the_others(alone: Path, weights: Path, method: str):
    (base,) = pack_photos(alone, 4)
    stage.run([base], config=config(weights, method=method))
    found = pseudo_records(base)
    assert list(found) == ["p0", "p1", "p2", "p3"]
    assert sum(len(record["instances"]) for record in found.values()) >= 4
    for number, record in enumerate(found.values()):
        shape = scene_of(number).depth.shape
        assert (record["height"], record["width"]) == shape
        assert tuple(record["grid"]) == GRID
        covered = np.zeros(GRID, dtype=int)
        for item in record["instances"]:
            code = item["segmentation"]
            assert tuple(code["size"]) == shape
            assert item["area"] == coco_mask.area(code) > 0
            assert item["bbox"] == list(coco_mask.toBbox(code))
            assert tuple(item["patch_mask"]["size"]) == tuple(item["bipartition"]["size"]) == GRID
            patch, bipartition = decode_rle(item["patch_mask"]), decode_rle(item["bipartition"])
            covered += patch
            assert not (patch & ~bipartition).any()
            assert bipartition[tuple(item["source"])]
            if method == "cuts3d":
                assert patch[tuple(item["source"])]
                assert not patch[tuple(item["sink"])]
            else:
                assert item["sink"] is None
            assert 0.5 <= item["crf_iou"] <= 1
        assert covered.max() == 1
        iterations = [item["iteration"] for item in record["instances"]]
        assert iterations == sorted(set(iterations))
        assert not set(iterations) & {item["iteration"] for item in record["dropped"]}
    manifest = manifest_of(base)
    assert manifest.counts["masks"] == sum(len(record["instances"]) for record in found.values())
    assert manifest.counts["dropped"] == len(manifest.dropped)
    assert manifest.dropped == [{"key": key, **item} for key, record in found.items() for item in record["dropped"]]
    assert manifest.config["pseudo"]["tau_ncut"] == 0.13  # what suits the backbone, not "unset"


def test_the_export_is_a_coco_file(cuts3d: Callable[..., Ran], shards: list[Path], weights: Path):
    ran = cuts3d(
        *("pseudo", "--shards", ".", *BACKBONE, "--weights", weights, "--crf-size", 160, "-j", 0),
        *("--export-coco", "m.json"),
    )
    assert ran.code == 0
    coco = COCO("m.json")
    annotations = coco.dataset["annotations"]
    assert [item["id"] for item in annotations] == list(range(1, len(annotations) + 1))
    assert f"m.json: {len(annotations)} masks of 4 images" in ran.err
    # What is stored is exported by other settings, without weights and without a word of them; nothing is cut again.
    before = {path: sidecar(path, "pseudo").read_bytes() for path in shards}
    again = cuts3d("pseudo", "--shards", ".", "--export-coco", "again.json")
    assert again.code == 0, again.err
    assert f"again.json: {len(annotations)} masks of 4 images, as they are stored" in again.err
    assert Path("again.json").read_bytes() == Path("m.json").read_bytes()
    refused = cuts3d("pseudo", "--shards", ".", "--preset", "best", *BACKBONE, "--export-coco", "best.json")
    assert "finished results of other settings" in refused.line
    assert not Path("best.json").exists()
    assert "there is no folder none: make it first" in cuts3d("pseudo", "--export-coco", "none/m.json").line
    assert {path: sidecar(path, "pseudo").read_bytes() for path in shards} == before
    for image in coco.dataset["images"]:
        number = int(image["file_name"][1])
        assert (image["height"], image["width"]) == scene_of(number).depth.shape
        masks = [coco.annToMask(item).astype(bool) for item in coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))]
        assert all(max(mask_iou(mask, box) for mask in masks) > 0.7 for box in scene_of(number).boxes)


def test_webdataset_reads_base_and_sidecars(alone: Path, weights: Path):
    (base,) = pack_photos(alone, 3)
    features.run([base], config=config(weights))
    stage.run([base], config=config(weights))
    expected = {
        "": {"jpg", FACTS, "sensor.png"},
        ".depth": {"depth.png", "depth.json"},
        ".features": {"features.npy", "features.json"},
        ".pseudo": {"pseudo.json"},
    }
    for suffix, members in expected.items():
        samples = list(wds.WebDataset(str(base.with_suffix(f"{suffix}.tar")), shardshuffle=False))
        assert [sample["__key__"] for sample in samples] == ["p0", "p1", "p2"]
        for sample in samples:
            assert {name for name in sample if not name.startswith("__")} == members
    decoded = next(iter(wds.WebDataset(str(sidecar(base, "pseudo")), shardshuffle=False).decode()))
    assert (decoded["pseudo.json"]["height"], decoded["pseudo.json"]["width"]) == (60, 80)
    decoded = next(iter(wds.WebDataset(str(sidecar(base, "features")), shardshuffle=False).decode()))
    assert (decoded["features.npy"].shape, decoded["features.npy"].dtype) == ((384, 14, 14), np.float16)


# ---------------------------------------------------------------------------------------------- determinism


def test_two_runs_of_every_stage_give_the_same_bytes(alone: Path, weights: Path):
    """Whatever the number of workers, and whether the features lie in a sidecar or are computed on the way."""
    source = write_photos(alone / "source", 5)
    seen: list[dict[str, bytes]] = []
    for folder, workers, with_features in (("a", 0, True), ("b", 2, False), ("c", 2, True)):
        run = {"workers": workers}
        result = packed(source / "photos", alone / folder, depth_dir=source / "maps", shard_size=3)
        bases = [item.shard for item in result.shards]
        depth.run(bases, config=settings({"depth": {"backend": "sensor"}}))
        features.run(bases, config=config(weights))
        if not with_features:
            kept = {path.name: path.read_bytes() for path in (alone / folder).glob("*.features.tar")}
            for path in (alone / folder).glob("*.features.*"):
                path.unlink()
        stage.run(bases, config=config(weights, run=run))
        tars = {path.name: path.read_bytes() for path in (alone / folder).glob("*.tar")}
        seen.append(tars if with_features else tars | kept)
        assert left_over(alone / folder) == []
    assert sorted(seen[0]) == [f"s-00{n}{part}.tar" for n in (0, 1) for part in (".depth", ".features", ".pseudo", "")]
    assert seen[0] == seen[1] == seen[2]


def test_how_the_work_is_done_makes_no_shard_stale(alone: Path, weights: Path):
    (base,) = pack_photos(alone, 3)
    stage.run([base], config=config(weights, run={"batch_size": 1}))
    tar = sidecar(base, "pseudo").read_bytes()
    assert stage.run([base], config=config(weights, run={"batch_size": 4})).shards[0].status == "skipped"
    stage.run([base], config=config(weights, run={"batch_size": 4, "if_exists": "overwrite"}))
    assert sidecar(base, "pseudo").read_bytes() == tar


# ---------------------------------------------------------------------------------------------- bad input


def bad_members() -> dict[str, dict[str, bytes]]:
    """Photos of every kind with their sensor maps; `ok` says which are good."""
    scene = two_boxes()
    whole = encoded(scene.image)
    gray = (np.asarray(Image.fromarray(scene.image).convert("L"), dtype=np.uint16) * 257).astype(np.uint16)
    long = two_boxes(8000, 100)
    kinds = {
        "cmyk": ("jpg", encoded(scene.image, mode="CMYK"), scene),
        "empty": ("jpg", b"", scene),
        "gray16": ("png", encoded(gray, "PNG"), scene),
        "long": ("jpg", encoded(long.image), long),
        "plain": ("jpg", whole, scene),
        "point": ("png", encoded(scene.image[:1, :1], "PNG"), scene),
        "rgba": ("png", encoded(scene.image, "PNG", mode="RGBA"), scene),
        "torn": ("jpg", whole[: len(whole) // 2], scene),
    }
    facts = json.dumps({"depth": {"scale": 0.001, "unit": "metre"}}).encode()
    return {
        key: {extension: data, FACTS: facts, "sensor.png": encoded(item.depth, "PNG")}
        for key, (extension, data, item) in kinds.items()
    }


@pytest.mark.parametrize("stored", [False, True])
def test_bad_photos_fail_with_a_reason_and_nothing_is_lost(
    cuts3d: Callable[..., Ran], alone: Path, weights: Path, stored: bool
):
    base = write_shard(alone / "bad.tar", bad_members())
    bad = {"empty": "the image file is empty", "point": "1x1", "torn": "cannot be decoded"}
    network = (*BACKBONE, "--weights", weights)
    assert cuts3d("depth", base, "--backend", "sensor").code == 0  # the maps are good
    if stored:
        assert cuts3d("features", base, *network).code == 3
    ran = cuts3d("pseudo", base, *network, "-j", 0, "--crf-size", 160)
    assert ran.code == 3
    manifest = manifest_of(base)
    counts = manifest.counts
    assert (counts["samples_in"], counts["samples_out"], counts["failed"]) == (8, 5, 3)
    assert [item["key"] for item in manifest.failed] == list(bad)
    for item in manifest.failed:
        assert bad[item["key"]] in item["reason"]
        assert f"failed: {base}: {item['key']}: {item['reason']}" in ran.err.splitlines()
    found = pseudo_records(base)
    assert list(found) == ["cmyk", "gray16", "long", "plain", "rgba"]
    for key, record in found.items():
        height, width = (100, 8000) if key == "long" else (60, 80)
        assert (record["height"], record["width"]) == (height, width)
        for item in record["instances"]:
            assert item["segmentation"]["size"] == [height, width]
    for key in ("cmyk", "plain", "rgba"):
        assert found[key]["instances"], key


def test_pack_leaves_bad_photos_out_with_a_reason(cuts3d: Callable[..., Ran], alone: Path):
    for key, members in bad_members().items():
        for extension in ("jpg", "png"):
            if extension in members:
                (alone / "in").mkdir(exist_ok=True)
                (alone / f"in/{key}.{extension}").write_bytes(members[extension])
    ran = cuts3d("pack", "in", "--out", "out")
    assert ran.code == 3
    manifest = load_manifest(alone / "out/in-000.json")
    assert [item["file"] for item in manifest.failed] == ["empty.jpg", "point.png", "torn.jpg"]
    assert (manifest.counts["samples_in"], manifest.counts["samples_out"]) == (8, 5)


def test_an_image_without_depth_fails_with_the_depth_stages_reason(alone: Path, weights: Path):
    members = bad_members()
    del members["plain"]["sensor.png"]
    base = write_shard(alone / "s.tar", {key: members[key] for key in ("cmyk", "plain")})
    depth.run([base], config=settings({"depth": {"backend": "sensor"}}))
    result = stage.run([base], config=config(weights))
    assert result.failed == [
        {"shard": str(base), "key": "plain", "reason": "it has no depth: no sensor map is packed with the image"}
    ]
    assert list(pseudo_records(base)) == ["cmyk"]


def test_a_network_that_breaks_on_an_image_loses_that_image_alone(
    alone: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    (base,) = pack_photos(alone, 3)
    original = FeatureExtractor.extract_on_device
    broken: list[NDArray[np.uint8]] = []

    def extract(self: FeatureExtractor, squares: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        if not broken:
            broken.append(squares[1])
        if any(square is broken[0] for square in squares):
            raise RuntimeError("the second image")
        return original(self, squares)

    monkeypatch.setattr(FeatureExtractor, "extract_on_device", extract)
    result = stage.run([base], config=config(weights))
    assert [item["key"] for item in result.failed] == ["p1"]
    assert result.failed[0]["reason"] == "the network failed: RuntimeError: the second image"
    assert list(pseudo_records(base)) == ["p0", "p2"]


def test_an_image_that_breaks_the_numerics_is_lost_alone(alone: Path, weights: Path, monkeypatch: pytest.MonkeyPatch):
    (base,) = pack_photos(alone, 3)
    original = stage.cut_image

    def cut(task: Any) -> Any:
        if task.size == (90, 70):
            raise np.linalg.LinAlgError("singular matrix\nfor ever")
        return original(task)

    monkeypatch.setattr(stage, "cut_image", cut)
    result = stage.run([base], config=config(weights))
    assert [(item["key"], item["reason"]) for item in result.failed] == [
        ("p1", "it could not be computed: LinAlgError: singular matrix")
    ]
    assert list(pseudo_records(base)) == ["p0", "p2"]


def test_eigenproblems_solved_densely_are_counted(alone: Path, weights: Path, monkeypatch: pytest.MonkeyPatch):
    (base,) = pack_photos(alone, 2)
    stage.run([base], config=config(weights))
    expected = pseudo_records(base)
    assert manifest_of(base).counts["dense_fallbacks"] == 0

    def give_up(*_: object, **__: object) -> None:
        raise ArpackNoConvergence("no convergence", np.empty(0), np.empty((0, 0)))

    monkeypatch.setattr(ncut, "eigsh", give_up)
    result = stage.run([base], config=config(weights, run={"if_exists": "overwrite"}))
    assert result.count("dense_fallbacks") == manifest_of(base).counts["dense_fallbacks"] >= 4
    for key, record in pseudo_records(base).items():
        assert [item["patch_mask"] for item in record["instances"]] == [
            item["patch_mask"] for item in expected[key]["instances"]
        ]


# ---------------------------------------------------------------------------------------------- resume


def test_a_run_goes_on_where_it_was_left(cuts3d: Callable[..., Ran], shards: list[Path], weights: Path):
    arguments = ("pseudo", "--shards", ".", *BACKBONE, "--weights", weights, "--crf-size", 160, "-j", 0)
    assert cuts3d(*arguments).code == 0
    first = {path: sidecar(path, "pseudo").read_bytes() for path in shards}

    again = cuts3d(*arguments, "--json")
    assert [item["status"] for item in json.loads(again.out)["shards"]] == ["skipped", "skipped"]

    manifest_path(sidecar(shards[1], "pseudo")).unlink()
    again = cuts3d(*arguments, "--json")
    assert [item["status"] for item in json.loads(again.out)["shards"]] == ["skipped", "done"]
    assert "s-001.tar: redone, unfinished: it has no manifest" in again.err

    before = {path: sidecar(path, "pseudo").read_bytes() for path in shards}
    other = (*arguments, "--tau-knn", "0.2", "--no-crf")
    refused = cuts3d(*other)
    assert refused.code == 2
    what = "finished results of other settings (s-000.pseudo.tar, s-001.pseudo.tar): "
    settings = "--crf true -> false, --tau-knn 0.115 -> 0.2"
    assert refused.line.startswith(f"cuts3d: 2 of 2 shards hold {what}{settings}: --if-exists replace replaces them; ")
    assert {path: sidecar(path, "pseudo").read_bytes() for path in shards} == before
    changed = cuts3d(*other, "--if-exists", "replace")
    assert f"replacing in 2 of 2 shards {what}{settings}" in changed.err.splitlines()
    assert "s-000.tar: redone, config changed: pseudo.crf true -> false, pseudo.tau_knn 0.115 -> 0.2" in changed.err

    refused = cuts3d(*arguments, "--if-exists", "fail")
    assert refused.code == 2
    assert "s-000.pseudo.tar exists: --if-exists resume keeps" in refused.line

    assert cuts3d(*arguments, "--if-exists", "overwrite").code == 0
    assert {path: sidecar(path, "pseudo").read_bytes() for path in shards} == first

    # Depth that is made again is the same, and so nothing is to be done.
    assert cuts3d("depth", "--shards", ".", "--backend", "sensor", "--if-exists", "overwrite").code == 0
    assert cuts3d(*arguments).err.count("finished before, skipped") == 2


def test_changed_inputs_are_redone_and_said(cuts3d: Callable[..., Ran], alone: Path, weights: Path):
    (base,) = pack_photos(alone, 2)
    arguments = ("pseudo", base, *BACKBONE, "--weights", weights, "--crf-size", 160, "-j", 0)
    assert cuts3d(*arguments).code == 0

    assert cuts3d("features", base, *BACKBONE, "--weights", weights).code == 0
    ran = cuts3d(*arguments)
    assert "redone, inputs changed: base+depth+weights -> base+depth+features" in ran.err

    # Other photos under the same names: what was made from the old ones is refused, one stage after the other.
    source = alone / "source"
    for number in (0, 1):
        (source / f"photos/p{number}.jpg").write_bytes(encoded(scene_of(number + 2).image))
    packed(source / "photos", alone, depth_dir=source / "maps", shard_size=100)
    assert (
        f"s-000.depth.tar was made from another s-000.tar: run `cuts3d depth --shards {base}` again"
        in cuts3d(*arguments).err
    )
    assert "redone, input changed: base" in cuts3d("depth", base, "--backend", "sensor").err
    assert "s-000.features.tar was made from another s-000.tar" in cuts3d(*arguments).err
    assert "redone, input changed: base" in cuts3d("features", base, *BACKBONE, "--weights", weights).err
    ran = cuts3d(*arguments)
    assert ran.code == 0
    assert "redone, input changed: base (s-000.tar)" in ran.err


# ---------------------------------------------------------------------------------------------- refusals


def test_missing_depth_is_one_line_with_the_way_out(cuts3d: Callable[..., Ran], alone: Path, weights: Path):
    (base,) = pack_photos(alone, 1, with_depth=False)
    arguments = ("pseudo", base, *BACKBONE, "--weights", weights, "--crf-size", 160, "-j", 0)
    ran = cuts3d(*arguments)
    assert ran.code == 1
    for words in (
        "s-000.depth.tar is missing",
        f"cuts3d depth --shards {base}",
        "--depth-backend sensor",
        "--method maskcut",
    ):
        assert words in ran.line
    assert not sidecar(base, "pseudo").exists()
    assert cuts3d(*arguments, "--method", "maskcut").code == 0
    assert cuts3d(*arguments, "--no-sharpen", "--cut", "component", "--if-exists", "overwrite").code == 0


def test_features_of_another_backbone_are_one_line_with_the_way_out(
    cuts3d: Callable[..., Ran], alone: Path, weights: Path
):
    (base,) = pack_photos(alone, 1)
    assert cuts3d("features", base, *BACKBONE, "--weights", weights).code == 0
    ran = cuts3d("pseudo", base, "--backbone", "dino-vits8", "--size", "224")
    assert ran.code == 1
    for words in ("s-000.features.tar", "dino-vits16 at 224", "dino-vits8 at 224", "delete the file"):
        assert words in ran.line


def test_with_stored_features_no_weights_are_needed(cuts3d: Callable[..., Ran], alone: Path, weights: Path):
    (base,) = pack_photos(alone, 1)
    assert cuts3d("features", base, *BACKBONE, "--weights", weights).code == 0
    assert cuts3d("pseudo", base, *BACKBONE, "--crf-size", 160, "-j", 0).code == 0


def test_a_tau_knn_under_the_grids_spacing_is_one_line_with_the_way_out(
    cuts3d: Callable[..., Ran], alone: Path, weights: Path
):
    (base,) = pack_photos(alone, 1)
    ran = cuts3d("pseudo", base, *BACKBONE, "--weights", weights, "--tau-knn", "0.108")
    assert ran.code == 2
    for words in ("--tau-knn 0.108", "14x14 grid", "0.1088", "--size"):
        assert words in ran.line
    assert cuts3d("pseudo", base, *BACKBONE, "--weights", weights, "--tau-knn", "0.109", "--no-crf", "-j", 0).code == 0


def test_an_image_that_workers_die_of_has_failed_and_the_shard_goes_on(
    alone: Path, weights: Path, cuts3d: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
):
    (base,) = pack_photos(alone, 5)
    arguments = ("pseudo", base, *BACKBONE, "--weights", weights, "--crf-size", 160)
    assert cuts3d(*arguments, "-j", 0).code == 0
    whole = records(sidecar(base, "pseudo"), "pseudo.json")
    # The second image is upright, 70 pixels wide: in its place, the process gets a signal as for want of memory.
    monkeypatch.setattr(stage, "cut_image", cut_or_die)
    ran = cuts3d(*arguments, "-j", 2, "--if-exists", "overwrite")
    assert ran.code == 3
    reason = "the worker process died of it, 2 times of 2: killed by SIGKILL, as the system does for want of memory"
    assert manifest_of(base).failed == [{"key": key, "reason": reason} for key in ("p1", "p3")]
    assert f"failed: {base}: p1: {reason}" in ran.err
    assert records(sidecar(base, "pseudo"), "pseudo.json") == {key: whole[key] for key in ("p0", "p2", "p4")}
    assert [name for name in left_over(alone) if name != "source"] == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc to find processes in")
def test_a_worker_that_the_system_kills_once_changes_nothing(alone: Path, weights: Path):
    (base,) = pack_photos(alone, 6)
    stage.run([base], config=config(weights, crf_size=320))
    whole = sidecar(base, "pseudo").read_bytes()
    command = [str(SCRIPT), "pseudo", "--shards", str(base), *BACKBONE, "--weights", str(weights), "-j", "2"]
    command += ["--crf-size", "320", "--if-exists", "overwrite", "--device", "cpu"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killed: list[int] = []
    while running.poll() is None and len(killed) < 2:
        for worker in workers_of(running.pid):
            if worker not in killed and busy(worker):
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)
                break
        time.sleep(0.05)
    _, err = running.communicate(timeout=300)
    assert running.returncode == 0, err
    assert killed
    assert sidecar(base, "pseudo").read_bytes() == whole
    assert manifest_of(base).failed == []


def workers_of(parent: int) -> list[int]:
    """Processes that cut for a `cuts3d`."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def busy(process: int) -> bool:
    """Whether a process has come as far as loading the libraries that cut."""
    try:
        return "maxflow" in Path(f"/proc/{process}/maps").read_text()
    except OSError:
        return False


def test_damaged_shards_are_one_line(alone: Path, weights: Path):
    (base,) = pack_photos(alone, 2)
    data = base.read_bytes()
    base.write_bytes(data[: len(data) // 2])
    with pytest.raises(ShardError, match=r"s-000\."):
        stage.run([base], config=config(weights, method="maskcut"))
    assert not sidecar(base, "pseudo").exists()
    assert [name for name in left_over(alone) if name != "source"] == []


# ---------------------------------------------------------------------------------------------- interrupts


@pytest.mark.parametrize(
    ("stop", "code", "said"),
    [
        (
            lambda group: os.killpg(group, signal.SIGINT),
            130,
            ["cuts3d: interrupted; what is finished is kept, run the same command again to go on"],
        ),
        (
            lambda group: os.kill(group, signal.SIGTERM),
            143,
            ["cuts3d: terminated; what is finished is kept, run the same command again to go on"],
        ),
    ],
    ids=["ctrl-c", "sigterm"],
)
@pytest.mark.parametrize("graphs", ["workers", "device"])
def test_an_end_in_the_middle(
    alone: Path, weights: Path, stop: Callable[[int], None], code: int, said: list[str], graphs: str
):
    """No trace of the unfinished shard, no process left; the same command then goes on to the same end."""
    bases = pack_photos(alone, 6, shard_size=2)
    command = [str(SCRIPT), "pseudo", "--shards", str(alone), *BACKBONE, "--weights", str(weights), "-j", "2"]
    # The CRF at this size takes a third of a second an image: the signal comes while the second shard is being cut.
    command += ["--crf-size", "320", "--device", "cpu", "--set", f"graphs={graphs}"]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stderr is not None
    told = []
    for line in running.stderr:
        told.append(line)
        if line.startswith("s-000.tar: 2 images"):
            wait_until(lambda: any(alone.glob(".s-001.pseudo.tar.*.tmp")))
            stop(running.pid)
            break
    out, rest = running.communicate(timeout=120)
    assert running.returncode == code, "".join(told) + rest
    assert out == ""
    assert rest.splitlines() == said
    wait_until(lambda: not group_lives(running.pid))
    assert [sidecar(base, "pseudo").exists() for base in bases] == [True, False, False]
    assert [name for name in left_over(alone) if name != "source"] == []

    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "s-000.tar: finished before, skipped" in ended.stderr
    cut_short = [sidecar(base, "pseudo").read_bytes() for base in bases]
    stage.run(bases, config=config(weights, crf_size=320, run={"if_exists": "overwrite"}))
    assert [sidecar(base, "pseudo").read_bytes() for base in bases] == cut_short


def wait_until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
