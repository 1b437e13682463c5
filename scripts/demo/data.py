"""Input of the demo: rendered scenes, an RGB-D photo with instance masks from imgviz, photos from scikit-image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imgviz
import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image

from scenes import render_scene
from scenes.files import coco_instance, write_coco, write_photo

SCENE_SEEDS = (0, 1, 2, 3)
"""Scenes of touching look-alikes, with 16 objects in all."""
MAX_METRES = 1.2
"""The whole tote is nearer than this; the few values that its sensor reports beyond, up to 79 m, are noise."""


def write_rgbd(folder: Path, *, seeds: Sequence[int] = SCENE_SEEDS) -> dict[str, list[str]]:
    """Write the photos that have depth, their depth maps, and one COCO JSON of those with instance masks.

    Args:
        folder: receives images/, depth/ (uint16 millimetres, 0 is no measurement) and annotations.json.
        seeds: of the rendered scenes.

    Returns:
        Names of the photos by group: "rendered", "tote" (both with masks) and "motorcycle".
    """
    for part in ("images", "depth"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    masks: dict[str, list[NDArray[np.bool_]]] = {}

    # Rendered scenes.
    for seed in seeds:
        scene = render_scene(seed)
        write_photo(folder, f"rendered-{seed}.png", scene.image, scene.depth)
        numbers = np.unique(scene.instances)
        masks[f"rendered-{seed}"] = [scene.instances == number for number in numbers if number != 0]

    # A tote of objects by an RGB-D sensor, from the Amazon Robotics Challenge 2017.
    tote = imgviz.data.arc2017()
    write_photo(folder, "tote.png", tote["rgb"], np.where(tote["depth"] > MAX_METRES, np.nan, tote["depth"]))
    masks["tote"] = [mask == 1 for mask in tote["masks"]]  # 2 marks what is hidden behind other objects

    # A stereo photo with its disparity: Middlebury 2014, "Motorcycle", at a quarter of its size.
    data = Path(skimage.__file__).parent / "data"
    left = np.asarray(Image.open(data / "motorcycle_left.png").convert("RGB"))
    with np.load(data / "motorcycle_disp.npz", allow_pickle=False) as file:
        disparity = file["arr_0"].astype(np.float64)
    valid = np.isfinite(disparity) & (disparity > 0)
    metres = np.full(disparity.shape, np.nan)
    metres[valid] = 0.193001 * 994.978 / (disparity[valid] + 31.086)  # baseline * focal length / (disparity + doffs)
    write_photo(folder, "motorcycle.png", left, metres)

    photos = [
        (f"{name}.png", instances[0].shape, [coco_instance(mask) for mask in instances])
        for name, instances in masks.items()
    ]
    write_coco(folder / "annotations.json", photos)
    return {"rendered": [f"rendered-{seed}" for seed in seeds], "tote": ["tote"], "motorcycle": ["motorcycle"]}


def write_photos(folder: Path) -> list[Path]:
    """Write photos without depth into a folder. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data = Path(skimage.__file__).parent / "data"
    paths = []
    for name in ("chelsea", "coffee"):
        path = folder / f"{name}.png"
        path.write_bytes((data / f"{name}.png").read_bytes())
        paths.append(path)
    return paths
