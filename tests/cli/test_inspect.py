from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cuts3d_cli.cli.console import stdout
from cuts3d_cli.cli.inspect import describe
from cuts3d_cli.config import PAPER, PRESETS, as_dict
from cuts3d_cli.shards.manifest import Manifest, digest_file, load_manifest, save_manifest
from cuts3d_cli.shards.names import manifest_path
from tests.support.photos import encoded, two_boxes, write_shard
from tests.support.running import Ran


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def huge_png() -> bytes:
    """The first bytes of a PNG that says it is 60000 pixels wide and high."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("jpg", encoded(two_boxes(80, 60).image), "80x60 RGB, "),
        ("depth.png", encoded(two_boxes(80, 60).depth, "PNG"), "80x60 I;16, "),
        ("features.npy", npy(np.zeros((384, 4, 4), np.float16)), "float16 (384, 4, 4), "),
        ("json", b'{"id": 1}', '{"id": 1}'),
        ("json", b'{"instances": [1]}', '{"instances": [1]}'),
        ("json", json.dumps(["x" * 300]).encode(), "..."),
        ("txt", b"12345", "5 bytes"),
        ("pseudo.json", b'{"instances": [], "dropped": [], "stopped": null}', "0 masks"),
        (
            "pseudo.json",
            json.dumps(
                {
                    "instances": [{"area": 1200}, {"area": 7}],
                    "dropped": [{"iteration": 2, "reason": "too small"}],
                    "stopped": "all is cut",
                }
            ).encode(),
            "2 masks (1,200 px, 7 px), dropped: iteration 3 too small, stopped: all is cut",
        ),
    ],
)
def test_members_are_described(name: str, data: bytes, said: str):
    assert said in describe(name, data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("jpg", b""),
        ("png", b"no image"),
        ("png", huge_png()),
        ("features.npy", b""),
        ("features.npy", b"no array"),
        ("features.npy", npy(np.array([{}], dtype=object))),
        ("json", b"{"),
        ("json", b"\xff"),
        ("pseudo.json", b"{}"),
        ("pseudo.json", b'{"instances": [{}], "dropped": []}'),
    ],
)
def test_damaged_members_are_said_to_be(name: str, data: bytes):
    assert describe(name, data).startswith(f"{len(data):,} bytes, damaged: ")


def test_iterations_are_counted_as_in_pictures_and_in_json_as_stored(cuts3d: Callable[..., Ran], alone: Path):
    record = {"instances": [], "dropped": [{"iteration": 0, "reason": "too small"}], "stopped": None}
    write_shard(alone / "x.pseudo.tar", {"a": {"pseudo.json": json.dumps(record).encode()}})
    assert "dropped: iteration 1 too small" in cuts3d("inspect", "x.pseudo.tar").out
    (sample,) = json.loads(cuts3d("inspect", "x.pseudo.tar", "--json").out)["samples"]
    assert sample["members"]["pseudo.json"].endswith("dropped: iteration 0 too small")


def pseudo_sidecar(folder: Path) -> Path:
    """A sidecar of masks with the manifest of a run with preset objects."""
    record = {"instances": [{"area": 1234}] * 9, "dropped": [], "stopped": "all is cut"}
    tar = folder / "x.pseudo.tar"
    write_shard(tar, {f"a-{n}": {"pseudo.json": json.dumps(record).encode()} for n in range(3)})
    manifest = Manifest(
        stage="pseudo",
        config={"pseudo": as_dict(PRESETS["objects"].pseudo), "features": as_dict(PAPER.features)},
        inputs={"base": replace(digest_file(tar), file="x.tar"), "depth": digest_file(tar)},
        counts={"samples_in": 3, "samples_out": 3, "failed": 0},
        failed=[{"key": "photo", "reason": "the depth map is empty"}],
        sha256=digest_file(tar).sha256,
        size=tar.stat().st_size,
    )
    save_manifest(manifest_path(tar), manifest)
    return tar


def test_no_value_is_lost_at_any_width(cuts3d: Callable[..., Ran], alone: Path, monkeypatch: pytest.MonkeyPatch):
    tar = pseudo_sidecar(alone)
    words: dict[int, list[str]] = {}
    for width in (1000, *range(40, 121)):
        monkeypatch.setattr(stdout, "_width", width)
        shown = cuts3d("inspect", tar).out
        words[width] = sorted(word for word in shown.split() if word[0] not in "┏┡├└┌┃│")
        boxed = [line for line in shown.splitlines() if line[0] in "┏┡├└┌┃│"]
        assert all(len(line) <= width for line in boxed), width
    assert {"concavity", "0.03,", load_manifest(manifest_path(tar)).sha256} <= set(words[1000])
    assert {width for width, found in words.items() if found != words[1000]} == set()


def test_a_folder_is_called_one(cuts3d: Callable[..., Ran], shards: list[Path]):
    ran = cuts3d("inspect", shards[0].parent)
    assert ran.code == 1
    said = f"{shards[0].parent} is a folder: name one shard, sidecar or manifest, such as {shards[0]}"
    assert ran.line == f"cuts3d: {said}"
    Path("empty").mkdir()
    assert cuts3d("inspect", "empty").line.endswith("manifest, of which it has none")
    assert cuts3d("inspect", "gone").line == "cuts3d: gone: no such file"


def test_a_shard_and_its_manifest(cuts3d: Callable[..., Ran], shards: list[Path]):
    shown = cuts3d("inspect", shards[0])
    assert shown.code == 0
    for words in ("stage pack", "samples_in 2", "p0", "80x60 RGB", "sensor.png", "80x60 I;16", '"source": "p0.jpg"'):
        assert words in shown.out
    assert "the first 1 sample" in cuts3d("inspect", shards[0], "--limit", 1).out
    shown = cuts3d("inspect", shards[0].with_suffix(".depth.tar"))
    for words in ("stage depth", "backend sensor", "made from: base", "s-000.tar, sha256 ", "depth.png", "metre"):
        assert words in shown.out
    assert "stage depth" in cuts3d("inspect", shards[0].with_suffix(".depth.json")).out


def test_json(cuts3d: Callable[..., Ran], shards: list[Path]):
    content = json.loads(cuts3d("inspect", shards[0].with_suffix(".depth.tar"), "--json").out)
    assert (content["stage"], [item["key"] for item in content["samples"]]) == ("depth", ["p0", "p1"])
    assert content["manifest"]["counts"]["samples_out"] == 2
    manifest = json.loads(cuts3d("inspect", shards[0].with_suffix(".json"), "--json").out)
    assert (manifest["stage"], manifest["counts"]["samples_out"]) == ("pack", 2)


def test_a_shard_of_another_program(cuts3d: Callable[..., Ran], alone: Path):
    write_shard(alone / "x.tar", {"a": {"jpg": b"torn", "cls": b"3"}})
    shown = cuts3d("inspect", "x.tar")
    assert shown.code == 0
    assert "x.tar: no manifest beside it" in shown.out
    assert "4 bytes, damaged" in shown.out
    Path("x.json").write_text('{"images": []}')
    shown = cuts3d("inspect", "x.tar")
    assert shown.code == 0
    assert "x.tar: its manifest cannot be read: " in shown.out
    assert json.loads(cuts3d("inspect", "x.tar", "--json").out)["manifest"] is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.json", b'{"images": []}', "x.json is no manifest"),
        ("x.json", b"{", "x.json is no manifest"),
        ("x.jpg", b"", "x.jpg is neither a shard (.tar) nor a manifest (.json)"),
        ("x.tar", b"", "x.tar is empty"),
        ("x.tar", b"no tar" * 300, "x.tar"),
    ],
)
def test_what_it_cannot_show_is_told_in_a_line(
    cuts3d: Callable[..., Ran], alone: Path, name: str, content: bytes, said: str
):
    (alone / name).write_bytes(content)
    ran = cuts3d("inspect", name)
    assert ran.code == 1
    assert said in ran.line
