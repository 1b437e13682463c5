"""The demo: from photos to masks with both methods, on input that needs no model hub, with figures and pictures."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from demo_data import write_photos, write_rgbd
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.table import Table

from cuts3d_cli.depth.maps import normalise
from cuts3d_cli.figures.overlay import colour_map, overlay_masks
from cuts3d_cli.figures.sheet import Panel, compare
from cuts3d_cli.sidecars.photos import decode_sensor_png

CUTS = 5
"""Cuts per image: the scenes hold up to five objects."""
TAU_KNN = 0.05
"""The paper's 0.115 is for whole scenes; things in a tote lie closer. MaskCut has no such threshold."""
METHODS = {"maskcut": "MaskCut (2D)", "cuts3d": "CutS3D (3D)"}
TITLES = {"rendered": "rendered scenes", "tote": "RGB-D photo of a tote", "motorcycle": "stereo photo"}


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for everything the demo makes")
    parser.add_argument("--train", action="store_true", help="train a small detector too (about 15 minutes)")
    parser.add_argument(
        "--run", action="store_true", help="only follow one recipe from photos to a self-trained detector (15 minutes)"
    )
    options = parser.parse_args()
    out = options.out
    begun = time.perf_counter()
    if options.run:
        from demo_run import follow_recipe

        shutil.rmtree(out / "recipe", ignore_errors=True)
        say("One recipe, from rendered photos to a self-trained detector that is evaluated on others")
        follow_recipe(out / "recipe", cuts3d=cuts3d)
        print(f"Took {time.perf_counter() - begun:.0f} s.")
        return
    shutil.rmtree(out, ignore_errors=True)

    say("1. Input: rendered scenes, an RGB-D photo with instance masks, a stereo photo, photos without depth")
    rgbd = out / "input"
    groups = write_rgbd(rgbd)
    photos = write_photos(out / "photos")

    say("2. From photos to masks, with both methods")
    shards = out / "shards"
    cuts3d("pack", rgbd / "images", "--out", shards, "--name", "demo", "--depth-dir", rgbd / "depth")
    cuts3d("depth", "--shards", shards, "--preset", "offline")
    cuts3d("features", "--shards", shards, "--preset", "offline")
    for method in METHODS:
        cuts3d(
            *("pseudo", "--shards", shards, "--preset", "offline", "--method", method),
            *("-n", CUTS, "--tau-knn", TAU_KNN, "--export-coco", out / f"{method}.json"),
        )

    say("3. Pictures of every step")
    drawn = out / "pictures"
    drawn.mkdir()
    name = groups["rendered"][0]
    cuts3d(
        *("viz", rgbd / "images" / f"{name}.png", "--depth", rgbd / "depth" / f"{name}.png"),
        *("--preset", "offline", "-n", CUTS, "--tau-knn", TAU_KNN, "--out", drawn / f"{name}.png"),
    )
    cuts3d("viz", "--shards", shards, "--key", "motorcycle", "--out", drawn / "motorcycle.png")
    for photo in photos:
        cuts3d("viz", photo, "--preset", "offline", "--out", drawn / f"{photo.stem}.png")

    found = {method: masks_by_name(out / f"{method}.json") for method in METHODS}
    draw_comparison(drawn / "comparison.jpg", rgbd, groups, found)
    print_figures(rgbd, groups, found)
    if options.train:
        from demo_train import train_and_compare

        say("4. A detector learns from masks of rendered scenes, and is tried on others")
        train_and_compare(out / "training", cuts3d=cuts3d)
    print(f"\nPictures: {drawn}/ (comparison.jpg first). Took {time.perf_counter() - begun:.0f} s.")


def cuts3d(*arguments: object) -> None:
    """Run one command of the executable, shown as a user would type it."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ cuts3d {shlex.join(words)}", flush=True)
    executable = Path(sys.executable).with_name("cuts3d")
    code = subprocess.run([executable, *words], check=False).returncode
    if code != 0:
        sys.exit(f"cuts3d {words[0]} ended with exit code {code}")


def say(line: str) -> None:
    """A headline."""
    print(f"\n== {line}", flush=True)


def masks_by_name(path: Path) -> dict[str, list[NDArray[np.bool_]]]:
    """Masks of a COCO JSON by the stem of their image's file name, each (h, w) bool."""
    content = json.loads(path.read_text(encoding="utf-8"))
    names = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    masks: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in names.values()}
    for annotation in content["annotations"]:
        code: dict[str, Any] = annotation["segmentation"]
        masks[names[annotation["image_id"]]].append(coco_mask.decode(code).astype(bool))
    return masks


def overlaps(found: list[NDArray[np.bool_]], truth: list[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """IoU of each found mask (rows) with each true one (columns)."""
    ious = np.zeros((len(found), len(truth)))
    for row, first in enumerate(found):
        for column, second in enumerate(truth):
            ious[row, column] = np.count_nonzero(first & second) / np.count_nonzero(first | second)
    return ious


def matched(ious: NDArray[np.float64], *, threshold: float = 0.5) -> int:
    """How many true masks are found: pairs over the threshold, best first, each mask in one pair."""
    ious = ious.copy()
    count = 0
    while ious.size and ious.max() >= threshold:
        row, column = np.unravel_index(ious.argmax(), ious.shape)
        ious[row, :] = ious[:, column] = -1
        count += 1
    return count


def print_figures(
    rgbd: Path, groups: dict[str, list[str]], found: dict[str, dict[str, list[NDArray[np.bool_]]]]
) -> None:
    """Instances found and mean best IoU, for each method and each group that has true masks."""
    truth = masks_by_name(rgbd / "annotations.json")
    table = Table(title=f"\nInstances found (IoU >= 0.5) with at most {CUTS} cuts per image", title_justify="left")
    for column in ("input", "method", "true", "masks", "found", "mean best IoU"):
        table.add_column(column, justify="left" if column in ("input", "method") else "right")
    for group, names in groups.items():
        scored = [name for name in names if name in truth]
        for method, title in METHODS.items() if scored else []:
            ious = [overlaps(found[method].get(name, []), truth[name]) for name in scored]
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


def draw_comparison(
    path: Path,
    rgbd: Path,
    groups: dict[str, list[str]],
    found: dict[str, dict[str, list[NDArray[np.bool_]]]],
) -> None:
    """One row an image: photo, depth, and the masks of both methods."""
    rows = []
    for names in groups.values():
        for name in names:
            image = np.asarray(Image.open(rgbd / "images" / f"{name}.png").convert("RGB"))
            raw = decode_sensor_png((rgbd / "depth" / f"{name}.png").read_bytes(), scale=0.001)
            depth = normalise(raw, direction="distance", unit="metre", zero_is_missing=True).depth
            panels = [
                Panel(title="photo", image=image),
                Panel(title="depth", image=colour_map(depth, name="inferno_r", lo=0.0, hi=1.0)),
            ]
            for method, title in METHODS.items():
                masks = found[method].get(name, [])
                panels.append(
                    Panel(
                        title=f"{title}: {len(masks)} mask{'s' * (len(masks) != 1)}", image=overlay_masks(image, masks)
                    )
                )
            rows.append((name, panels))
    compare(rows, title="The same features, with and without depth").save(path, quality=88)


if __name__ == "__main__":
    main()
