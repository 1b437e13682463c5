from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from cuts3d_cli.config import Config
from cuts3d_cli.inspection import verify
from cuts3d_cli.shards.manifest import load_manifest, save_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.reader import Sample, read_shard
from cuts3d_cli.shards.writer import ShardWriter
from cuts3d_cli.sidecars import KINDS, Flaw, Known
from cuts3d_cli.stages import confidence, features, pseudo
from tests.support.photos import pack_photos, packed, settings, write_photos
from tests.support.running import Ran

Members = dict[str, bytes]


def everything(folder: Path, weights: Path) -> Path:
    """A shard of three photos with every sidecar that needs no detector."""
    (base,) = pack_photos(folder, 3)
    config = settings(
        {
            "pseudo": {"crf_size": 160},
            "features": {"backbone": "dino-vits16", "size": 224, "weights": weights},
            "run": {"device": "cpu", "workers": 0},
            "confidence": {"tau_knn_min": 0.11},
        }
    )
    features.run([base], config=config)
    pseudo.run([base], config=config)
    confidence.run([base], config=config)
    return base


def rewrite(tar: Path, change: Callable[[list[Sample]], list[Sample]], *, honest: bool = True) -> None:
    """Change the samples of a tar; `honest` makes its manifest agree with the new bytes."""
    manifest = load_manifest(manifest_path(tar))
    samples = change(list(read_shard(tar)))
    with ShardWriter(tar) as writer:
        for sample in samples:
            writer.write(sample.key, sample.members)
    if honest:
        manifest = replace(manifest, sha256=writer.sha256, size=writer.size)
    save_manifest(manifest_path(tar), replace(manifest, size=writer.size))


def with_member(extension: str, data: bytes) -> Callable[[list[Sample]], list[Sample]]:
    """Replaces a member of the first sample."""

    def change(samples: list[Sample]) -> list[Sample]:
        first = Sample(key=samples[0].key, members={**samples[0].members, extension: data})
        return [first, *samples[1:]]

    return change


def edited(samples: list[Sample], extension: str, **changes: Any) -> bytes:
    return json.dumps({**json.loads(samples[0].members[extension]), **changes}).encode()


def lines(base: Path) -> list[str]:
    return [problem.line.replace(f"{base.parent}/", "") for problem in verify.run([base]).problems]


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_what_was_written_is_well(alone: Path, weights: Path, cuts3d: Callable[..., Ran]):
    base = everything(alone, weights)
    found = verify.run([base])
    assert (found.files, found.samples, found.problems, found.notes) == (5, 15, [], [])
    ran = cuts3d("verify", "--shards", base)
    assert (ran.code, ran.out) == (0, "5 files, 15 samples: all is well\n")
    assert json.loads(cuts3d("verify", base, "--json").out) == {
        "files": 5,
        "samples": 15,
        "problems": [],
        "remedies": [],
        "mixed": [],
        "notes": [],
    }


