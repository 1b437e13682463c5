"""Segments one photo in an empty folder with the `cuts3d` of the Python that runs this, and looks at what is written.

python scripts/one_photo.py FOLDER
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def main(folder: Path) -> None:
    """Write a photo of two boxes and its depth map, segment it, and check masks, picture and COCO JSON.

    Args:
        folder: made for it.

    Raises:
        SystemExit: something is missing.
        CalledProcessError: the command failed.
    """
    for name in ("photos", "depth"):
        (folder / name).mkdir(parents=True)
    rows, columns = np.mgrid[:240, :320]
    boxes = [(rows > 80) & (rows < 190) & (columns > left) & (columns < left + 80) for left in (50, 190)]
    image = np.full((240, 320, 3), (60, 110, 70)) + np.random.default_rng(0).normal(0, 6, (240, 320, 3))
    metres = np.full((240, 320), 2.0, dtype=np.float32)
    for box, colour, distance in zip(boxes, ((200, 60, 40), (40, 60, 200)), (1.0, 1.3), strict=True):
        image[box] += np.array(colour) - (60, 110, 70)
        metres[box] = distance
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "photos/boxes.png")
    np.save(folder / "depth/boxes.npy", metres)
    cuts3d = Path(sys.executable).with_name("cuts3d")
    options = ["--depth-dir", "depth", "--out", "out", "--preset", "offline", "-j", "0"]
    subprocess.run([str(cuts3d), "segment", "photos", *options], cwd=folder, check=True)
    masks = json.loads((folder / "out/annotations.json").read_text(encoding="utf-8"))["annotations"]
    pictures = [folder / "out/pictures/boxes.jpg", folder / "out/masks/boxes-001.png"]
    if missing := [path for path in pictures if not path.is_file()]:
        sys.exit(f"{missing[0]} was not written")
    print(f"{len(masks)} masks in one photo")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
