"""What the detector sees: a batch after all augmentation, drawn as a sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from cuts3d_cli.figures.overlay import colour_map, overlay_masks
from cuts3d_cli.figures.sheet import Panel, compare


def draw_training_samples(batch: Sequence[Mapping[str, Any]], *, shown: int = 8) -> Image.Image:
    """Draw training samples, one a row: the image, its masks, and their Spatial Confidence.

    Args:
        batch: "image" (3, H, W) uint8, "key", and "instances" with masks and confidence, as the model gets them.
        shown: how many samples are drawn at most.

    Returns:
        An RGB picture.
    """
    rows = []
    for sample in batch[:shown]:
        instances = sample["instances"]
        image = np.ascontiguousarray(sample["image"].cpu().numpy().transpose(1, 2, 0))
        masks = list(instances.gt_masks.dense().cpu().numpy())
        sure = instances.gt_confidence.dense().cpu().numpy()
        pasted = int(instances.gt_pasted.sum()) if instances.has("gt_pasted") else 0
        least = np.ones(image.shape[:2], dtype=np.float32)
        for mask, values in zip(masks, sure, strict=True):
            least = np.where(mask, np.minimum(least, values), least)
        inside = np.any(masks, axis=0) if masks else np.zeros(image.shape[:2], dtype=bool)
        heat = np.where(inside[..., None], colour_map(least, name="viridis", lo=0.0, hi=1.0), image // 3)
        rows.append(
            (
                str(sample["key"]),
                [
                    Panel(title=f"image, {image.shape[1]}x{image.shape[0]}", image=image),
                    Panel(title=f"{len(masks)} masks, {pasted} pasted", image=overlay_masks(image, masks)),
                    Panel(title="confidence (dark: 0, bright: 1)", image=heat.astype(np.uint8)),
                ],
            )
        )
    return compare(rows, title="A training batch, after augmentation")
