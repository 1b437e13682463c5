"""A batch as the detector sees it, after all augmentation, drawn as a sheet. Not in the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cuts3d_cli.figures.overlay import ColourMap, colour_map, overlay_masks, upsample_grid
from cuts3d_cli.figures.palette import RGB, instance_colours
from cuts3d_cli.figures.sheet import Bar, Panel, compare
from cuts3d_cli.wording import counted

_MAP: ColourMap = "viridis"


def draw_training_samples(batch: Sequence[Mapping[str, Any]], *, shown: int = 8, width: int = 320) -> Image.Image:
    """Draw training samples, one per row: the image, its masks and boxes, and their Spatial Confidence.

    Args:
        batch: at least one sample, each with "key", "image", (3, H, W) uint8 RGB, and "instances" with boxes, masks and
            confidence, as the model receives them. Instances with a true gt_pasted are marked, if they have that field.
        shown: limit of the number of samples.
        width: of each panel, pixels.

    Returns:
        An RGB picture.

    Raises:
        ValueError: the batch is empty.
    """
    rows = []
    for sample in batch[:shown]:
        pixels, instances = sample["image"].cpu().numpy().transpose(1, 2, 0), sample["instances"]
        height = max(round(pixels.shape[0] * width / pixels.shape[1]), 1)
        # Bring everything to the sheet's resolution, so that lines have one width whatever the size of the image.
        image = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
        masks, sure = (
            [upsample_grid(values, (height, width)) for values in field.dense().cpu().numpy()]
            for field in (instances.gt_masks, instances.gt_confidence)
        )
        boxes = instances.gt_boxes.tensor.cpu().numpy() * (width / pixels.shape[1])
        # Count the instances, and draw the three panels of the row.
        pasted = instances.gt_pasted.tolist() if instances.has("gt_pasted") else [False] * len(masks)
        title = counted(len(masks), "instance")
        if any(pasted):
            title += f", {sum(pasted)} pasted (+)"
        rows.append(
            (
                f"{sample['key']}, {pixels.shape[1]}x{pixels.shape[0]}",
                [
                    Panel(title="image", image=image),
                    Panel(title=title, image=_instances(image, masks, boxes, pasted)),
                    Panel(
                        title="lowest confidence of a pixel",
                        image=_confidence(image, masks, sure),
                        legend=Bar(name=_MAP, low="0", high="1"),
                    ),
                ],
            )
        )
    notes = ["Confidence is drawn within the masks, and around them where it is below 1; elsewhere it is 1."]
    return compare(rows, title="Training samples after augmentation", notes=notes, width=width)


def _instances(
    image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], boxes: NDArray[np.float32], pasted: Sequence[bool]
) -> NDArray[np.uint8]:
    """Draw masks and boxes, (N, 4) in pixels, over an image; pasted instances are marked by a plus."""
    colours = instance_colours(len(masks))
    drawn = overlay_masks(image, masks, alpha=0.4, colours=colours, labels=["+" if new else "" for new in pasted])
    canvas = Image.fromarray(drawn)
    draw = ImageDraw.Draw(canvas)
    for box, colour in zip(boxes, colours, strict=True):
        _box(draw, box, colour)
    return np.asarray(canvas)


def _box(draw: ImageDraw.ImageDraw, box: NDArray[np.float32], colour: RGB) -> None:
    """Draw a box, whose right and lower sides lie behind its last pixel, with a dark rim."""
    left, top = round(float(box[0])), round(float(box[1]))
    right, bottom = max(round(float(box[2])) - 1, left), max(round(float(box[3])) - 1, top)
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(20, 20, 20))
    draw.rectangle((left, top, right, bottom), outline=colour)


def _confidence(
    image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], sure: Sequence[NDArray[np.float32]]
) -> NDArray[np.uint8]:
    """Draw the lowest confidence of each pixel over the dimmed image, where there is a mask or doubt."""
    lowest = np.ones(image.shape[:2], dtype=np.float32)
    covered = np.zeros(image.shape[:2], dtype=bool)
    for mask, values in zip(masks, sure, strict=True):
        lowest = np.minimum(lowest, values)
        covered |= mask
    shown = covered | (lowest < 1)
    heat = colour_map(lowest, name=_MAP, lo=0.0, hi=1.0)
    return np.where(shown[..., None], heat, image // 3).astype(np.uint8)
