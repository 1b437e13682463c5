"""Damaged shards, sidecars and manifests, given to the commands that read them: one line that names file and member."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.photos import FACTS
from tests.support.photos import encoded, pack_photos, two_boxes, write_shard
from tests.support.running import Ran
from tests.support.shapes import annotation, coco_file, image
from tests.support.stored import PSEUDO, boxes, store_features
from tests.support.tars import agree, swap

Files = Sequence[tuple[str, bytes]]
SENSOR = ("depth", "--backend", "sensor", "--if-exists", "overwrite")


def contents(tar: Path) -> list[tuple[str, bytes]]:
    return [(f"{sample.key}.{name}", data) for sample in read_shard(tar) for name, data in sample.members.items()]


def write(tar: Path, files: Files, **fields: object) -> None:
    """A tar as another program would write it; `fields` change the header of its last member."""
    with tarfile.open(tar, "w") as file:
        for place, (name, data) in enumerate(files):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items() if place == len(files) - 1 else ():
                setattr(info, field, value)
            file.addfile(info, io.BytesIO(data) if info.isreg() and info.size == len(data) else None)


def flipped(tar: Path, at: int) -> None:
    data = bytearray(tar.read_bytes())
    data[at] ^= 0x20
    tar.write_bytes(data)


def last(tar: Path) -> str:
    return contents(tar)[-1][0]


def renamed(tar: Path, name: str) -> None:
    files = contents(tar)
    write(tar, [*files[:-1], (name, files[-1][1])])


DAMAGE: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (lambda tar: tar.write_bytes(tar.read_bytes()[:1500]) and None, "truncated"),
    "cut in a header": (lambda tar: tar.write_bytes(tar.read_bytes()[:300]) and None, "damaged"),
    "empty": (lambda tar: tar.write_bytes(b"") and None, "is empty (0 bytes)"),
    "a bit of a header": (lambda tar: flipped(tar, 130), "damaged"),
    "zeros": (lambda tar: tar.write_bytes(bytes(tar.stat().st_size)) and None, "holds 0 samples, and not the 2"),
    "no tar": (lambda tar: tar.write_bytes(b"GIF89a" * 500) and None, "is not an uncompressed tar"),
    "twice": (lambda tar: write(tar, [*contents(tar), contents(tar)[-1]]), "is there twice"),
    "absolute": (lambda tar: renamed(tar, "/etc/passwd.png"), "'/etc/passwd.png' has an absolute name"),
    "outwards": (lambda tar: renamed(tar, "x/../../b.png"), "'x/../../b.png' leads out of its folder"),
    "symbolic link": (
        lambda tar: write(tar, contents(tar), type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "is a symbolic link",
    ),
    "hard link": (
        lambda tar: write(tar, contents(tar), type=tarfile.LNKTYPE, linkname="x"),
        "is a link to 'x', which does not stand before it",
    ),
    "10 GB": (lambda tar: write(tar, contents(tar), size=10 << 30), "has 10737418240 bytes, more than 2147483648"),
}
WITH_MEMBER = ("twice", "absolute", "outwards", "symbolic link", "hard link", "10 GB")


@pytest.fixture
def base(alone: Path) -> Path:
    """Two photos with depth and features."""
    (base,) = pack_photos(alone, 2)
    store_features(base, boxes())
    return base


@pytest.mark.parametrize("name", [name for name in DAMAGE if name != "zeros"])
def test_a_damaged_base_shard(cuts3d: Callable[..., Ran], base: Path, name: str):
    damage, words = DAMAGE[name]
    member = last(base)
    damage(base)
    manifest_path(base).unlink()
    before = sidecar(base, "depth").read_bytes()
    ran = cuts3d(*SENSOR, base)
    assert ran.code == 1, ran
    line = ran.err.splitlines()[-1]
    assert line.startswith(f"cuts3d: {base}")
    assert words in line
    assert name not in WITH_MEMBER or member in line or "member '" in line
    assert sidecar(base, "depth").read_bytes() == before
    assert [path.name for path in base.parent.iterdir() if path.suffix == ".tmp"] == []
    ran = cuts3d("verify", base)
    assert ran.code == 1
    assert any(line.startswith(f"{base}: ") and words.partition("is ")[2] in line for line in ran.out.splitlines()), ran


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_sidecar(cuts3d: Callable[..., Ran], base: Path, name: str):
    damage, words = DAMAGE[name]
    tar = sidecar(base, "depth")
    whole = tar.read_bytes()
    damage(tar)
    agree(tar)
    ran = cuts3d(*PSEUDO, base)
    assert ran.code == 1, ran
    assert ran.err.splitlines()[-1].startswith(f"cuts3d: {tar}")
    assert words in ran.err.splitlines()[-1]
    assert not sidecar(base, "pseudo").exists()
    assert cuts3d("verify", base, "--fix").code == int(name != "zeros") * 0
    assert tar.read_bytes() == whole


def test_a_bit_that_flipped_in_a_member_stops_the_stage_that_reads_it(cuts3d: Callable[..., Ran], base: Path):
    for tar in (base, sidecar(base, "depth"), sidecar(base, "features")):
        whole, manifest = tar.read_bytes(), manifest_path(tar).read_bytes()
        flipped(tar, 700)
        ran = cuts3d(*PSEUDO, base)
        assert ran.code == 1, ran
        assert ran.err.splitlines()[-1].startswith(f"cuts3d: {tar}") or "was made from another" in ran.err
        assert not sidecar(base, "pseudo").exists()
        tar.write_bytes(whole)
        manifest_path(tar).write_bytes(manifest)
    assert cuts3d(*PSEUDO, base).code == 0


@pytest.mark.parametrize("with_manifest", [False, True])
@pytest.mark.parametrize(
    ("stage", "commands"),
    [
        ("depth", [PSEUDO, ("confidence",), ("viz", "--key", "p0", "--shards")]),
        ("features", [PSEUDO]),
        ("pseudo", [("eval", "--gt", "gt.json"), ("confidence",), ("viz", "--key", "p0", "--shards")]),
    ],
)
def test_a_sidecar_of_another_shard_is_refused_by_all_that_read_it(
    cuts3d: Callable[..., Ran], alone: Path, stage: str, commands: Sequence[tuple[str, ...]], with_manifest: bool
):
    """Of equal size, as tars often are, and with its manifest or without it."""
    bases = pack_photos(alone, 2, shard_size=1)
    for base in bases:
        store_features(base, boxes())
        assert cuts3d(*PSEUDO, base).code == 0
    coco_file(alone / "gt.json", [image(1, "p0.jpg", width=80, height=60)], [annotation(1, 1, (10, 10, 20, 20))])
    swap(sidecar(bases[0], stage), sidecar(bases[1], stage), with_manifest=with_manifest)
    for command in commands:
        ran = cuts3d(*command, bases[0])
        assert ran.code == 1, ran
        word = "was made from another s-000.tar" if with_manifest else "has changed since it was written, or belongs to"
        assert f"s-000.{stage}.tar {word}" in ran.err.splitlines()[-1]


def test_manifests_that_are_missing_or_of_others(cuts3d: Callable[..., Ran], base: Path):
    tar = sidecar(base, "depth")
    path = manifest_path(tar)
    values = json.loads(path.read_text())
    cases = {
        "not JSON": ("{", f"{path} is not JSON"),
        "another's": ("[]", f"{path} is not a manifest of cuts3d"),
        "version": (json.dumps(values | {"format_version": 2}), f"{path} has format version 2, this cuts3d reads 1"),
        "config": (json.dumps(values | {"config": {"depth": {"backend": "zoedepth"}}}), f"{path} is damaged"),
        "field": (json.dumps({k: v for k, v in values.items() if k != "counts"}), "(it has no counts)"),
        "deep": ("[" * 100_000, f"{path} is nested deeper than 100 levels"),
    }
    for text, words in cases.values():
        path.write_text(text)
        ran = cuts3d(*PSEUDO, base)
        assert ran.code == 1, ran
        assert words in ran.err.splitlines()[-1]
    path.unlink()
    ran = cuts3d(*PSEUDO, base)
    assert ran.code == 1
    assert f"{tar} is missing or unfinished: run `cuts3d depth --shards {base}`" in ran.err.splitlines()[-1]


def test_damaged_facts_fail_before_the_cut_and_json_of_others_never(cuts3d: Callable[..., Ran], alone: Path):
    samples = {"a": {"jpg": PHOTO, FACTS: b"["}, "b": {"jpg": PHOTO, "json": b'["a caption", "M\xf6bel"]'}}
    base = write_shard(alone / "s-000.tar", samples)
    store_features(base, boxes())
    ran = cuts3d(*PSEUDO, "--method", "maskcut", base)
    assert ran.code == 3, ran
    (failed,) = load_manifest(manifest_path(sidecar(base, "pseudo"))).failed
    assert failed["key"] == "a"
    assert failed["reason"].startswith("the facts about the photo cannot be read: cuts3d.json: it is not JSON")


def test_a_sidecar_whose_base_shard_changed(cuts3d: Callable[..., Ran], base: Path):
    write_shard(base, {"p0": {"jpg": encoded(two_boxes(seed=9).image)}})
    ran = cuts3d(*PSEUDO, base)
    assert ran.code == 1
    expected = f"{sidecar(base, 'depth')} was made from another s-000.tar: run `cuts3d depth --shards"
    assert expected in ran.err.splitlines()[-1]


def png_bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that says it has side x side pixels, all black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )


def jpeg_bomb() -> bytes:
    """A JPEG whose header says 65500 x 65500."""
    data = bytearray(encoded(two_boxes().image))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def npy_bomb() -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)})
    return buffer.getvalue() + bytes(64)


PHOTO = encoded(two_boxes().image)
IMAGES: Mapping[str, tuple[dict[str, bytes], str]] = {
    "PNG bomb": ({"png": png_bomb(50_000)}, "the image is too large"),
    "JPEG bomb": ({"jpg": jpeg_bomb()}, "the image is too large"),
    "truncated": ({"jpg": PHOTO[:900]}, "the image cannot be decoded: image file is truncated"),
    "no image": ({"jpg": b"\0" * 99}, "this is not an image of a known format"),
    "empty": ({"jpg": b""}, "the image file is empty"),
    "none": ({"txt": b"x"}, "the sample has no image, only json, txt"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_that_cannot_be_read_are_listed_and_the_shard_goes_on(
    cuts3d: Callable[..., Ran], alone: Path, weights: Path, name: str
):
    members, reason = IMAGES[name]
    base = write_shard(alone / "s-000.tar", {"a": {**members, "json": b"{}"}, "b": {"jpg": PHOTO, "json": b"{}"}})
    ran = cuts3d("features", "--backbone", "dino-vits16", "--size", "32", "--weights", weights, "--device", "cpu", base)
    assert ran.code == 3, ran
    manifest = load_manifest(manifest_path(sidecar(base, "features")))
    assert [item["key"] for item in manifest.failed] == ["a"]
    assert reason in manifest.failed[0]["reason"]
    assert f"failed: {base}: a: " in ran.err
    assert [sample.key for sample in read_shard(sidecar(base, "features"))] == ["b"]


def test_the_limit_of_pixels_is_the_users_and_is_recorded(cuts3d: Callable[..., Ran], alone: Path, weights: Path):
    photos = alone / "in"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(PHOTO)
    (photos / "b.jpg").write_bytes(encoded(two_boxes(width=200, height=150).image))
    ran = cuts3d("pack", "in", "-o", "out", "--max-image-pixels", 10_000)
    assert ran.code == 3
    assert "b: the image has 200x150 pixels, more than 10000" in ran.err
    base = alone / "out/in-000.tar"
    assert load_manifest(manifest_path(base)).config["run"] == {"max_image_pixels": 10_000}
    assert cuts3d("pack", "in", "-o", "out", "--if-exists", "replace").code == 0
    assert "run" not in load_manifest(manifest_path(base)).config
    features = ("features", "--backbone", "dino-vits16", "--size", "32", "--weights", weights, "--device", "cpu", base)
    assert cuts3d(*features, "--max-image-pixels", 10_000).code == 3
    assert cuts3d(*features, "--if-exists", "replace").code == 0
    assert cuts3d("viz", "in/b.jpg", "--max-image-pixels", 10_000).code == 1
    assert cuts3d(*features, "--max-image-pixels", 10**10).code == 2


@pytest.mark.skipif(sys.platform != "linux", reason="this system does not limit a process's memory")
def test_what_says_it_is_large_takes_no_memory(alone: Path):
    """Everything at once, with half a gigabyte to live in, numpy and all."""
    depths = {"jpg": PHOTO, "json": b"{}"}
    samples = {
        "a": {**depths, "sensor.npy": npy_bomb()},
        "b": {**depths, "sensor.png": png_bomb(10**6)},
        "c": {"png": png_bomb(50_000), "json": b"{}"},
        "d": {"jpg": jpeg_bomb(), "json": b"{}"},
    }
    base = write_shard(alone / "s-000.tar", samples)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (1 << 29, 1 << 29));"
        "from cuts3d_cli.cli.app import exit_code; sys.exit(exit_code(sys.argv[1:]))"
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)

    ran = run("depth", "--backend", "sensor", str(base))
    assert ran.returncode == 3, ran.stderr
    reasons = {item["key"]: item["reason"] for item in load_manifest(manifest_path(sidecar(base, "depth"))).failed}
    assert "it is cut off: float32 of shape (1000000, 1000000)" in reasons["a"]
    ran = run("verify", str(base))
    assert ran.returncode == 1
    assert len([line for line in ran.stdout.splitlines() if line.startswith(f"{base}: ")]) >= 4
    write(base, [("a.jpg", PHOTO), ("b.jpg", PHOTO)], size=10 << 30)
    os.truncate(base, 11 << 30)  # the member is there, as a hole
    ran = run("depth", "--backend", "sensor", str(base), "--if-exists", "overwrite")
    assert ran.returncode == 1
    assert f"cuts3d: {base}: member 'b.jpg' has 10737418240 bytes, more than 2147483648" in ran.stderr
