"""The second half of the demo: a small detector learns from masks that `pseudo` cut, and is tried on other scenes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

from cuts3d_cli.figures.overlay import overlay_masks
from cuts3d_cli.figures.sheet import Panel, compare
from cuts3d_cli.shards.reader import read_shard
from scenes.layout import write_scenes

TRAIN_SCENES, TEST_SCENES = 160, 40
FIRST_TRAIN, FIRST_TEST = 1000, 100_000
"""Seeds of the first scenes: no scene is in both sets."""
HEIGHT, WIDTH = 240, 320
CUTS = 5
TAU_KNN = 0.06
MIN_SCORE = 0.5
"""Detections that are drawn."""
_DRAWN = 6


def train_and_compare(out: Path, *, cuts3d: Callable[..., object]) -> None:
    """Train on rendered scenes and evaluate on others.

    Args:
        out: folder for scenes, shards, the detector and pictures.
        cuts3d: runs one command of the executable.
    """
    for name, count, seed in (("train", TRAIN_SCENES, FIRST_TRAIN), ("test", TEST_SCENES, FIRST_TEST)):
        masks_of_scenes(write_shards(out, name, count=count, seed=seed, cuts3d=cuts3d), cuts3d=cuts3d)
    shards, truth = out / "test-shards", out / "test" / "annotations.json"
    figures = {"pseudo-masks": evaluated("--shards", shards, "--gt", truth)}
    for title, folder, further in (
        ("detector, untrained", "untrained", ["--max-iter", 1, "--lr", 0, "--set", "precise_bn=0"]),
        ("detector, trained on pseudo-masks", "detector", []),
    ):
        cuts3d("train", "--shards", out / "train-shards", "--preset", "tiny", "--out", out / folder, *further)
        cuts3d(
            *("predict", "--shards", shards, "--checkpoint", out / folder / "model-final.safetensors"),
            *("--if-exists", "overwrite"),
        )
        figures[title] = evaluated("--shards", shards, "--gt", truth, "--predicted")
    print_figures(figures)
    draw_detections(out, truth)


def write_shards(
    out: Path, name: str, *, count: int, seed: int, cuts3d: Callable[..., object], blur: float = 0.0, workers: int = 2
) -> Path:
    """Render scenes and pack them with their depth.

    Args:
        out: gets NAME/ with images, depth and annotations.json, and NAME-shards/.
        name: of the set.
        count: how many scenes.
        seed: of the first scene.
        cuts3d: runs one command of the executable.
        blur: sigma of a Gaussian over the depth maps, pixels: edges as a network smears them that sees one photo.
        workers: processes that render.

    Returns:
        The folder of the shards.
    """
    write_scenes(out / name, count=count, seed=seed, kind="both", height=HEIGHT, width=WIDTH, workers=workers)
    if blur:
        for path in sorted((out / name / "depth").glob("*.png")):
            millimetres = gaussian_filter(np.asarray(Image.open(path), dtype=np.float64), blur)
            Image.fromarray(np.rint(millimetres).astype(np.uint16)).save(path)
    shards = out / f"{name}-shards"
    cuts3d("pack", out / name / "images", "--out", shards, "--name", name, "--depth-dir", out / name / "depth")
    return shards


def masks_of_scenes(shards: Path, *, cuts3d: Callable[..., object], tau_knn: float = TAU_KNN) -> None:
    """Cut the masks of packed scenes and score them.

    Args:
        shards: a folder.
        cuts3d: runs one command of the executable.
        tau_knn: longest edge in the point cloud.
    """
    cuts3d("depth", "--shards", shards, "--preset", "offline")
    cuts3d(*("pseudo", "--shards", shards, "--preset", "offline", "-n", CUTS, "--tau-knn", tau_knn, "--size", 518))
    cuts3d("confidence", "--shards", shards)


def evaluated(*arguments: object) -> dict[str, Any]:
    """What `cuts3d eval` says of the masks of some shards."""
    line = [str(Path(sys.executable).with_name("cuts3d")), "eval", *map(str, arguments), "--json"]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def print_figures(figures: dict[str, dict[str, Any]]) -> None:
    """AP of boxes and masks on scenes that were not learned from."""
    table = Table(title=f"\n{TEST_SCENES} rendered scenes that were not learned from, percent", title_justify="left")
    for column in ("", "box AP", "AP50", "AR@100", "mask AP", "AP50", "AR@100"):
        table.add_column(column, justify="right" if column else "left")
    for title, result in figures.items():
        values = [result[kind][name] for kind in ("box", "mask") for name in ("ap", "ap50", "ar100")]
        table.add_row(title, *(f"{100 * value:.1f}" for value in values))
    Console().print(table)


def draw_detections(out: Path, truth: Path) -> None:
    """One row a scene: photo, true masks, pseudo-masks, detections."""
    content = json.loads(truth.read_text(encoding="utf-8"))
    true: dict[str, list[Any]] = {Path(image["file_name"]).stem: [] for image in content["images"]}
    names = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    for item in content["annotations"]:
        true[names[item["image_id"]]].append(item["segmentation"])
    found: dict[str, dict[str, list[Any]]] = {"pseudo": {}, "predict": {}}
    for stage, by_key in found.items():
        for tar in sorted((out / "test-shards").glob(f"*.{stage}.tar")):
            for sample in read_shard(tar):
                items = json.loads(sample.members[f"{stage}.json"])["instances"]
                by_key[sample.key] = [
                    item["segmentation"] for item in items if stage == "pseudo" or item["score"] >= MIN_SCORE
                ]
    rows = []
    for key in list(true)[:_DRAWN]:
        image = np.asarray(Image.open(out / "test" / "images" / f"{key}.png").convert("RGB"))
        panels = [Panel(title="photo", image=image)]
        titled = {"true": true, "pseudo-masks": found["pseudo"], f"detections over {MIN_SCORE:g}": found["predict"]}
        for title, codes in titled.items():
            masks = [coco_mask.decode(code).astype(bool) for code in codes.get(key, [])]
            panels.append(Panel(title=f"{title}: {len(masks)}", image=overlay_masks(image, masks)))
        rows.append((key, panels))
    picture = out / "detections.jpg"
    compare(rows, title="A detector that learned from pseudo-masks").save(picture, quality=88)
    print(f"\nPictures: {picture}, and what the detector learned from: {out / 'detector' / 'samples.png'}")
