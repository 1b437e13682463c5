"""Rectangular masks and COCO files made in code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cuts3d_cli.cut.masks import Rle, encode_rle
from cuts3d_cli.evaluation.metrics import Instance, Prediction

HEIGHT, WIDTH = 200, 300


def rectangle(x: int, y: int, width: int, height: int, *, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Rle:
    mask = np.zeros(size, dtype=bool)
    mask[y : y + height, x : x + width] = True
    return encode_rle(mask)


def instance(x: int, y: int, width: int, height: int, *, crowd: bool = False) -> Instance:
    return Instance.of_mask(rectangle(x, y, width, height), crowd=crowd)


def prediction(x: int, y: int, width: int, height: int, *, score: float = 1.0) -> Prediction:
    return Prediction.of_mask(rectangle(x, y, width, height), score=score)


def image(number: int, file: str, *, width: int = WIDTH, height: int = HEIGHT) -> dict[str, Any]:
    return {"id": number, "file_name": file, "width": width, "height": height}


def annotation(number: int, of: int, box: Sequence[float], **more: Any) -> dict[str, Any]:
    """An annotation with a box and a polygon around it; what is None in `more` is left out."""
    x, y, width, height = box
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    values = {
        "id": number,
        "image_id": of,
        "category_id": 1,
        "bbox": list(box),
        "area": width * height,
        "iscrowd": 0,
        "segmentation": [corners],
    } | more
    return {name: value for name, value in values.items() if value is not None}


def coco_file(path: Path, images: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]], **more: Any) -> Path:
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fg"}], **more}
    path.write_text(json.dumps(content))
    return path
