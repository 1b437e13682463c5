"""Small shards with all their sidecars, made once and held in memory, so that each case can begin with them."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import Config, output_dict, resolve
from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars import detections, features
from cuts3d_cli.sidecars.detections import StoredDetections
from cuts3d_cli.sidecars.features import StoredFeatures
from cuts3d_cli.sidecars.masks import StoredMask
from cuts3d_cli.stages import confidence, depth, merge, pack, pseudo
from scenes.files import write_photo

HEIGHT, WIDTH = 48, 64
GRID = 14
TRUTH = "truth.json"
OLDER = "older"
"""Folder of masks that were cut with other settings."""
SHARDS = ("a-000.tar", "a-001.tar")
"""The base shards that are read. Beside them lies `b-000.tar`, with the same keys as `a-000.tar`."""
_RECORD = 20 * tarfile.BLOCKSIZE


def settings(**changes: Any) -> Config:
    """Return a configuration in which everything is quick, and redone where it exists."""
    sections: dict[str, dict[str, Any]] = {
        "depth": {"backend": "sensor"},
        "features": {"backbone": "dino-vits16", "size": 16 * GRID},
        "pseudo": {"crf": False, "tau_knn": 0.2, "instances": 2, **changes},
        "confidence": {"tau_knn_min": 0.12, "cuts": 2},
        "run": {"workers": 0, "device": "cpu", "if_exists": "overwrite"},
    }
    return resolve(overrides=sections, environment={}, folder=Path(os.devnull))


class ShardFolder:
    """A folder of shards that can be changed and put back.

    Attributes:
        folder: it.
        files: name -> content and time of the last change, nanoseconds, of every file as it must be.
        touched: names of the files that were changed since it was put back.
    """

    def __init__(self, folder: Path) -> None:
        """Make the shards."""
        self.folder = folder
        self.files: dict[str, tuple[bytes, int]] = {}
        self.touched: list[str] = []
        folder.mkdir()
        _make(folder)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.files[str(path.relative_to(folder))] = (path.read_bytes(), path.stat().st_mtime_ns)

    @property
    def bases(self) -> list[Path]:
        """The base shards that are read."""
        return [self.folder / name for name in SHARDS]

    def sidecars(self, base: str = "") -> list[str]:
        """Return the names of the sidecars of a base shard, or of all."""
        stem = base.removesuffix(".tar")
        return [name for name in self.files if name.endswith(".tar") and name.count(".") > 1 and name.startswith(stem)]

    def put(self, name: str, content: bytes, *, time: int | None = None) -> None:
        """Write a file, with the time of another one as `cp -p` does, or with the present one."""
        path = self.folder / name
        path.write_bytes(content)
        if time is not None:
            os.utime(path, ns=(time, time))
        self.touched.append(name)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.folder / name).unlink(missing_ok=True)
        self.touched.append(name)

    def restore(self) -> None:
        """Put everything back as it was."""
        there = {str(path.relative_to(self.folder)): path for path in self.folder.rglob("*") if path.is_file()}
        for name in there.keys() - self.files.keys():
            there[name].unlink()
        for name, (content, time) in self.files.items():
            if name in self.touched or name not in there or there[name].stat().st_mtime_ns != time:
                self.put(name, content, time=time)
        self.touched.clear()


def read_members(content: bytes) -> dict[str, dict[str, bytes]]:
    """Read a tar: key -> extension -> content."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for info in tar:
            key, _, extension = info.name.partition(".")
            file = tar.extractfile(info)
            assert file is not None, "a shard holds plain files"
            found.setdefault(key, {})[extension] = file.read()
    return found


