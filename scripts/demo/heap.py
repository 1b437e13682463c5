"""Heaps of objects that look alike, taken apart by MaskCut, by the paper's cut and by preset `objects`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from cuts3d_cli.features.catalogue import OFFLINE_BACKBONE
from cuts3d_cli.figures.overlay import overlay_masks
from cuts3d_cli.figures.sheet import Panel, sheet
from demo.comparison import Found, masks_by_name, matched, overlaps
from scenes.files import coco_instance, write_coco, write_photo
from scenes.heap import render_heap

SEEDS = tuple(range(6))
"""Heaps of each class once."""
SHOWN = (1, 4)
"""The heaps of the README's picture."""
CUTS = 10
"""Cuts that MaskCut and the paper's way may make: more than there are objects."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to cut: its title, and the options of `cuts3d pseudo`."""

    title: str
    options: Sequence[object]


WAYS = {
    "maskcut": Way(title="MaskCut", options=("--preset", "offline", "--method", "maskcut", "-n", CUTS)),
    "paper": Way(title="the paper's cut", options=("--preset", "offline", "-n", CUTS)),
    "objects": Way(title="preset objects", options=("--preset", "objects", "--backbone", OFFLINE_BACKBONE)),
}


def cut_heaps(out: Path, *, cuts3d: Callable[..., str], seeds: Sequence[int] = SEEDS) -> None:
    """Render heaps, cut them in all ways, print how many objects each finds, and draw them.

    Args:
        out: folder for all output.
        cuts3d: runs a command.
        seeds: of the heaps.
    """
    # Render them.
    for part in ("images", "depth"):
        (out / part).mkdir(parents=True, exist_ok=True)
    entries = []
    for seed in seeds:
        scene = render_heap(seed)
        write_photo(out, f"heap-{seed}.png", scene.image, scene.depth)
        numbers = np.unique(scene.instances[scene.instances > 0])
        masks = [coco_instance(scene.instances == number) for number in numbers]
        entries.append((f"heap-{seed}.png", scene.instances.shape, masks))
    write_coco(out / "annotations.json", entries)

    # Cut them: the same photos, depth and features.
    shards = out / "shards"
    cuts3d("pack", out / "images", "--out", shards, "--name", "heaps", "--depth-dir", out / "depth")
    cuts3d("depth", "--shards", shards, "--preset", "offline")
    cuts3d("features", "--shards", shards, "--preset", "offline")
    for name, way in WAYS.items():
        results = ("--if-exists", "replace", "--export-coco", out / f"{name}.json")
        cuts3d("pseudo", "--shards", shards, *way.options, *results)
    found = {name: masks_by_name(out / f"{name}.json") for name in WAYS}
    print_heaps(out / "annotations.json", found)
    draw_heaps(out / "heap.jpg", out / "images", [f"heap-{seed}" for seed in SHOWN if seed in seeds], found)


def print_heaps(truth: Path, found: Found) -> None:
    """Print the objects found and the mean best IoU of each way."""
    true = masks_by_name(truth)
    table = Table(title=f"\n{len(true)} heaps: instances found (IoU >= 0.5)", title_justify="left")
    for column in ("", "true", "masks", "found", "mean best IoU"):
        table.add_column(column, justify="right" if column else "left")
    for name, way in WAYS.items():
        ious = [overlaps(found[name].get(heap, []), masks) for heap, masks in true.items()]
        best = np.concatenate([each.max(axis=0, initial=0.0) for each in ious])
        counts = (len(best), sum(len(each) for each in ious), sum(matched(each) for each in ious))
        table.add_row(way.title, *map(str, counts), f"{best.mean():.3f}")
    Console().print(table)


def draw_heaps(path: Path, images: Path, names: Sequence[str], found: Found) -> None:
    """Draw the photo and the masks of each way; one row a heap.

    Args:
        path: the picture, a JPEG about 1200 pixels wide.
        images: folder of the photos.
        names: of the heaps.
        found: the masks of each way.
    """
    rows = []
    for name in names:
        image = np.asarray(Image.open(images / f"{name}.png").convert("RGB"))
        row = [Panel(title="photo", image=image)]
        for way, item in WAYS.items():
            masks = found[way].get(name, [])
            count = f"{len(masks)} mask{'s' * (len(masks) != 1)}"
            row.append(Panel(title=f"{item.title}: {count}", image=overlay_masks(image, masks)))
        rows.append(row)
    sheet(rows, title="", width=280, nominal=330).save(path, quality=88)
