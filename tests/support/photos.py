"""Photos, depth maps and shards made in code."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import Config, resolve
from cuts3d_cli.engine.results import StageResult
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.shards.writer import ShardWriter
from cuts3d_cli.stages import depth, pack


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Two red boxes that touch, at 1 m and 1.5 m, before a blue wall at 2 m.

    Attributes:
        image: (h, w, 3) uint8.
        depth: (h, w) uint16, millimetres, 0 (no measurement) in the top left corner.
        boxes: (h, w) bool each, left and right.
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    boxes: tuple[NDArray[np.bool_], NDArray[np.bool_]]


def two_boxes(width: int = 80, height: int = 60, *, seed: int = 0) -> Scene:
    left = np.zeros((height, width), dtype=bool)
    right = np.zeros((height, width), dtype=bool)
    left[height // 4 : 3 * height // 4, width // 5 : width // 2] = True
    right[height // 4 : 3 * height // 4, width // 2 : 4 * width // 5] = True
    image = np.where((left | right)[..., None], (200, 60, 40), (40, 90, 160))
    noise = np.random.default_rng(seed).normal(0, 8, image.shape)
    metres = np.where(left, 1000, np.where(right, 1500, 2000)).astype(np.uint16)
    metres[:3, :5] = 0
    return Scene(image=np.clip(image + noise, 0, 255).astype(np.uint8), depth=metres, boxes=(left, right))


def encoded(pixels: NDArray[Any], kind: str = "JPEG", *, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


def write_photos(folder: Path, count: int) -> Path:
    """`count` scenes, wide and tall by turns: folder/photos/pN.jpg and folder/maps/pN.png."""
    (folder / "photos").mkdir(parents=True)
    (folder / "maps").mkdir()
    for number in range(count):
        scene = scene_of(number)
        (folder / f"photos/p{number}.jpg").write_bytes(encoded(scene.image))
        (folder / f"maps/p{number}.png").write_bytes(encoded(scene.depth, "PNG"))
    return folder


def scene_of(number: int) -> Scene:
    """The scene of photo `pN`."""
    return two_boxes(*((70, 90) if number % 2 else (80, 60)), seed=number)


def packed(
    source: Path, out: Path, *, name: str = "s", depth_dir: Path | None = None, shard_size: int = 1000
) -> StageResult:
    """Shards out/s-000.tar, ... of a folder of photos, with sensor maps where they are given."""
    packing = pack.Packing(source=source, out=out, name=name, depth_dir=depth_dir)
    return pack.run(packing, config=settings({"pack": {"shard_size": shard_size}}))


def pack_photos(folder: Path, count: int, *, shard_size: int = 100, with_depth: bool = True) -> list[Path]:
    """Shards folder/s-000.tar, ... of `count` scenes with sensor maps, and their finished depth sidecars."""
    source = write_photos(folder / "source", count)
    result = packed(source / "photos", folder, depth_dir=source / "maps", shard_size=shard_size)
    bases = [item.shard for item in result.shards]
    if with_depth:
        depth.run(bases, config=settings({"depth": {"backend": "sensor"}}))
    return bases


def write_shard(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> Path:
    """A base shard of given members, bad ones too, which `pack` would leave out."""
    with ShardWriter(path) as writer:
        for key, members in samples.items():
            writer.write(key, members)
    return path


def settings(overrides: Mapping[str, Mapping[str, Any]], *, preset: str = "paper") -> Config:
    """A preset with some fields replaced, whatever the environment says."""
    return resolve(preset=preset, overrides=overrides, environment={}, folder=Path("/nonexistent"))


def records(tar: Path, extension: str) -> dict[str, dict[str, Any]]:
    """Key -> JSON member of a tar."""
    return {sample.key: json.loads(sample.members[extension]) for sample in read_shard(tar)}
