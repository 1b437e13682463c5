"""Input of the demo: rendered scenes, an RGB-D photo with instance masks from imgviz, photos from scikit-image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imgviz
import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from scenes.layout import render_scene

SCENE_SEEDS = (0, 1, 2, 3)
"""Touching objects that look alike: 15 of them."""
MAX_METRES = 1.2
"""All of the tote is nearer than this; the few values that its sensor reports beyond, up to 79 m, are noise."""


def write_rgbd(folder: Path) -> dict[str, list[str]]:
    """Write the photos that have depth, their depth maps, and one COCO JSON of those with instance masks.

    Args:
        folder: gets images/, depth/ (uint16, millimetres, 0 is no measurement) and annotations.json.

    Returns:
        Names of the photos by group: "rendered", "tote" (both with masks) and "motorcycle".
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "depth").mkdir(exist_ok=True)
    groups: dict[str, list[str]] = {"rendered": [], "tote": ["tote"], "motorcycle": ["motorcycle"]}
    masks: dict[str, list[NDArray[np.bool_]]] = {}
    for seed in SCENE_SEEDS:
        name = f"rendered-{seed}"
        scene = render_scene(seed)
        _write(folder, name, scene.image, scene.depth)
        masks[name] = [scene.instances == number for number in np.unique(scene.instances) if number != 0]
        groups["rendered"].append(name)

    tote = imgviz.data.arc2017()
    depth = np.where(tote["depth"] > MAX_METRES, np.nan, tote["depth"])
    _write(folder, "tote", tote["rgb"], depth)
    masks["tote"] = [mask == 1 for mask in tote["masks"]]  # 2 marks what is hidden behind others

    data = Path(skimage.__file__).parent / "data"
    left = np.asarray(Image.open(data / "motorcycle_left.png").convert("RGB"))
    with np.load(data / "motorcycle_disp.npz", allow_pickle=False) as file:
        disparity = file["arr_0"].astype(np.float64)
    # Middlebury 2014, "Motorcycle", at a quarter of its size: Z = baseline * focal length / (disparity + doffs).
    valid = np.isfinite(disparity) & (disparity > 0)
    metres = np.full(disparity.shape, np.nan)
    metres[valid] = 0.193001 * 994.978 / (disparity[valid] + 31.086)
    _write(folder, "motorcycle", left, metres)

    (folder / "annotations.json").write_text(json.dumps(_coco(folder, masks)), encoding="utf-8")
    return groups


def write_photos(folder: Path) -> list[Path]:
    """Write photos without depth. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data = Path(skimage.__file__).parent / "data"
    paths = []
    for name in ("chelsea", "coffee"):
        path = folder / f"{name}.png"
        path.write_bytes((data / f"{name}.png").read_bytes())
        paths.append(path)
    return paths


def _write(folder: Path, name: str, image: NDArray[np.uint8], metres: NDArray[np.floating]) -> None:
    Image.fromarray(image).save(folder / "images" / f"{name}.png")
    millimetres = np.rint(np.nan_to_num(metres, nan=0.0, posinf=0.0, neginf=0.0) * 1000)
    Image.fromarray(np.clip(millimetres, 0, 65535).astype(np.uint16)).save(folder / "depth" / f"{name}.png")


def _coco(folder: Path, masks: dict[str, list[NDArray[np.bool_]]]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, instances) in enumerate(masks.items(), start=1):
        with Image.open(folder / "images" / f"{name}.png") as image:
            size = {"width": image.width, "height": image.height}
        images.append({"id": image_id, "file_name": f"{name}.png", **size})
        for mask in instances:
            code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": int(mask.sum()),
                    "bbox": [float(value) for value in coco_mask.toBbox(code)],
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
                }
            )
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fg"}]}
