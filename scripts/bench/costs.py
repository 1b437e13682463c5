"""Costs of features for a dataset: disk space to store them, time to compute them."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from bench.common import Report, Row, Table, log
from cuts3d_cli.features.catalogue import BACKBONES
from cuts3d_cli.features.timm_models import build_model
from cuts3d_cli.features.vit import TimmBackbone

IMAGENET = 1_281_167
"""Images of ImageNet-1K."""


def costs(*, images: int, measure: bool, device: str, repeats: int) -> Report:
    """Compute what the features of every backbone cost.

    Args:
        images: number of images in the dataset.
        measure: time each network, too.
        device: that the networks compute on.
        repeats: timed images per network.

    Returns:
        Megabytes per image and terabytes in all, and seconds per image if asked for.
    """
    rows: list[Row] = []
    for spec in BACKBONES.values():
        side = spec.size // spec.patch
        megabytes = spec.dim * side * side * 2 / 1e6
        row: Row = {
            "backbone": spec.name,
            "size": str(spec.size),
            "feature": f"{spec.dim}x{side}x{side}",
            "MB per image": round(megabytes, 1),
            "TB in all": round(megabytes * images / 1e6, 1),
        }
        if measure:
            log(f"costs: {spec.name}")
            row["seconds per image"] = seconds_per_image(spec.name, device, repeats)
        rows.append(row)
    note = f"Random weights, {device}, median of {repeats} images after one that is not timed."
    return Report(
        name="costs", tables=[Table(f"features of {images:,} images, float16", rows)], notes=[note] if measure else []
    )


def seconds_per_image(name: str, device: str, repeats: int) -> float:
    """Time one image through a backbone with random weights.

    Args:
        name: of the backbone.
        device: that it computes on.
        repeats: timed images, after one that is not.

    Returns:
        The median, seconds.
    """
    spec = BACKBONES[name]
    model = build_model(spec, size=spec.size)
    backbone = TimmBackbone(spec=spec, model=model, size=spec.size, device=device, precision="float32")
    image = np.zeros((1, backbone.size, backbone.size, 3), dtype=np.uint8)
    backbone.extract(image)
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        backbone.extract(image)
        seconds.append(time.perf_counter() - begun)
    return median(seconds)
