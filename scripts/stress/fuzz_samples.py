"""Valid inputs of all kinds, which the fuzzing damages."""

from __future__ import annotations

import functools
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cuts3d_cli.config import resolve
from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.shards.manifest import Manifest, save_manifest
from cuts3d_cli.sidecars import photos
from cuts3d_cli.sidecars.depth import encode_depth_png

HEIGHT, WIDTH = 24, 32
RECIPE = """preset = "tiny"

[recipe]
photos = "photos"
depth_dir = "maps"
name = "boxes"
out = "out"
gpus = 1

[recipe.evaluate.val]
ground_truth = "truth.json"
photos = "photos"
pseudo = true

[pack]
shard_size = 3
depth_scale = 0.001

[depth]
backend = "sensor"

[pseudo]
tau_knn = 0.15
crf = false

[train]
max_iter = 3
min_sizes = [ 48, 64 ]

[selftrain]
score_thresholds = [ 0.0 ]
rounds = 2

[run]
workers = 0
device = "cpu"
"""
CLAIM = {"owner": "0123456789-12-34", "host": "here", "token": "0123456789abcdef", "beat": 15.0}
JOURNAL: list[dict[str, Any]] = [
    {
        "photo": [f"{name}.jpg", 1000, 5, WIDTH, HEIGHT, True],
        "scores": [0.5, 0.25],
        "boxes": [[1.0, 2.0, 9.0, 8.0], [0.0, 0.0, 3.5, 3.0]],
        "masks": ["0", "0"],
    }
    for name in ("a", "b")
]


@functools.cache
def tars() -> list[bytes]:
    """Return tars of two samples and a long name, in all formats, without padding."""
    tars = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
            for key in ("a", "x/b", "c" * 80 + ("/" + "d" * 40 if kind != tarfile.USTAR_FORMAT else "")):
                for extension in ("depth.json", "depth.png"):
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = 700 if extension == "depth.png" else 3
                    tar.addfile(info, io.BytesIO(b"{}\n" if info.size == 3 else bytes(700)))
        # Without the padding to a whole record, damage more often hits what matters.
        tars.append(buffer.getvalue()[: tar.offset + 1024])
    return tars


@functools.cache
def manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a depth sidecar in a folder."""
    tar = folder / "m-000.depth.tar"
    values = Manifest(
        stage="depth",
        config={"depth": {"backend": "sensor"}},
        inputs={},
        counts={"samples_in": 2, "samples_out": 1, "failed": 1},
        failed=[{"key": "a", "reason": "why"}],
        sha256="0" * 64,
        size=tar.stat().st_size,
    )
    path = tar.with_suffix(".json")
    save_manifest(path, values)
    content: dict[str, Any] = json.loads(path.read_text())
    digest = {"file": "m-000.tar", "size": 7, "mtime_ns": 5, "sha256": "1" * 64}
    return content | {"inputs": {"base": digest}}


@functools.cache
def records() -> dict[str, dict[str, Any]]:
    """Return the JSON members of all kinds of sidecars, and of a base shard, by extension."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[3:9, 4:20] = True
    code, small = encode_rle(mask), encode_rle(mask[:12, :16])
    box = [4.0, 3.0, 16.0, 6.0]
    instance = {"segmentation": code, "bbox": box, "area": 96, "iteration": 0, "crf_iou": 0.9, "source": [3, 4]}
    instance |= {"patch_mask": small, "bipartition": small, "sink": None}
    size = {"height": HEIGHT, "width": WIDTH}
    return {
        photos.FACTS: {"id": 1, "source": "a.jpg", **size, "depth": {"scale": 0.001, "unit": "metre"}},
        "depth.json": {
            **size,
            **{"min": 0.5, "max": 2.5, "unit": "metre", "direction": "distance"},
            **{"conversion": "none", "backend": "sensor", "model": "sensor"},
        },
        "features.json": {"backbone": "dino-vits16", "size": 224, "tensor": "keys"},
        "pseudo.json": {
            **size,
            **{"method": "cuts3d", "grid": [12, 16], "stopped": None},
            "dropped": [{"iteration": 1, "reason": "too small"}],
            "instances": [instance, instance],
        },
        "predict.json": {**size, "instances": [{"segmentation": code, "bbox": box, "area": 96, "score": 0.5}]},
        "confidence.json": {"source": "depth", "levels": 6, "floor": 0.5, "scores": [0.5, 1.0]},
    }


