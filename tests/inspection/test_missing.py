from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cuts3d_cli.inspection.missing import missing_shards
from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from tests.support.photos import pack_photos
from tests.support.running import Ran


@pytest.mark.parametrize(
    ("files", "given", "missing"),
    [
        (["a-000.tar", "a-001.tar", "a-003.tar"], ["a-000.tar", "a-001.tar", "a-003.tar"], ["a-002.tar"]),
        (["a-000.tar", "a-001.tar", "a-003.tar"], ["a-000.tar", "a-001.tar"], []),
        (["a-000.tar", "a-001.tar", "a-003.tar"], ["a-003.tar", "a-001.tar"], ["a-002.tar"]),
        (["a-000.tar", "a-001.tar", "a-002.tar"], ["a-000.tar", "a-002.tar"], []),
        (["a-000.tar", "a-001.depth.tar", "a-001.pseudo.tar"], ["a-000.tar"], ["a-001.tar"]),
        (["a-000.tar", "a-001.tar", "a-002.depth.tar"], ["a-000.tar"], []),
        (["a-8.tar", "a-9.tar", "a-11.tar"], ["a-8.tar", "a-9.tar", "a-11.tar"], ["a-10.tar"]),
        (["a-000.tar", "b-002.tar"], ["a-000.tar", "b-002.tar"], []),
        (["d20250101.tar", "d20260101.tar"], ["d20250101.tar", "d20260101.tar"], []),
        (
            ["d20250101.tar", "d20260101.tar", "d20250601.depth.tar"],
            ["d20250101.tar", "d20260101.tar"],
            ["d20250601.tar"],
        ),
        (["photos.tar", "other.depth.tar"], ["photos.tar"], []),
    ],
)
def test_numbers_that_a_range_lacks_and_sidecars_without_their_shard(
    tmp_path: Path, files: Sequence[str], given: Sequence[str], missing: Sequence[str]
):
    for name in files:
        (tmp_path / name).touch()
    found = missing_shards([tmp_path / name for name in given], {})
    assert [item.base.name for item in found] == missing
    assert all((", but " in item.reason) == (".depth" in " ".join(files)) for item in found)


def test_a_base_shard_that_is_gone_is_a_problem_and_packed_again(alone: Path, cuts3d: Callable[..., Ran]):
    bases = pack_photos(alone, 4, shard_size=1)
    for number in (0, 2):
        bases[number].unlink()
    manifest_path(bases[2]).unlink()
    found = json.loads(cuts3d("verify", ".", "--json").out)
    assert [(item["file"], item["stage"], item["reason"]) for item in found["problems"]] == [
        ("s-000.tar", "pack", "it is missing, but s-000.depth.tar is there"),
        ("s-002.tar", "pack", "it is missing, but s-002.depth.tar is there"),
    ]
    assert {item["by_hand"] for item in found["remedies"]} == {
        "its manifest does not say where the COCO JSON or the depth maps lie"
    }
    assert cuts3d("verify", ".").code == 1


def test_a_base_shard_that_is_gone_is_packed_again_where_its_photos_are(alone: Path, cuts3d: Callable[..., Ran]):
    pack_photos(alone / "first", 3, shard_size=1)
    assert cuts3d("pack", alone / "first/source/photos", "-o", "out", "--name", "s", "--shard-size", 1).code == 0
    base = alone / "out/s-000.tar"
    whole = base.read_bytes()
    base.unlink()
    manifest_path(base).unlink()
    ran = cuts3d("verify", "out", "--fix")
    assert (ran.code, base.read_bytes()) == (0, whole), ran


def test_sidecars_of_mixed_settings_are_named(alone: Path, cuts3d: Callable[..., Ran]):
    bases = pack_photos(alone, 3, shard_size=1)
    ran = cuts3d("depth", "--backend", "sensor", "--max-image-pixels", 10_000, bases[1], "--if-exists", "overwrite")
    assert ran.code == 0, ran
    assert load_manifest(manifest_path(sidecar(bases[1], "depth"))).config["run"]
    ran = cuts3d("verify", ".")
    assert ran.code == 1
    assert ran.out.splitlines() == [
        "mixed: 3 sidecars of stage depth were made with 2 different settings: s-001.depth.tar, unlike s-000.depth.tar"
        " (run.max_image_pixels (unset) -> 10000)",
        "6 files, 6 samples: 1 problems",
    ]
    assert cuts3d("verify", bases[0], bases[2]).code == 0
