"""Benchmark of precision: which masks stay when the network computes in another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from bench.common import Report, Row, Table, log
from bench.data import Features, Photo
from bench.speed import cut_task, names_of, table_top
from cuts3d_cli.config import Config
from cuts3d_cli.cut.image import cut_image
from cuts3d_cli.cut.masks import decode_rle, mask_iou
from cuts3d_cli.devices import NetworkPrecision, choose_precision
from cuts3d_cli.errors import SettingError
from cuts3d_cli.features.extractor import FeatureExtractor

SAME = 0.99
"""IoU from which on two masks count as one."""
REFERENCE: tuple[str, NetworkPrecision] = ("cpu", "float32")


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What a photo gives.

    Attributes:
        vectors: (C, H, W) float32, its features.
        masks: (h, w) bool each.
    """

    vectors: NDArray[np.float32]
    masks: Sequence[NDArray[np.bool_]]


def precision(photos: Sequence[Photo], *, device: str, features: Features, size: int) -> Report:
    """Cut photos by features of every precision that a device knows, and compare masks with float32's on a CPU.

    The cuts themselves run on the CPU in the same way each time: what differs is the network alone.

    Args:
        photos: with depth.
        device: of the network.
        features: names the backbone.
        size: side to which photos are resized for it, pixels.

    Returns:
        A row for each precision.
    """
    config = table_top(features, size=size)
    wanted = _cuts(photos, config, way=REFERENCE, features=features)
    rows = [_row(REFERENCE, wanted, wanted)]
    for name in get_args(NetworkPrecision):
        try:
            way = (device, choose_precision(name, device=device))
        except SettingError:
            continue
        if way != REFERENCE:
            rows.append(_row(way, _cuts(photos, config, way=way, features=features), wanted))
    return Report(
        name="precision",
        tables=[Table(f"masks by features of another precision, against {REFERENCE[1]} on the {REFERENCE[0]}", rows)],
        notes=[
            f"{names_of(photos)}; {config.features.backbone} at {size} pixels, N = {config.pseudo.instances}.",
            f"'same masks' are those of {REFERENCE[1]} that are found with an IoU of at least {SAME}; 'cosine' is"
            " the least one between a patch's features of both precisions.",
        ],
    )


def _cuts(
    photos: Sequence[Photo], config: Config, *, way: tuple[str, NetworkPrecision], features: Features
) -> list[Cut]:
    device, name = way
    log(f"precision: {name} on {device}")
    run = replace(config.run, device=device, precision=name)
    extractor = FeatureExtractor(replace(config, run=run))
    found = []
    for photo in photos:
        (vectors,) = extractor.extract([photo.image])
        result = cut_image(cut_task(photo, vectors, config, features))
        masks = [decode_rle(item.segmentation) for item in result.instances]
        found.append(Cut(vectors=vectors.astype(np.float32), masks=masks))
    return found


def _row(way: tuple[str, NetworkPrecision], found: Sequence[Cut], wanted: Sequence[Cut]) -> Row:
    """Compare the cuts of the same photos."""
    best = [
        max((mask_iou(mask, other) for other in cut.masks), default=0.0)
        for cut, reference in zip(found, wanted, strict=True)
        for mask in reference.masks
    ]
    same = sum(iou >= SAME for iou in best)
    return {
        "device": way[0],
        "precision": way[1],
        "photos": len(found),
        "masks": sum(len(cut.masks) for cut in found),
        "same masks": same,
        "share": same / len(best) if best else None,
        "least IoU": min(best, default=None),
        "cosine": min(_cosine(cut.vectors, other.vectors) for cut, other in zip(found, wanted, strict=True)),
    }


def _cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the least cosine between the (C, H, W) features of a patch."""
    products = (first * second).sum(0)
    lengths = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    return float((products / np.maximum(lengths, 1e-12)).min())