@functools.cache
def members() -> dict[str, bytes]:
    """Return the members of all kinds of sidecars, and of a base shard, by extension."""
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    members = {name: json.dumps(value).encode() for name, value in records().items()}
    for name, kind in (("jpg", "JPEG"), ("other.png", "PNG"), ("other.webp", "WEBP")):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        members[name] = buffer.getvalue()
    members["depth.png"] = encode_depth_png(pixels[..., 0].astype(np.float32) / np.float32(255))
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "features.npy": np.zeros((4, 3, 5), np.float16),
        "confidence.npy": np.ones((2, 12, 16), np.uint8),
        "sensor.npy": np.ones((HEIGHT, WIDTH), np.float32),
    }
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        members[name] = buffer.getvalue()
    return members


@functools.cache
def coco() -> dict[str, Any]:
    """Return a COCO JSON with masks of all forms, the last annotation without one."""
    outline = [2, 2, 12, 2, 12.5, 9, 2, 9]
    code = encode_rle(np.ones((HEIGHT, WIDTH), dtype=bool))
    segmentations: list[Any] = [
        [outline, outline],
        {"size": [HEIGHT, WIDTH], "counts": [5, 7, HEIGHT * WIDTH - 12]},
        code,
        None,
    ]
    return {
        "info": {"description": "made"},
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "coco_url": f"http://x/val/{n}.jpg", "width": WIDTH, "height": HEIGHT}
            for n in (1, 2)
        ],
        "annotations": [
            {
                "id": n,
                "image_id": 1 + n % 2,
                "category_id": 1,
                "bbox": [2, 2, 10, 7],
                "area": 70,
                "iscrowd": int(n == 2),
                "segmentation": segmentation,
            }
            for n, segmentation in enumerate(segmentations, start=1)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }


def base_members() -> dict[str, bytes]:
    """Return the members of a sample of a base shard with a sensor's map."""
    known = members()
    return {"jpg": known["jpg"], photos.FACTS: known[photos.FACTS], "sensor.png": depth_files()["depth.png"]}


@functools.cache
def depth_files() -> dict[str, bytes]:
    """Return a depth map as a file of each kind that is read."""
    millimetres = np.full((HEIGHT, WIDTH), 1500, dtype=np.uint16)
    millimetres[:9] = 900
    millimetres[0, :5] = 0
    metres = millimetres.astype(np.float32) / 1000
    found = {}
    for name, kind, values in (("depth.png", "PNG", millimetres), ("depth.tiff", "TIFF", metres)):
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, kind)
        found[name] = buffer.getvalue()
    for name, values in (("depth.npy", metres), ("whole.npy", millimetres)):
        buffer = io.BytesIO()
        np.save(buffer, values)
        found[name] = buffer.getvalue()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, depth=metres)
    return {
        **found,
        "depth.npz": buffer.getvalue(),
        "depth.pfm": b"Pf\n%d %d\n-1.0\n" % (WIDTH, HEIGHT) + metres.tobytes(),
    }


@functools.cache
def foreign_files() -> dict[str, bytes]:
    """Return what downloads and other programs leave under the names of photos and maps."""
    found = {
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\n%%EndComments\nshowpage\n",
        "pdf": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
        "empty": b"",
    }
    pixels = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    for kind in ("GIF", "BMP", "TIFF", "PPM", "ICO"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        found[kind] = buffer.getvalue()
    return found


@functools.cache
def detector() -> tuple[dict[str, Any], Any]:
    """Return weights by name, and the configuration of a detector."""
    config = resolve(preset="tiny", environment={}, folder=Path("/nonexistent")).train
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(3, 4)).astype(np.float32) for name in ("backbone.a", "head.b")}, config


@functools.cache
def detector_files() -> dict[str, bytes]:
    """Return the files of a training: a checkpoint, and the final weights."""
    import torch

    from cuts3d_cli.config import as_dict
    from cuts3d_cli.detector.checkpoints import save_checkpoint, save_weights
    from cuts3d_cli.detector.task import plain

    weights, config = detector()
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_checkpoint(
            folder / "checkpoint-0000002.pth", {"model": state, "config": plain(as_dict(config)), "iteration": 2}
        )
        save_weights(folder / "model-final.safetensors", state, config=config)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
