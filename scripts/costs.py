"""What features cost for a data set: disk for storing them, time for computing them."""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import timm
from rich.console import Console
from rich.table import Table

from cuts3d_cli.features.catalogue import BACKBONES
from cuts3d_cli.features.vit import VitBackbone


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_281_167, help="images in the data set (ImageNet-1K: 1,281,167)")
    parser.add_argument("--measure", action="store_true", help="also time each network here, with random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    table = Table(title=f"{options.images:,} images")
    columns = ["backbone", "size", "feature", "MB an image", "TB in all"]
    columns += ["s an image (median)"] if options.measure else []
    for column in columns:
        table.add_column(column, justify="right")
    for spec in BACKBONES.values():
        side = spec.size // spec.patch
        megabytes = spec.dim * side * side * 2 / 1e6
        row = [spec.name, str(spec.size), f"{spec.dim}x{side}x{side}", f"{megabytes:.1f}"]
        row.append(f"{megabytes * options.images / 1e6:.1f}")
        if options.measure:
            row.append(f"{seconds_an_image(spec.name, options.device, options.repeats):.2f}")
        table.add_row(*row)
    Console().print(table)


def seconds_an_image(name: str, device: str, repeats: int) -> float:
    """Median time of one image through a backbone, after one that is not counted."""
    spec = BACKBONES[name]
    model = timm.create_model(spec.architecture, pretrained=False, num_classes=0, img_size=spec.size)
    backbone = VitBackbone(spec=spec, model=model, size=spec.size, device=device, half=False)
    image = np.zeros((1, backbone.size, backbone.size, 3), dtype=np.uint8)
    backbone.extract(image)
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        backbone.extract(image)
        seconds.append(time.perf_counter() - begun)
    return median(seconds)


if __name__ == "__main__":
    main()
