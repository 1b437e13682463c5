"""Photos of the benchmarks, and sets of them on disk, made in code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.data import Photo
from cuts3d_cli.cut.masks import encode_rle
from scenes.files import coco_instance
from tests.support.photos import encoded, two_boxes


def photo_of(seed: int, *, name: str = "mosd", with_depth: bool = True) -> Photo:
    """NAME/SEED: two boxes that touch, with their masks."""
    scene = two_boxes(seed=seed)
    metres = np.where(scene.depth > 0, scene.depth / 1000, np.nan).astype(np.float32)
    return Photo(
        name=f"{name}/{seed}",
        image=Image.fromarray(scene.image),
        metres=metres if with_depth else None,
        instances=[coco_instance(box) for box in scene.boxes],
    )


def write_set(folder: Path, name: str, count: int, *, with_depth: bool = True) -> None:
    """A set of `count` photos of two boxes in folder/NAME."""
    (folder / name / "images").mkdir(parents=True)
    (folder / name / "depth").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        scene = two_boxes(seed=number)
        (folder / name / f"images/p{number}.png").write_bytes(encoded(scene.image, "PNG"))
        if with_depth:
            (folder / name / f"depth/p{number}.png").write_bytes(encoded(scene.depth, "PNG"))
        images.append({"id": number, "file_name": f"p{number}.png", "width": 80, "height": 60})
        for box in scene.boxes:
            code = encode_rle(box)
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            annotations.append({**place, "segmentation": code})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fg"}]}
    (folder / name / "annotations.json").write_text(json.dumps(content))
