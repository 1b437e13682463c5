"""Masks of both methods against the ground truth, as a table and as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.table import Table

from cuts3d_cli.figures.overlay import colour_map, overlay_masks
from cuts3d_cli.figures.sheet import Panel, compare, sheet

METHODS = {"maskcut": "MaskCut (2D)", "cuts3d": "CutS3D (3D)"}
TITLES = {"rendered": "rendered scenes", "tote": "RGB-D photo of a tote", "motorcycle": "stereo photo"}

Masks = list[NDArray[np.bool_]]
"""Masks of one photo, (h, w) bool each."""
Found = Mapping[str, Mapping[str, Masks]]
"""Method -> name of a photo -> its masks."""


def masks_by_name(path: Path) -> dict[str, Masks]:
    """Read the masks of a COCO JSON, by the stems of the photos' file names."""
    content = json.loads(path.read_text(encoding="utf-8"))
    names = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    masks: dict[str, Masks] = {name: [] for name in names.values()}
    for annotation in content["annotations"]:
        masks[names[annotation["image_id"]]].append(coco_mask.decode(annotation["segmentation"]).astype(bool))
    return masks


def overlaps(found: Sequence[NDArray[np.bool_]], truth: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Compute the IoU of each found mask (rows) with each true one (columns)."""
    ious = np.zeros((len(found), len(truth)))
    for row, first in enumerate(found):
        for column, second in enumerate(truth):
            ious[row, column] = np.count_nonzero(first & second) / np.count_nonzero(first | second)
    return ious


def matched(ious: NDArray[np.float64], *, threshold: float = 0.5) -> int:
    """Count the true masks that are found: pairs over a threshold, best first, each mask in one pair at most.

    Args:
        ious: (found, true).
        threshold: the least IoU of a pair.
    """
    ious = ious.copy()
    count = 0
    while ious.size and ious.max() >= threshold:
        row, column = np.unravel_index(ious.argmax(), ious.shape)
        ious[row, :] = ious[:, column] = -1
        count += 1
    return count


def print_figures(truth: Path, groups: Mapping[str, Sequence[str]], found: Found, *, cuts: int) -> None:
    """Print instances found and mean best IoU, for each method and each group that has a ground truth.

    Args:
        truth: a COCO JSON.
        groups: names of the photos of each group.
        found: masks of each method.
        cuts: cuts per image, for the title.
    """
    true = masks_by_name(truth)
    table = Table(title=f"\nInstances found (IoU >= 0.5) with at most {cuts} cuts per image", title_justify="left")
    for column in ("input", "method", "true", "masks", "found", "mean best IoU"):
        table.add_column(column, justify="left" if column in ("input", "method") else "right")
    for group, names in groups.items():
        scored = [name for name in names if name in true]
        for method, title in METHODS.items() if scored else []:
            ious = [overlaps(found[method].get(name, []), true[name]) for name in scored]
            best = np.concatenate([each.max(axis=0) if len(each) else np.zeros(each.shape[1]) for each in ious])
            table.add_row(
                TITLES[group],
                title,
                str(len(best)),
                str(sum(len(each) for each in ious)),
                str(sum(matched(each) for each in ious)),
                f"{best.mean():.3f}",
            )
    Console().print(table)


def draw_comparison(path: Path, rgbd: Path, groups: Mapping[str, Sequence[str]], found: Found) -> None:
    """Draw photo, depth, and the masks of both methods; one row a photo."""
    rows = [(name, panels(rgbd, name, found)) for names in groups.values() for name in names]
    compare(rows, title="The same features, with and without depth").save(path, quality=88)


def draw_wide(path: Path, rgbd: Path, names: Sequence[str], found: Found) -> None:
    """Draw the picture of the README: the same panels for a few photos, wider than tall.

    Args:
        path: the picture, a JPEG about 1200 pixels wide.
        rgbd: folder of images/ and depth/.
        names: of the photos, one a row. An eighth of the height is cropped at the top and at the bottom.
        found: the masks of both methods.
    """
    rows = []
    for name in names:
        row = panels(rgbd, name, found)
        edge = row[0].image.shape[0] // 8
        rows.append([replace(panel, image=panel.image[edge : panel.image.shape[0] - edge]) for panel in row])
    sheet(rows, title="", width=266, nominal=330).save(path, quality=90)


def panels(rgbd: Path, name: str, found: Found) -> list[Panel]:
    """Return the panels of one photo: photo, depth, and the masks of both methods."""
    image = np.asarray(Image.open(rgbd / "images" / f"{name}.png").convert("RGB"))
    millimetres = np.asarray(Image.open(rgbd / "depth" / f"{name}.png")).astype(np.float32)
    depth = np.where(millimetres > 0, millimetres, np.nan)
    low, high = float(np.nanmin(depth)), float(np.nanmax(depth))
    row = [
        Panel(title="photo", image=image),
        Panel(title="depth", image=colour_map(depth, name="inferno_r", lo=low, hi=high)),
    ]
    for method, title in METHODS.items():
        masks = found[method].get(name, [])
        count = f"{len(masks)} mask{'s' * (len(masks) != 1)}"
        row.append(Panel(title=f"{title}: {count}", image=overlay_masks(image, masks)))
    return row
