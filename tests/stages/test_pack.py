from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from cuts3d_cli.config import Config, PackConfig, RunConfig
from cuts3d_cli.engine.replacing import OtherSettingsError
from cuts3d_cli.engine.results import Progress, StageResult
from cuts3d_cli.errors import OccupiedError, UsageError
from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import expand, manifest_path
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.photos import FACTS, image_member, sensor_map
from cuts3d_cli.stages.pack import Packing, run
from cuts3d_cli.wording import Say
from tests.support.photos import encoded, two_boxes


def photo(width: int = 40, height: int = 30, *, kind: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), 120).save(buffer, kind, **options)
    return buffer.getvalue()


def depth_png(width: int = 40, height: int = 30, value: int = 1500) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width), value, dtype=np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def fill(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def pack(
    source: Path, out: Path, *, progress: Progress | None = None, say: Say | None = None, **options: Any
) -> StageResult:
    """Pack; options are fields of `Packing`, `PackConfig` and `RunConfig`."""

    def those_of(kind: type) -> dict[str, Any]:
        return {name: options.pop(name) for name in kind.__dataclass_fields__ if name in options}  # type: ignore[attr-defined]

    config = Config(pack=PackConfig(**those_of(PackConfig)), run=RunConfig(**those_of(RunConfig)))
    packing = Packing(source=source, out=out, **{"name": "d"} | options)
    return run(packing, config=config, progress=progress, say=say)


def facts(tar: Path) -> dict[str, dict[str, Any]]:
    return {sample.key: json.loads(sample.members[FACTS]) for sample in read_shard(tar)}


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    return fill(tmp_path / "photos", {f"c{n % 2}/{n}.jpg": photo(40 + n, 30) for n in range(7)})


def test_bytes_and_facts(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {"a.JPEG": photo(50, 20, exif=turned), "b.png": photo(kind="PNG"), "c.webp": photo(kind="WEBP")}
    source = fill(tmp_path / "in", files)
    result = pack(source, tmp_path / "out")
    tar = tmp_path / "out/d-000.tar"
    assert ([shard.shard for shard in result.shards], result.count("samples_out"), result.failed) == ([tar], 3, [])
    assert [image_member(sample) for sample in read_shard(tar)] == [
        ("jpg", files["a.JPEG"]),
        ("png", files["b.png"]),
        ("webp", files["c.webp"]),
    ]
    assert facts(tar) == {
        "a": {"id": 1, "source": "a.JPEG", "width": 20, "height": 50},
        "b": {"id": 2, "source": "b.png", "width": 40, "height": 30},
        "c": {"id": 3, "source": "c.webp", "width": 40, "height": 30},
    }


def test_shards_and_their_manifests(seven: Path, tmp_path: Path) -> None:
    result = pack(seven, tmp_path / "out", shard_size=3)
    tars = expand([str(tmp_path / "out")])
    assert [tar.name for tar in tars] == ["d-000.tar", "d-001.tar", "d-002.tar"]
    assert [list(facts(tar)) for tar in tars] == [["c0/0", "c0/2", "c0/4"], ["c0/6", "c1/1", "c1/3"], ["c1/5"]]
    assert result.count("samples_out") == 7
    manifest = load_manifest(manifest_path(tars[1]))
    assert manifest.stage == "pack"
    assert manifest.counts == {"samples_in": 3, "samples_out": 3, "failed": 0}
    assert manifest.config == {"source": "folder", "shard_size": 3, "depth": False}
    assert manifest.size == tars[1].stat().st_size


def test_webdataset_reads_it_unaided(seven: Path, tmp_path: Path) -> None:
    depth = fill(tmp_path / "depth", {"c0/0.png": depth_png(), "c1/1.npy": npy(np.ones((30, 41), np.float32))})
    tar = pack(seven, tmp_path / "out", depth_dir=depth).shards[0].shard
    samples = {s["__key__"]: s for s in wds.WebDataset(str(tar), shardshuffle=False).decode("rgb8")}
    assert len(samples) == 7
    assert samples["c0/0"]["jpg"].shape == (30, 40, 3)
    assert samples["c1/1"][FACTS]["source"] == "c1/1.jpg"
    assert samples["c1/1"]["sensor.npy"].tolist() == np.ones((30, 41)).tolist()


def test_more_shards_have_more_digits(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", {f"{n:04d}.jpg": b"" for n in range(1001)})
    result = pack(source, tmp_path / "out", shard_size=1)
    names = [shard.shard.name for shard in result.shards]
    assert (names[0], names[-1], len(names)) == ("d-0000.tar", "d-1000.tar", 1001)


def test_two_runs_give_the_same_bytes(seven: Path, tmp_path: Path) -> None:
    first = pack(seven, tmp_path / "one", shard_size=4)
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in sorted(seven.rglob("*.jpg"), reverse=True):  # another order in the file system, other times
        target = moved / file.relative_to(seven)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    second = pack(moved, tmp_path / "two", shard_size=4)
    assert [s.shard.read_bytes() for s in first.shards] == [s.shard.read_bytes() for s in second.shards]


def test_unreadable_photos_are_listed_and_nothing_else_is_lost(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG")
    whole = buffer.getvalue()
    files = {
        "cmyk.jpg": photo(mode="CMYK"),
        "empty.jpg": b"",
        "flat.jpg": photo(800, 10),
        "good.jpg": whole,
        "gray16.png": depth_png(),
        "one.png": photo(1, 1, kind="PNG"),
        "rgba.png": photo(kind="PNG", mode="RGBA"),
        "scan.tif": photo(kind="TIFF"),
        "text.jpg": b"hello",
        "truncated.jpg": whole[: len(whole) // 2],
        "wide.jpg": photo(8000, 100),
    }
    source = fill(tmp_path / "in", files)
    os.symlink("nowhere", source / "broken.jpg")
    os.mkfifo(source / "pipe.jpg")
    result = pack(source, tmp_path / "out", shard_size=4)
    packed = [key for shard in result.shards for key in facts(shard.shard)]
    assert packed == ["cmyk", "good", "gray16", "rgba", "wide"]
    reasons = {item["file"]: item["reason"] for item in result.failed}
    assert list(reasons) == [
        "broken.jpg", "empty.jpg", "flat.jpg", "one.png", "pipe.jpg", "scan.tif", "text.jpg", "truncated.jpg"
    ]  # fmt: skip
    assert reasons["broken.jpg"] == "broken.jpg does not exist"
    assert reasons["empty.jpg"] == "the image file is empty"
    assert reasons["pipe.jpg"] == "pipe.jpg is not a plain file"
    assert reasons["scan.tif"] == "TIFF files are not read: convert it to JPEG, PNG or WebP"
    assert result.count("samples_in") == 13 == result.count("samples_out") + result.count("failed")
    recorded = [item for shard in result.shards for item in load_manifest(manifest_path(shard.shard)).failed]
    assert [item["file"] for item in recorded] == list(reasons)


def test_a_shard_of_failures_alone_is_there(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", {"a.jpg": b"", "b.jpg": photo()})
    result = pack(source, tmp_path / "out", shard_size=1)
    assert [list(facts(shard.shard)) for shard in result.shards] == [[], ["b"]]
    assert facts(result.shards[1].shard)["b"]["id"] == 2


def test_files_of_one_name_are_all_kept(tmp_path: Path) -> None:
    files = {name: photo(20 + n, 20, kind=kind) for n, (name, kind) in enumerate(
        {"a.jpg": "JPEG", "a.png": "PNG", "a.b.jpg": "JPEG", "a_b.jpg": "JPEG"}.items())}  # fmt: skip
    result = pack(fill(tmp_path / "in", files), tmp_path / "out")
    packed = facts(result.shards[0].shard)
    assert len(packed) == 4
    assert {item["source"]: item["width"] for item in packed.values()} == {n: 20 + i for i, n in enumerate(files)}


def test_coco(tmp_path: Path) -> None:
    fill(tmp_path / "in", {"images/x/a.jpg": photo(), "images/b.jpg": photo(50, 30)})
    content = [(9, "x/a.jpg"), (4, "b.jpg"), (6, "gone.jpg"), (7, "../../secret.jpg")]
    listed = {"images": [{"id": number, "file_name": name} for number, name in content], "annotations": []}
    (tmp_path / "in/coco.json").write_text(json.dumps(listed))
    result = pack(tmp_path / "in/coco.json", tmp_path / "out", images=tmp_path / "in/images")
    packed = facts(result.shards[0].shard)
    assert {key: item["id"] for key, item in packed.items()} == {"b": 4, "x/a": 9}
    assert {item["file"]: item["reason"] for item in result.failed} == {
        "gone.jpg": "gone.jpg does not exist",
        "../../secret.jpg": "its name leads out of the image folder",
    }


def test_depth_maps(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", {f"x/{name}.jpg": photo() for name in ("half", "metres", "none", "same")})
    metres = npy(np.full((30, 40), 1.5, np.float32))
    maps = {"x/same.png": depth_png(), "x/half.PNG": depth_png(20, 15), "x/metres.npy": metres, "other.png": b""}
    result = pack(source, tmp_path / "out", depth_dir=fill(tmp_path / "depth", maps), depth_scale=0.0002)
    samples = {sample.key: sample.members for sample in read_shard(result.shards[0].shard)}
    assert samples["x/same"]["sensor.png"] == maps["x/same.png"]
    assert samples["x/half"]["sensor.png"] == maps["x/half.PNG"]
    assert samples["x/metres"]["sensor.npy"] == metres
    assert sorted(samples["x/none"]) == [FACTS, "jpg"]
    depths = {key: item.get("depth") for key, item in facts(result.shards[0].shard).items()}
    unit = {"unit": "metre"}
    assert depths == {
        "x/half": unit | {"scale": 0.0002},
        "x/metres": unit | {"scale": 1.0},
        "x/none": None,
        "x/same": unit | {"scale": 0.0002},
    }
    assert (result.count("without_depth"), result.count("with_depth"), result.failed) == (1, 3, [])


def test_depth_maps_that_do_not_fit(tmp_path: Path) -> None:
    maps = {
        "aspect.png": depth_png(41, 30),
        "bits.png": photo(kind="PNG", mode="L"),
        "cut.png": depth_png()[:60],
        "deep.npy": npy(np.ones((2, 30, 40))),
        "fine.png": depth_png(404, 300),
        "pickle.npy": npy(np.array([{}], dtype=object)),
        "two.npy": npy(np.ones((30, 40))),
        "two.png": depth_png(),
    }
    source = fill(tmp_path / "in", {f"{name.partition('.')[0]}.jpg": photo() for name in maps})
    result = pack(source, tmp_path / "out", depth_dir=fill(tmp_path / "depth", maps))
    assert list(facts(result.shards[0].shard)) == ["fine"]
    reasons = {item["key"]: item["reason"] for item in result.failed}
    assert set(reasons) == {"aspect", "bits", "cut", "deep", "pickle", "two"}
    assert reasons["aspect"] == "depth map aspect.png is 41x30, the upright photo 40x30: they differ in aspect ratio"
    assert reasons["two"] == "there are two depth maps, two.png and two.npy: keep one"
    assert all(reasons[key].startswith(f"depth map {key}.") for key in reasons if key != "two")


def test_depth_is_compared_with_the_upright_photo(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 8
    source = fill(tmp_path / "in", {"lying.jpg": photo(exif=turned), "upright.jpg": photo(exif=turned)})
    maps = fill(tmp_path / "depth", {"lying.png": depth_png(40, 30), "upright.png": depth_png(30, 40)})
    result = pack(source, tmp_path / "out", depth_dir=maps)
    assert list(facts(result.shards[0].shard)) == ["upright"]


def test_depth_maps_within_the_source_are_no_photos(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", {"a.jpg": photo(), "depth/a.png": depth_png()})
    result = pack(source, tmp_path / "out", depth_dir=source / "depth")
    assert (result.count("samples_out"), result.count("with_depth")) == (1, 1)


def test_maps_of_other_formats_and_names(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", {f"{name}.jpg": photo() for name in ("ints", "npz", "suffixed", "tiff")})
    levels = np.full((30, 40), 1500, np.uint16)
    levels[3:9, 3:9] = 900
    buffer = io.BytesIO()
    np.savez(buffer, depth=(levels / 1000).astype(np.float32))
    tiff = io.BytesIO()
    Image.fromarray(levels).save(tiff, "TIFF")
    maps = {
        "ints.npy": npy(levels),
        "npz.npz": buffer.getvalue(),
        "suffixed_depth.PNG": depth_png(),
        "tiff.TIFF": tiff.getvalue(),
        "other.exr": b"",
    }
    said: list[str] = []
    result = pack(
        source, tmp_path / "out", depth_dir=fill(tmp_path / "maps", maps), say=lambda line: said.append(str(line))
    )
    assert (result.count("with_depth"), result.failed) == (4, [])
    stored = {sample.key: sensor_map(sample).metres for sample in read_shard(result.shards[0].shard)}
    for key in ("ints", "npz", "tiff"):
        np.testing.assert_array_equal(stored[key], (levels / 1000).astype(np.float32))
    assert "1 of 5 files" in said[0]
    assert said[0].endswith("are no photo's depth map, as other.exr; .exr files are not read")


def test_values_that_are_missing_are_recorded_and_told(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", {"a.jpg": photo(), "b.jpg": photo(), "c.jpg": photo()})
    levels = np.linspace(500, 5000, 1200).reshape(30, 40).astype(np.uint16)
    marked = levels.copy()
    marked[:5] = 65535
    maps = fill(tmp_path / "maps", {"a.png": encoded(marked, "PNG"), "b.png": encoded(levels, "PNG")})
    said: list[str] = []
    options = {"depth_dir": maps, "say": lambda line: said.append(str(line))}
    result = pack(source, tmp_path / "out", **options)
    manifest = load_manifest(manifest_path(result.shards[0].shard))
    assert manifest.counts["depth_missing_65535"] == 1
    assert "depth_invalid" not in manifest.config
    assert {key: item.get("depth", {}).get("missing") for key, item in facts(result.shards[0].shard).items()} == {
        "a": [65535.0], "b": None, "c": None,
    }  # fmt: skip
    a, *_ = read_shard(result.shards[0].shard)
    assert a.members["sensor.png"] == encoded(marked, "PNG")
    np.testing.assert_array_equal(np.isnan(sensor_map(a).metres), marked == 65535)
    assert said == [
        f"1 of 3 photos have no depth map in {maps}",
        "65535 is taken as 'not measured' in 1 depth map; if it is a distance: pack with pack.depth_invalid='0'",
    ]
    # A run that skips the shard tells the same.
    pack(source, tmp_path / "out", **options)
    assert said[2:] == said[:2]
    # The user's word goes before the rule, is recorded, and makes another shard.
    result = pack(source, tmp_path / "other", depth_invalid="0", **options)
    assert load_manifest(manifest_path(result.shards[0].shard)).config["depth_invalid"] == "0"
    a, *_ = read_shard(result.shards[0].shard)
    assert sensor_map(a).metres.max() == np.float32(65.535)
    assert said[4:] == said[:1]


def test_many_pixels_with_the_largest_value_are_told(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", {"a.jpg": photo()})
    levels = np.linspace(500, 4000, 1200).reshape(30, 40).astype(np.uint16)
    levels[:8] = 5000
    maps = fill(tmp_path / "maps", {"a.png": encoded(levels, "PNG")})
    said: list[str] = []
    for _ in range(2):
        pack(source, tmp_path / "out", depth_dir=maps, say=lambda line: said.append(str(line)))
    problem = "in 1 depth map a tenth of the pixels or more have the largest value"
    assert said == [
        f"{problem}, as 5000 in a.png: if it means 'not measured', name it by pack.depth_invalid",
        f"{problem}: if it means 'not measured', name it by pack.depth_invalid",
    ]


def test_maps_of_photos_that_exif_turns(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 3
    scene = two_boxes()
    buffer, flat = io.BytesIO(), photo(80, 60, exif=turned)
    Image.fromarray(scene.image[::-1, ::-1]).save(buffer, "PNG", exif=turned)
    source = fill(tmp_path / "in", {"flat.jpg": flat, "scene.png": buffer.getvalue()})
    stored = encoded(scene.depth[::-1, ::-1], "PNG")
    maps = fill(tmp_path / "maps", {"flat.png": stored, "scene.png": stored})
    said: list[str] = []
    options = {"depth_dir": maps, "depth_invalid": "0", "say": lambda line: said.append(str(line))}
    result = pack(source, tmp_path / "out", depth_orientation="stored", **options)
    for sample in read_shard(result.shards[0].shard):
        np.testing.assert_array_equal(np.isnan(sensor_map(sample).metres), scene.depth == 0)
    assert load_manifest(manifest_path(result.shards[0].shard)).config["depth_orientation"] == "stored"
    said.clear()
    pack(source, tmp_path / "other", **options)
    assert said[-1].endswith("taken as upright: EXIF turns the photo, and the edges do not tell how the map lies; "
                             "pack.depth_orientation='stored' turns such maps along")  # fmt: skip


def test_a_map_that_fits_before_the_turn_alone_names_exif(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    source = fill(tmp_path / "in", {"a.jpg": photo(exif=turned)})
    maps = fill(tmp_path / "maps", {"a.png": depth_png()})
    said: list[str] = []
    result = pack(source, tmp_path / "out", depth_dir=maps, say=lambda line: said.append(str(line)))
    assert result.failed[0]["reason"] == (
        "depth map a.png is 40x30, the upright photo 30x40: it fits the photo as it is stored, before its EXIF"
        " orientation 6 turns it"
    )
    assert said == [
        "1 depth map would fit the photo as it is stored, before EXIF turns it: "
        "pack.depth_orientation='stored' turns such maps along"
    ]


def test_a_folder_of_maps_of_which_none_is_used(seven: Path, tmp_path: Path) -> None:
    maps = fill(tmp_path / "maps", {"other.png": depth_png()})
    with pytest.raises(UsageError, match=r"holds no map of any photo: that of c0/0\.jpg would be c0/0\.png"):
        pack(seven, tmp_path / "out", depth_dir=maps)
    assert not (tmp_path / "out").exists()


class Watcher(Progress):
    """Records what a progress display is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def begin(self, shards: Sequence[tuple[Path, int | None]]) -> None:
        self.told.append(("begin", [(path.name, size) for path, size in shards]))

    def skip(self, shard: Path) -> None:
        self.told.append(("skip", shard.name))

    def start(self, shard: Path, *, why: str) -> None:
        self.told.append(("start", shard.name, why))

    def advance(self, *, failed: bool) -> None:
        self.told.append(("advance", failed))

    def finish(self, shard: Path) -> None:
        self.told.append(("finish", shard.name))


def again(seven: Path, tmp_path: Path, **options: Any) -> dict[str, str]:
    """Pack once more; tell which shards were skipped, and why the others were not."""
    watcher = Watcher()
    pack(seven, tmp_path / "out", **{"shard_size": 3, "progress": watcher} | options)
    skipped = {entry[1]: "skipped" for entry in watcher.told if entry[0] == "skip"}
    return skipped | {entry[1]: entry[2] for entry in watcher.told if entry[0] == "start"}


def test_progress(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", {"a.jpg": photo(), "b.jpg": b"", "c.jpg": photo()})
    watcher = Watcher()
    pack(source, tmp_path / "out", shard_size=2, progress=watcher)
    assert watcher.told == [
        ("begin", [("d-000.tar", 2), ("d-001.tar", 1)]),
        ("start", "d-000.tar", ""),
        ("advance", False),
        ("advance", True),
        ("finish", "d-000.tar"),
        ("start", "d-001.tar", ""),
        ("advance", False),
        ("finish", "d-001.tar"),
    ]


def test_resume_keeps_what_matches(seven: Path, tmp_path: Path) -> None:
    pack(seven, tmp_path / "out", shard_size=3)
    skipped = dict.fromkeys(["d-000.tar", "d-001.tar", "d-002.tar"], "skipped")
    assert again(seven, tmp_path) == skipped
    (tmp_path / "out/d-002.json").unlink()
    assert again(seven, tmp_path) == skipped | {"d-002.tar": "redone, unfinished: it has no manifest"}
    fill(seven, {"c0/6.jpg": photo(99, 40)})
    assert again(seven, tmp_path) == skipped | {"d-001.tar": "redone, input changed: listing (listing)"}
    assert facts(tmp_path / "out/d-001.tar")["c0/6"]["width"] == 99
    (tmp_path / "out/d-000.tar").unlink()
    assert again(seven, tmp_path) == skipped | {"d-000.tar": ""}
    assert again(seven, tmp_path, if_exists="overwrite") == dict.fromkeys(skipped, "")
    assert again(seven, tmp_path) == skipped


def test_resume_notices_depth_maps(seven: Path, tmp_path: Path) -> None:
    pack(seven, tmp_path / "out", shard_size=3)
    maps = fill(tmp_path / "depth", {"c0/0.png": depth_png()})
    with pytest.raises(OtherSettingsError, match=r"depth false -> true.*to keep them, choose another name or out"):
        again(seven, tmp_path, depth_dir=maps)
    reasons = again(seven, tmp_path, depth_dir=maps, if_exists="replace")
    assert set(reasons.values()) == {"redone, config changed: depth false -> true, depth_scale (unset) -> 0.001"}
    fill(maps, {"c1/5.png": depth_png(45, 30)})
    assert again(seven, tmp_path, depth_dir=maps) == {
        "d-000.tar": "skipped",
        "d-001.tar": "skipped",
        "d-002.tar": "redone, input changed: listing (listing)",
    }


def test_failures_of_skipped_shards_are_still_reported(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", {"a.jpg": photo(), "b.jpg": b""})
    first = pack(source, tmp_path / "out")
    second = pack(source, tmp_path / "out")
    assert second.shards[0].status == "skipped"
    assert second.failed == first.failed
    assert [item["file"] for item in second.failed] == ["b.jpg"]


def test_fail_if_exists(seven: Path, tmp_path: Path) -> None:
    pack(seven, tmp_path / "out", if_exists="fail")
    with pytest.raises(
        OccupiedError, match=r"d-000\.tar exists: run\.if_exists='resume' keeps .* run\.if_exists='overwrite'"
    ):
        pack(seven, tmp_path / "out", if_exists="fail")
    pack(seven, tmp_path / "out", name="other", if_exists="fail")


@pytest.mark.parametrize("if_exists", ["resume", "overwrite", "fail"])
def test_shards_of_two_packings_do_not_mix(seven: Path, tmp_path: Path, if_exists: str) -> None:
    pack(seven, tmp_path / "out", shard_size=2)
    before = (tmp_path / "out/d-000.tar").read_bytes()
    with pytest.raises(OccupiedError, match=r"d-002\.tar is of another packing, this one ends at d-001\.tar: re"):
        pack(seven, tmp_path / "out", shard_size=4, if_exists=if_exists)
    assert (tmp_path / "out/d-000.tar").read_bytes() == before


def test_an_interrupted_run_leaves_whole_shards_only(
    seven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting(Watcher):
        def advance(self, *, failed: bool) -> None:
            super().advance(failed=failed)
            if len([entry for entry in self.told if entry[0] == "advance"]) == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(seven, tmp_path / "out", shard_size=3, progress=Interrupting())
    assert sorted(os.listdir(tmp_path / "out")) == ["d-000.json", "d-000.tar"]
    assert again(seven, tmp_path) == {"d-000.tar": "skipped", "d-001.tar": "", "d-002.tar": ""}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "name ''"),
        ({"name": "a/b"}, "name 'a/b'"),
        ({"name": ".a"}, "name"),
        ({"name": "a<0>"}, "name"),
        ({"shard_size": 0}, "pack.shard_size is 0"),
        ({"depth_scale": 0.0}, "pack.depth_scale is 0.0"),
        ({"depth_scale": float("nan")}, "pack.depth_scale is nan"),
        ({"depth_dir": Path("none")}, "depth_dir none is not a folder"),
        ({"images": Path(".")}, "images belongs to a COCO JSON"),
    ],
)
def test_usage(seven: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pack(seven, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_usage_of_folders(seven: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is the folder of the photos"):
        pack(seven, tmp_path / "out", depth_dir=seven / "c0" / "..")
    with pytest.raises(UsageError, match="cannot be used"):
        pack(seven, seven / "c0/0.jpg")