FLAWS: Mapping[str, tuple[str, Callable[[list[Sample]], list[Sample]], str]] = {
    "photo": ("", with_member("jpg", b"\xff\xd8\xff"), "s-000.tar: p0.jpg: this is not an image of a known format"),
    "facts": ("", with_member("cuts3d.json", b"["), "s-000.tar: p0.cuts3d.json: it is not JSON"),
    "size": (
        "",
        lambda s: with_member("cuts3d.json", edited(s, "cuts3d.json", width=9))(s),
        "p0.cuts3d.json: it says 9x60, the photo is 80x60",
    ),
    "sensor": ("", with_member("sensor.png", b"x"), "p0.sensor.png: the depth map is not a PNG file"),
    "depth": ("depth", with_member("depth.png", b""), "s-000.depth.tar: p0.depth.png: the depth map is empty"),
    "depth size": (
        "depth",
        lambda s: with_member("depth.json", edited(s, "depth.json", height=7))(s),
        "p0.depth.png: it is 80x60, its JSON says otherwise",
    ),
    "nan": (
        "features",
        with_member("features.npy", npy(np.full((4, 2, 2), np.nan, np.float16))),
        "p0.features.npy: it holds NaN or infinite values",
    ),
    "features": (
        "features",
        with_member("features.npy", npy(np.zeros((2, 2), np.float16))),
        "p0.features.npy: it holds float16 of shape (2, 2), not float16 (C, H, W)",
    ),
    "cut off": ("features", with_member("features.npy", npy(np.zeros(9))[:-1]), "p0.features.npy: it is cut off"),
    "objects": (
        "features",
        with_member("features.npy", npy(np.array([{}], dtype=object))),
        "p0.features.npy: it holds Python objects, not numbers",
    ),
    "masks": ("pseudo", with_member("pseudo.json", b"{}"), "p0.pseudo.json: it has no height"),
    "confidence": (
        "confidence",
        with_member("confidence.npy", npy(np.zeros((9, 14, 14), np.uint8))),
        "p0.confidence.npy: it has 9 maps for",
    ),
    "order": ("depth", lambda s: [s[1], s[0], s[2]], "s-000.depth.tar: p0: it stands elsewhere than in s-000.tar"),
    "stranger": (
        "depth",
        lambda s: [*s, Sample(key="x", members=s[0].members)],
        "s-000.depth.tar: x: s-000.tar has no such sample",
    ),
    "lost": ("depth", lambda s: s[:2], "1 of 3 samples are neither in it nor among its failed ones: p2"),
    "lost in the count": ("depth", lambda s: s[:2], "s-000.depth.tar: it holds 2 samples, its manifest says 3"),
    "missing": (
        "depth",
        lambda s: [Sample(key=k.key, members={"depth.json": k.members["depth.json"]}) for k in s],
        "s-000.depth.tar: p1.depth.png: it is missing",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Mapping[str, bytes]:
    """The files of `everything`."""
    folder = tmp_path_factory.mktemp("whole")
    everything(folder, weights)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def base(whole: Mapping[str, bytes], tmp_path: Path) -> Path:
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path / "s-000.tar"


def test_each_sidecar_is_checked_by_its_kind(base: Path, monkeypatch: pytest.MonkeyPatch):
    class Strict:
        MEMBERS, FOLLOWS, seen = KINDS["features"].MEMBERS, "pseudo", list[Known]()

        def flaws(self, sample: Sample, known: Known) -> list[Flaw]:
            self.seen.append(known)
            return [Flaw("features.npy", "it is not to my taste")] if sample.key == "p1" else []

    monkeypatch.setitem(cast(dict[str, Any], KINDS), "features", Strict())
    assert lines(base) == ["s-000.features.tar: p1.features.npy: it is not to my taste"]
    assert [known.size for known in Strict.seen] == [(60, 80), (90, 70), (60, 80)]
    assert all(known.masks for known in Strict.seen)


@pytest.mark.parametrize("name", FLAWS)
def test_every_flaw_is_found_though_the_manifest_agrees(base: Path, name: str):
    stage, change, expected = FLAWS[name]
    rewrite(sidecar(base, stage) if stage else base, change)
    assert any(expected in line for line in lines(base)), lines(base)


def test_a_bit_that_flipped_is_found_in_every_file(base: Path, whole: Mapping[str, bytes]):
    for name in sorted(name for name in whole if name.endswith(".tar")):
        data = bytearray(whole[name])
        data[len(data) // 2] ^= 0x10
        (base.parent / name).write_bytes(data)
        assert f"{name}: its content has changed since it was written: the SHA-256 is another" in lines(base)
        (base.parent / name).write_bytes(whole[name])
    assert lines(base) == []


def test_what_is_cut_off_empty_or_gone_is_found(base: Path, whole: Mapping[str, bytes]):
    tar = sidecar(base, "depth")
    tar.write_bytes(whole[tar.name][:-9000])
    found = lines(base)
    assert found[0].startswith("s-000.depth.tar: it has ")
    assert "s-000.depth.tar: is damaged or truncated: restore it, or write it again (no " in found[1]
    tar.write_bytes(b"")
    assert any("is empty (0 bytes)" in line for line in lines(base))
    tar.unlink()
    assert lines(base)[0] == "s-000.depth.tar: it is missing, though its manifest is there"
    assert any(
        "s-000.pseudo.tar: it was made from s-000.depth.tar (depth), which is not there" in x for x in lines(base)
    )
    manifest_path(tar).unlink()
    assert not any(line.startswith("s-000.depth") for line in lines(base))


def test_manifests_are_held_against_their_tars(base: Path):
    path = manifest_path(sidecar(base, "depth"))
    values = json.loads(path.read_text())
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "stage": ({"stage": "features"}, "s-000.depth.json: it is of stage features, not depth"),
        "counts": ({"counts": {**values["counts"], "failed": 4}}, "s-000.depth.json: its counts do not add up"),
        "config": ({"config": {}}, "s-000.depth.json: is damaged (its configuration was edited by hand)"),
        "version": ({"format_version": 9}, "s-000.depth.json: has format version 9"),
    }
    for changes, expected in cases.values():
        path.write_text(json.dumps(values | changes))
        assert any(expected in line for line in lines(base)), lines(base)
    path.write_text("{")
    assert any("s-000.depth.json: is not JSON" in line for line in lines(base))
    path.unlink()
    assert "s-000.depth.tar: it has no manifest: the run that wrote it was cut off" in lines(base)


def test_sidecars_of_another_shard_are_found_with_their_manifests(base: Path):
    """They agree with each other, and their counts and keys are those of the shard, of which one photo has changed."""
    other = base.with_name("t-000.tar")
    for path in sorted(base.parent.glob("s-000*")):
        path.with_name(path.name.replace("s-000", "t-000")).write_bytes(path.read_bytes())
    assert verify.run([other]).problems == []
    rewrite(other, lambda samples: [replace(samples[0], members=samples[1].members), *samples[1:]])
    assert "t-000.depth.tar: it was made from another t-000.tar (base) than is there now" in lines(other)
    rewrite(sidecar(other, "pseudo"), lambda samples: samples[::-1])
    assert "t-000.confidence.tar: it was made from another t-000.pseudo.tar (pseudo) than is there now" in lines(other)


def test_a_base_shard_that_changed_makes_its_sidecars_stale(base: Path):
    rewrite(base, lambda samples: samples[:2])
    found = lines(base)
    assert "s-000.depth.tar: it was made from another s-000.tar (base) than is there now" in found
    assert "s-000.depth.tar: p2: s-000.tar has no such sample" in found


def test_a_shard_of_the_users_own_needs_no_manifest(base: Path):
    for path in base.parent.iterdir():
        if path != base:
            path.unlink()
    found = verify.run([base])
    assert found.problems == []
    assert found.notes == [f"{base}: it has no manifest, so that only its content was checked"]


def test_what_is_left_over_is_told_and_taken_away_when_old(base: Path, cuts3d: Callable[..., Ran]):
    old, new = (base.with_name(f".s-000.depth.{end}.77-0123abcd.tmp") for end in ("tar", "json"))
    other = base.with_name(".t-000.tar.77-0123abcd.tmp")
    for path in (old, new, other):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    found = verify.run([base])
    assert [problem.line for problem in found.problems] == [f"{old}: it is left over from a run that was cut off"]
    assert found.notes == [f"{new}: a run is writing it, or was cut off less than an hour ago"]
    ran = cuts3d("verify", base, "--fix")
    assert ran.code == 0, ran
    assert not old.exists()
    assert new.exists()
    assert other.exists()


def test_fix_makes_anew_what_is_damaged_and_gives_the_same_bytes(
    cuts3d: Callable[..., Ran], base: Path, whole: Mapping[str, bytes], weights: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(features.FeatureExtractor, "weights", weights)  # as if they lay in the cache
    for name in ("s-000.depth.tar", "s-000.features.tar", "s-000.confidence.tar"):
        (base.parent / name).write_bytes(whole[name].replace(b"0", b"1"))
    (base.parent / "s-000.pseudo.tar").write_bytes(whole["s-000.pseudo.tar"][:700])
    ran = cuts3d("verify", base, "--fix", "--device", "cpu", "-j", 0)
    assert ran.code == 0, ran
    assert ran.out == "5 files, 15 samples: all is well\n"
    assert "cuts3d depth --shards" in ran.err
    for name, data in whole.items():
        if name.endswith(".tar"):
            assert (base.parent / name).read_bytes() == data


@pytest.mark.parametrize(
    ("given", "repeated"),
    [(None, False), (0.115, False), (0.15, True)],  # 0.115 is what the masks were cut with
)
def test_a_threshold_of_the_masks_follows_them_and_one_of_the_users_is_repeated(
    cuts3d: Callable[..., Ran], base: Path, given: float | None, repeated: bool
):
    def config(**run: str) -> Config:
        scored = {"tau_knn_min": 0.11, **({} if given is None else {"tau_knn": given})}
        cut = {"crf_size": 160, "tau_knn": 0.2, "instances": 1}
        size = {"backbone": "dino-vits16", "size": 224}
        return settings({"pseudo": cut, "confidence": scored, "features": size, "run": {"workers": 0, **run}})

    confidence.run([base], config=config(if_exists="overwrite"))
    pseudo.run([base], config=config(if_exists="replace"))
    tar = sidecar(base, "confidence")
    said = f"cuts3d confidence --shards {base} --if-exists overwrite --tau-knn-min 0.11"
    said += " --tau-knn 0.15" if repeated else ""
    ran = cuts3d("verify", base)
    assert f"to mend {tar}: {said}" in ran.out.splitlines()
    ran = cuts3d("verify", base, "--fix", "-j", 0)
    assert ran.code == 0, ran
    assert f"{tar}: `{said}`" in ran.err.splitlines()
    assert load_manifest(manifest_path(tar)).config["confidence"]["tau_knn"] == (0.15 if repeated else 0.2)
    # Who runs the stage with the same settings finds it finished.
    again = config()
    if given == 0.115:
        again = replace(again, confidence=replace(again.confidence, tau_knn=None))
    assert confidence.run([base], config=again).shards[0].status == "skipped"


def test_what_cannot_be_made_anew_is_said_with_the_command(cuts3d: Callable[..., Ran], base: Path):
    (base.parent / "s-000.pseudo.tar").write_bytes(b"")
    base.write_bytes(b"")
    before = {path.name: path.read_bytes() for path in base.parent.iterdir() if path.is_file()}
    ran = cuts3d("verify", base, "--fix")
    assert ran.code == 1
    assert f"to mend {base}: cuts3d pack " in ran.out
    assert "(by hand: its manifest does not say where the COCO JSON or the depth maps lie)" in ran.out
    tar = sidecar(base, "pseudo")
    line = next(line for line in ran.out.splitlines() if line.startswith(f"to mend {tar}: "))
    assert f"cuts3d pseudo --shards {base} --if-exists overwrite" in line
    assert "--backbone dino-vits16" in line
    assert "--crf-size 160" in line
    assert {path.name: path.read_bytes() for path in base.parent.iterdir() if path.is_file()} == before


def test_a_base_shard_is_packed_again_from_its_folder(alone: Path, cuts3d: Callable[..., Ran]):
    photos = write_photos(alone / "in", 4) / "photos"
    packed(photos, alone / "out", shard_size=2)
    base = alone / "out/s-001.tar"
    whole = base.read_bytes()
    state = base.stat()
    base.write_bytes(whole[:1000] + b"\x01" + whole[1001:])
    os.utime(base, ns=(state.st_atime_ns, state.st_mtime_ns))  # as a disk does that forgets
    ran = cuts3d("verify", "out", "--fix")
    assert ran.code == 0, ran
    assert base.read_bytes() == whole


def test_without_a_manifest_the_settings_of_another_shard_are_taken(alone: Path, cuts3d: Callable[..., Ran]):
    bases = pack_photos(alone, 4, shard_size=2)
    tar = sidecar(bases[1], "depth")
    whole = tar.read_bytes()
    tar.write_bytes(whole[:100])
    manifest_path(tar).unlink()
    found = json.loads(cuts3d("verify", "--shards", ".", "--json").out)
    assert [item["command"] for item in found["remedies"]] == [
        f"cuts3d depth --shards {bases[1].name} --if-exists overwrite --depth-backend sensor"
    ]
    assert cuts3d("verify", "--shards", ".", "--fix").code == 0
    assert tar.read_bytes() == whole