def write_members(samples: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """Write a tar as the package writes them, but whatever its samples are, and in whatever order."""
    blocks = b""
    for key, members in samples.items():
        for extension, data in members.items():
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(data)
            blocks += (
                info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict") + data + b"\0" * (-len(data) % tarfile.BLOCKSIZE)
            )
    blocks += bytes(2 * tarfile.BLOCKSIZE)
    return blocks + bytes(-len(blocks) % _RECORD)


def _make(folder: Path) -> None:
    """Pack photos, and run every stage on them; what needs a network gets made-up results."""
    # Photos of two boxes before a wall, and their ground truth. Both sets have the same names.
    source = folder.with_name(f"{folder.name}-photos")
    for name, numbers in (("a", range(4)), ("b", range(4, 6))):
        root = source / name
        for part in ("images", "depth"):
            (root / part).mkdir(parents=True)
        for place, number in enumerate(numbers):
            image, metres = _scene(number)
            write_photo(root, f"p{place}.png", image, metres)
    (folder / TRUTH).write_text(json.dumps(ground_truth()))

    # The stages, in their order.
    config = settings()
    for name in ("a", "b"):
        packing = pack.Packing(
            source=source / name / "images", out=folder, name=name, depth_dir=source / name / "depth"
        )
        pack.run(packing, config=resolve(overrides={"pack": {"shard_size": 2}}, environment={}, folder=folder))
    bases = sorted(folder.glob("?-000.tar")) + sorted(folder.glob("a-001.tar"))
    (folder / "checkpoint").write_bytes(b"weights")
    depth.run(bases, config=config)
    _store(bases, "features", _features, {"features": {"backbone": "dino-vits16", "size": 16 * GRID}}, folder)
    pseudo.run(bases, config=settings(tau_knn=0.3))
    (folder / OLDER).mkdir()
    for path in folder.glob("*.pseudo.*"):
        path.rename(folder / OLDER / path.name)
    pseudo.run(bases, config=config)
    confidence.run(bases, config=config)
    for stage in ("predict", "predict.initial"):
        _store(bases, stage, _predictions, {"predict": output_dict(config.predict)}, folder)
    merge.run(bases, config=config, round=1)


def _store(bases: list[Path], stage: str, members: Any, config: Mapping[str, Any], folder: Path) -> None:
    def outcomes(base: Path) -> Iterator[Outcome]:
        for place, sample in enumerate(read_shard(base)):
            yield Outcome(
                key=sample.key, members=members(len(base.name) + ord(base.name[0]) * 7 + place + ord(base.name[4]))
            )

    inputs = {"checkpoint": folder / "checkpoint"} if stage.startswith("predict") else {}
    run_shards(
        bases,
        stage=stage,
        config=config,
        inputs=lambda base: {"base": base, **inputs},
        outcomes=outcomes,
        if_exists="overwrite",
    )


def _scene(number: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    rng = np.random.default_rng(number)
    image = rng.integers(40, 90, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    metres = np.full((HEIGHT, WIDTH), 2.0, dtype=np.float32)
    top, left = 8 + number, 10 + 3 * number
    image[top : top + 24, left : left + 22] += 120
    metres[top : top + 24, left : left + 11], metres[top : top + 24, left + 11 : left + 22] = 1.0, 1.5
    return image, metres


def _features(seed: int) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    found = rng.normal(0, 0.05, (8, GRID, GRID))
    found[0] += 1
    found[0, 3:10, 3 + seed % 3 : 10] -= 1
    found[1, 3:10, 3 + seed % 3 : 10] += 1
    stored = StoredFeatures(features=found.astype(np.float16), backbone="dino-vits16", size=16 * GRID, tensor="keys")
    return features.encode(stored)


def _predictions(seed: int) -> dict[str, bytes]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[8 : 28 + seed % 5, 10 + seed % 7 : 32] = True
    found = StoredMask.of(encode_rle(mask))
    scored = StoredMask(segmentation=found.segmentation, box=found.box, area=found.area, score=0.5 + seed % 40 / 100)
    return detections.encode(StoredDetections(size=(HEIGHT, WIDTH), instances=[scored]))


def ground_truth() -> dict[str, Any]:
    """Return the COCO JSON of the photos: two boxes each."""
    boxes = [[10 + 3 * number + 11 * part, 8 + number, 11, 24] for number in range(4) for part in range(2)]
    return {
        "images": [{"id": n + 1, "file_name": f"p{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(4)],
        "annotations": [
            {
                "id": place + 1,
                "image_id": place // 2 + 1,
                "category_id": 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": [_corners(box)],
            }
            for place, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }


def _corners(box: list[int]) -> list[int]:
    left, top, width, height = box
    return [left, top, left + width, top, left + width, top + height, left, top + height]
