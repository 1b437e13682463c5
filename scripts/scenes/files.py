"""Rendered scenes as files: photos, depth maps in millimetres, and masks as a COCO JSON."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from scenes.layout import Kind, render_scene

MILLIMETRES = 1000


def write_scenes(
    folder: str | Path,
    *,
    count: int,
    seed: int,
    kind: Kind | Literal["both"] = "touching",
    objects: int | None = None,
    height: int = 480,
    width: int = 640,
    workers: int = 1,
) -> Path:
    """Render scenes into a folder as photos, depth maps and COCO masks.

    Args:
        folder: created if missing; existing files of the same names are replaced.
        count: number of scenes; scene i has the seed `seed` + i.
        seed: of the first scene.
        kind: a kind of `render_scene`; "both" takes both kinds in turn.
        objects: objects per scene; None takes 3, 4, 5, 3, ... in turn.
        height: of the images, pixels.
        width: of the images, pixels.
        workers: processes that render; the files do not depend on it.

    Returns:
        The path of annotations.json. Its masks are compressed RLE, ids count from 1.

    Raises:
        ValueError: an argument is out of range.
    """
    folder = Path(folder)
    for part in ("images", "depth"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    kinds = get_args(Kind) if kind == "both" else (kind,)
    names = [f"{index:03d}.png" for index in range(count)]
    with ProcessPoolExecutor(max_workers=workers) as pool:
        masks = pool.map(
            functools.partial(_write_scene, folder, height=height, width=width),
            names,
            [seed + index for index in range(count)],
            [kinds[index % len(kinds)] for index in range(count)],
            [objects if objects is not None else 3 + index % 3 for index in range(count)],
        )
        path = folder / "annotations.json"
        write_coco(path, [(name, (height, width), found) for name, found in zip(names, masks, strict=True)])
    return path


def write_photo(folder: Path, name: str, image: NDArray[np.uint8], metres: NDArray[np.floating[Any]]) -> None:
    """Write a photo and its depth map as images/NAME and depth/NAME.

    Args:
        folder: has both subfolders.
        name: ends with .png.
        image: (h, w, 3) uint8, RGB.
        metres: (h, w), stored as uint16 millimetres; what is not finite becomes 0, no measurement.
    """
    Image.fromarray(image).save(folder / "images" / name)
    write_depth(folder / "depth" / name, metres)


def write_depth(path: Path, metres: NDArray[np.floating[Any]]) -> None:
    """Write a depth map as a PNG of uint16 millimetres.

    Args:
        path: ends with .png.
        metres: (h, w); what is not finite becomes 0, no measurement.
    """
    millimetres = np.rint(np.nan_to_num(metres, nan=0.0, posinf=0.0, neginf=0.0) * MILLIMETRES)
    Image.fromarray(np.clip(millimetres, 0, 65535).astype(np.uint16)).save(path)


def coco_instance(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Describe a mask as COCO does.

    Args:
        mask: (h, w) bool.

    Returns:
        Its area in pixels, its bounding box (x, y, width, height) and its compressed RLE.
    """
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "area": int(coco_mask.area(code)),
        "bbox": [float(value) for value in coco_mask.toBbox(code)],
        "segmentation": {"size": list(mask.shape), "counts": code["counts"].decode("ascii")},
    }


def write_coco(path: Path, photos: Iterable[tuple[str, tuple[int, int], Sequence[Mapping[str, Any]]]]) -> None:
    """Write a COCO JSON with one category.

    Args:
        path: replaced if it exists.
        photos: file name, (height, width) and instances, as of `coco_instance`, of each photo.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, (height, width), instances) in enumerate(photos, start=1):
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        annotations += [
            {"id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0, **instance}
            for number, instance in enumerate(instances, start=len(annotations) + 1)
        ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fg"}]}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _write_scene(
    folder: Path, name: str, seed: int, kind: Kind, objects: int, *, height: int, width: int
) -> list[dict[str, Any]]:
    """Render one scene into two files. Returns its instances as COCO describes them."""
    scene = render_scene(seed, height=height, width=width, kind=kind, objects=objects)
    write_photo(folder, name, scene.image, scene.depth)
    return [coco_instance(scene.instances == instance) for instance in range(1, objects + 1)]
