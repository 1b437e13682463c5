"""Rendered scenes as shards with pseudo-masks, by the commands of `cuts3d`: what small detectors are trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from scenes.files import MILLIMETRES, write_depth, write_scenes

FIRST_TRAIN, FIRST_TEST = 1000, 100_000
"""Seeds of the first scenes: no scene is in both sets."""
HEIGHT, WIDTH = 240, 320
"""Size of the images, pixels."""
CUTS = 5
"""Cuts per image: the scenes hold up to five objects."""
TAU_KNN = 0.06
"""For objects on a table; the paper's 0.115 is for whole scenes."""
SIZE = 518
"""Side of the image that the backbone sees, pixels."""

Command = Callable[..., str]
"""Runs one command of `cuts3d` and returns what it prints on stdout."""


def write_shards(
    out: Path, name: str, *, count: int, seed: int, cuts3d: Command, blur: float = 0.0, workers: int = 2
) -> Path:
    """Render scenes and pack them with their depth.

    Args:
        out: receives NAME/ with images, depth and annotations.json, and NAME-shards/.
        name: of the set.
        count: number of scenes.
        seed: of the first scene.
        cuts3d: runs one command.
        blur: sigma of a Gaussian over the depth maps, pixels, to smear edges as a monocular depth network does.
        workers: processes that render.

    Returns:
        The folder of the shards.
    """
    write_scenes(out / name, count=count, seed=seed, kind="both", height=HEIGHT, width=WIDTH, workers=workers)
    if blur:
        for path in sorted((out / name / "depth").glob("*.png")):
            millimetres = gaussian_filter(np.asarray(Image.open(path), dtype=np.float64), blur)
            write_depth(path, millimetres / MILLIMETRES)
    shards = out / f"{name}-shards"
    cuts3d("pack", out / name / "images", "--out", shards, "--name", name, "--depth-dir", out / name / "depth")
    return shards


def cut_masks(shards: Path, *, cuts3d: Command, tau_knn: float = TAU_KNN) -> None:
    """Cut the masks of packed scenes and score them.

    Args:
        shards: the folder.
        cuts3d: runs one command.
        tau_knn: longest edge in the graph of the point cloud.
    """
    cuts3d("depth", "--shards", shards, "--preset", "offline")
    cuts3d("pseudo", "--shards", shards, "--preset", "offline", "-n", CUTS, "--tau-knn", tau_knn, "--size", SIZE)
    cuts3d("confidence", "--shards", shards)


def evaluate(shards: Path, truth: Path, *, cuts3d: Command, predicted: bool = False) -> dict[str, Any]:
    """Evaluate masks in shards against a ground truth.

    Args:
        shards: the folder.
        truth: a COCO JSON.
        cuts3d: runs one command.
        predicted: evaluate what a detector found instead of the pseudo-masks.

    Returns:
        The JSON of `cuts3d eval`; figures in [0, 1].
    """
    words = ["eval", "--shards", shards, "--gt", truth, *(["--predicted"] if predicted else []), "--json"]
    found: dict[str, Any] = json.loads(cuts3d(*words))
    return found
