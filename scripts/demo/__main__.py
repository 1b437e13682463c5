"""The demo: from photos to masks with both methods, without a model hub; prints figures and draws pictures."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from demo.comparison import METHODS, draw_comparison, draw_wide, masks_by_name, print_figures
from demo.data import write_photos, write_rgbd
from executable import command

CUTS = 5
"""Cuts per image: the scenes hold up to five objects."""
TAU_KNN = 0.05
"""The paper's 0.115 is for whole scenes; objects in a tote lie closer together. MaskCut has no such threshold."""
WIDE = (0, 2)
"""The rendered scenes of the README's picture: tennis balls and cups."""


def main() -> None:
    """Run the demo.

    Raises:
        SystemExit: a command failed.
    """
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for all output (demo-out)")
    parser.add_argument("--train", action="store_true", help="also train a small detector (about 15 minutes)")
    parser.add_argument(
        "--run", action="store_true", help="run one recipe only, from photos to a self-trained detector (15 minutes)"
    )
    parser.add_argument(
        "--heap", action="store_true", help="cut rendered heaps only, with MaskCut, the paper's cut and preset objects"
    )
    options = parser.parse_args()
    begun = time.perf_counter()
    if options.run:
        run_recipe(options.out / "recipe")
    elif options.heap:
        from demo.heap import cut_heaps

        shutil.rmtree(options.out / "heap", ignore_errors=True)
        cut_heaps(options.out / "heap", cuts3d=cuts3d)
        print(f"\nPicture: {options.out / 'heap' / 'heap.jpg'}.")
    else:
        cut_and_compare(options.out)
        if options.train:
            from demo.train import train_and_compare

            headline("4. Train a detector on the masks of rendered scenes, and evaluate it on held-out ones")
            train_and_compare(options.out / "training", cuts3d=cuts3d)
        print(f"\nPictures: {options.out / 'pictures'}/ (comparison.jpg first).")
    print(f"Took {time.perf_counter() - begun:.0f} s.")


def cut_and_compare(out: Path) -> None:
    """Cut photos by both methods, draw every step, and compare the masks with the ground truth.

    Args:
        out: folder for all output; emptied first.
    """
    shutil.rmtree(out, ignore_errors=True)
    headline("1. Input: rendered scenes, an RGB-D photo with instance masks, a stereo photo, photos without depth")
    rgbd = out / "input"
    groups = write_rgbd(rgbd)
    photos = write_photos(out / "photos")

    headline("2. From photos to masks, with both methods")
    shards = out / "shards"
    cuts3d("pack", rgbd / "images", "--out", shards, "--name", "demo", "--depth-dir", rgbd / "depth")
    cuts3d("depth", "--shards", shards, "--preset", "offline")
    cuts3d("features", "--shards", shards, "--preset", "offline")
    for method in METHODS:
        cuts3d(
            *("pseudo", "--shards", shards, "--preset", "offline", "--method", method),
            *("-n", CUTS, *(("--tau-knn", TAU_KNN) if method == "cuts3d" else ())),
            *("--if-exists", "replace", "--export-coco", out / f"{method}.json"),
        )

    headline("3. Pictures of every step")
    pictures = out / "pictures"
    pictures.mkdir()
    name = groups["rendered"][0]
    cuts3d(
        *("viz", rgbd / "images" / f"{name}.png", "--depth", rgbd / "depth" / f"{name}.png"),
        *("--preset", "offline", "-n", CUTS, "--tau-knn", TAU_KNN, "--out", pictures / f"{name}.png"),
    )
    cuts3d("viz", "--shards", shards, "--key", "motorcycle", "--out", pictures / "motorcycle.png")
    for photo in photos:
        cuts3d("viz", photo, "--preset", "offline", "--out", pictures / f"{photo.stem}.png")

    found = {method: masks_by_name(out / f"{method}.json") for method in METHODS}
    draw_comparison(pictures / "comparison.jpg", rgbd, groups, found)
    draw_wide(pictures / "wide.jpg", rgbd, [groups["rendered"][place] for place in WIDE], found)
    print_figures(rgbd / "annotations.json", groups, found, cuts=CUTS)


def run_recipe(out: Path) -> None:
    """Run one recipe, from rendered photos to a self-trained detector.

    Args:
        out: folder for all output; emptied first.
    """
    from demo.recipe import follow_recipe

    shutil.rmtree(out, ignore_errors=True)
    headline("One recipe, from rendered photos to a self-trained detector that is evaluated on held-out ones")
    follow_recipe(out, cuts3d=cuts3d)


def cuts3d(*arguments: object) -> str:
    """Run one command, shown as a user would type it; what it prints goes to the terminal.

    Returns:
        An empty string: nothing is captured.

    Raises:
        SystemExit: it failed.
    """
    print(f"\n$ cuts3d {shlex.join(map(str, arguments))}", flush=True)
    code = subprocess.run(command(*arguments), check=False).returncode
    if code != 0:
        sys.exit(f"`cuts3d {arguments[0]}` ended with exit code {code}")
    return ""


def headline(line: str) -> None:
    """Print a headline."""
    print(f"\n== {line}", flush=True)


if __name__ == "__main__":
    main()
