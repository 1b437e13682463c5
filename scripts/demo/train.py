"""The second half of the demo: train a small detector on pseudo-masks, and evaluate it on held-out scenes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.table import Table

import executable
from cuts3d_cli.figures.overlay import overlay_masks
from cuts3d_cli.figures.sheet import Panel, compare
from cuts3d_cli.shards.reader import read_shard
from demo.comparison import masks_by_name
from scenes.shards import FIRST_TEST, FIRST_TRAIN, Command, cut_masks, evaluate, write_shards

TRAIN_SCENES, TEST_SCENES = 160, 40
MIN_SCORE = 0.5
"""Detections with lower scores are not drawn."""
_DRAWN = 6
"""Scenes in the picture."""


def train_and_compare(out: Path, *, cuts3d: Command) -> None:
    """Train on rendered scenes and evaluate on held-out ones.

    Args:
        out: folder for scenes, shards, the detector and pictures.
        cuts3d: runs one command.
    """
    for name, count, seed in (("train", TRAIN_SCENES, FIRST_TRAIN), ("test", TEST_SCENES, FIRST_TEST)):
        cut_masks(write_shards(out, name, count=count, seed=seed, cuts3d=cuts3d), cuts3d=cuts3d)
    shards, truth = out / "test-shards", out / "test" / "annotations.json"
    figures = {"pseudo-masks": evaluate(shards, truth, cuts3d=executable.cuts3d)}
    for title, folder, further in (
        ("detector, untrained", "untrained", ["--max-iter", 1, "--lr", 0, "--set", "precise_bn=0"]),
        ("detector, trained on pseudo-masks", "detector", []),
    ):
        cuts3d("train", "--shards", out / "train-shards", "--preset", "tiny", "--out", out / folder, *further)
        cuts3d(
            *("predict", "--shards", shards, "--checkpoint", out / folder / executable.FINAL_WEIGHTS),
            *("--if-exists", "overwrite"),
        )
        figures[title] = evaluate(shards, truth, cuts3d=executable.cuts3d, predicted=True)
    print_figures(figures)
    draw_detections(out, truth)


def print_figures(figures: dict[str, dict[str, Any]]) -> None:
    """Print AP and AR of boxes and masks on the held-out scenes.

    Args:
        figures: title -> JSON of `cuts3d eval`.
    """
    table = Table(title=f"\n{TEST_SCENES} held-out rendered scenes, percent", title_justify="left")
    for column in ("", "box AP", "AP50", "AR@100", "mask AP", "AP50", "AR@100"):
        table.add_column(column, justify="right" if column else "left")
    for title, result in figures.items():
        values = [result[kind][name] for kind in ("box", "mask") for name in ("ap", "ap50", "ar100")]
        table.add_row(title, *(f"{100 * value:.1f}" for value in values))
    Console().print(table)


def draw_detections(out: Path, truth: Path) -> None:
    """Draw one row per scene: photo, true masks, pseudo-masks, detections.

    Args:
        out: folder of `train_and_compare`; receives detections.jpg.
        truth: a COCO JSON.
    """
    true = masks_by_name(truth)
    found: dict[str, dict[str, list[Any]]] = {"pseudo": {}, "predict": {}}
    for stage, by_key in found.items():
        for tar in sorted((out / "test-shards").glob(f"*.{stage}.tar")):
            for sample in read_shard(tar):
                items = json.loads(sample.members[f"{stage}.json"])["instances"]
                by_key[sample.key] = [
                    coco_mask.decode(item["segmentation"]).astype(bool)
                    for item in items
                    if stage == "pseudo" or item["score"] >= MIN_SCORE
                ]
    rows = []
    for key in list(true)[:_DRAWN]:
        image = np.asarray(Image.open(out / "test" / "images" / f"{key}.png").convert("RGB"))
        panels = [Panel(title="photo", image=image)]
        titled = {"true": true, "pseudo-masks": found["pseudo"], f"detections over {MIN_SCORE:g}": found["predict"]}
        for title, by_key in titled.items():
            masks = by_key.get(key, [])
            panels.append(Panel(title=f"{title}: {len(masks)}", image=overlay_masks(image, masks)))
        rows.append((key, panels))
    picture = out / "detections.jpg"
    compare(rows, title="A detector trained on pseudo-masks").save(picture, quality=88)
    print(f"\nPictures: {picture}, and the training samples: {out / 'detector' / 'samples.png'}")
