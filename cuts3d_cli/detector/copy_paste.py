"""Copy-paste between the images of a batch: confident selection and confidence alpha-blending (paper: Sec. 3.4).

It works on the device of the batch. A training step is bound by how fast work is handed to a GPU, and stands still
whenever the CPU asks what came out: so there are few operations, and what is left out is asked for four times an
image. The sources are the images as they came from the loader: pasted instances are not pasted again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch.nn import functional

from cuts3d_cli.config import TrainConfig
from cuts3d_cli.detector.maps import LEVELS, ConfidenceMaps, IndexedMasks
from cuts3d_cli.detector.sampling import nearest_places

Sample = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PastedInstances:
    """Instances of one image, scaled for another one, with the window of h by w pixels that they cover there.

    Attributes:
        pixels: (3, h, w) float32 in [0, 255], the whole source image.
        masks: (N, h, w) bool.
        confidence: (N, h, w) float32 in [0, 1].
        scores: (N,) float32 in [0, 1], mean confidence.
        offset: row and column of the window's first pixel in the other image.
    """

    pixels: torch.Tensor
    masks: torch.Tensor
    confidence: torch.Tensor
    scores: torch.Tensor
    offset: tuple[int, int] = (0, 0)


class CopyPaste:
    """Copy-paste with the settings of a configuration.

    Args:
        config: the fields `copy_paste...` and `alpha`.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def __call__(
        self, batch: list[Sample], *, generator: torch.Generator, partner: Sample | None = None
    ) -> list[Sample]:
        """Paste instances of each image of a batch into another one.

        The sources are the same batch, rolled by a random number of places, so that no image is its own source. A batch
        of one image takes its partner as the source; without one it stays as it is.

        Args:
            batch: training samples on one device; they are not changed.
            generator: of all draws, on the CPU, so that they do not depend on the device.
            partner: another sample on that device, for a batch of one image.

        Returns:
            New samples, whose instances have the field gt_pasted, (N,) bool.
        """
        if not self.config.copy_paste or (len(batch) == 1 and partner is None):
            return [_unpasted(sample) for sample in batch]
        if len(batch) == 1 and partner is not None:
            return [self._into(batch[0], partner, generator)]
        turn = _draw_int(1, len(batch) - 1, generator)
        return [self._into(sample, batch[(i + turn) % len(batch)], generator) for i, sample in enumerate(batch)]

    def _into(self, target: Sample, source: Sample, generator: torch.Generator) -> Sample:
        """Paste some instances of `source` into `target`, scaled and placed at random, with some probability."""
        config = self.config
        wanted = _draw(0.0, 1.0, generator) < config.copy_paste_rate
        count = len(source["instances"])
        if not wanted or count == 0:
            return _unpasted(target)
        chosen = choose(
            source["instances"].gt_scores, confident=config.copy_paste_select == "confident", generator=generator
        )
        size = target["instances"].image_size
        ratio = _draw(config.copy_paste_min, config.copy_paste_max, generator)
        scaled = (max(round(ratio * size[0]), 1), max(round(ratio * size[1]), 1))
        offset = (_draw_int(0, size[0] - scaled[0], generator), _draw_int(0, size[1] - scaled[1], generator))
        pasted = place(source, chosen, scaled=scaled, offset=offset)
        return paste(target, pasted, alpha=config.alpha, overlap=config.copy_paste_overlap)


def choose(scores: torch.Tensor, *, confident: bool, generator: torch.Generator) -> torch.Tensor:
    """Choose the instances of an image to paste: the only one, or a random number of them but never all.

    Args:
        scores: (N,) float32 in [0, 1], mean confidence; N is at least 1.
        confident: take the highest scores, the first of equal ones (paper: Sec. 3.4); else any.
        generator: of the draws.

    Returns:
        (n,) int64, ascending indices.
    """
    total = len(scores)
    count = 1 if total == 1 else _draw_int(1, total - 1, generator)
    if confident:
        order = torch.argsort(scores.cpu(), descending=True, stable=True)
    else:
        order = torch.randperm(total, generator=generator)
    return order[:count].sort().values


def place(source: Sample, chosen: torch.Tensor, *, scaled: tuple[int, int], offset: tuple[int, int]) -> PastedInstances:
    """Scale an image with some of its instances.

    Args:
        source: a training sample.
        chosen: (n,) int64, indices of its instances.
        scaled: height and width of the whole source image after scaling.
        offset: row and column of its first pixel in the other image.

    Returns:
        The chosen instances, without those that have no pixel after scaling.
    """
    instances: Instances = source["instances"]
    chosen = chosen.to(instances.gt_scores.device)
    image = source["image"].to(torch.float32)
    pixels = functional.interpolate(image[None], scaled, mode="bilinear", align_corners=False, antialias=True)[0]
    # Nearest neighbour neither grows nor shrinks masks; confidence is taken from the same pixels.
    places = nearest_pixels(instances.image_size, scaled, device=chosen.device)
    masks = sampled(instances.gt_masks[chosen], places)
    kept = masks.flatten(1).any(dim=1).nonzero()[:, 0]
    chosen = chosen[kept]
    return PastedInstances(
        pixels=pixels,
        masks=masks[kept],
        confidence=sampled(instances.gt_confidence[chosen], places).to(torch.float32) / LEVELS,
        scores=instances.gt_scores[chosen],
        offset=offset,
    )


def paste(target: Sample, pasted: PastedInstances, *, alpha: str, overlap: float) -> Sample:
    """Paste instances into an image (paper: Sec. 3.4, Eq. 5).

    A pasted instance ends sharply at its mask, whatever the source's confidence around it, and a hidden pixel certainly
    does not belong to the instance below. So confidence becomes 1 around a pasted instance and where an instance is
    hidden (not in the paper). Elsewhere it does not change.

    Args:
        target: a training sample.
        pasted: instances within its frame; a later one covers an earlier one.
        alpha: "spatial" blends by the confidence map (Eq. 5), "scalar" by the mean confidence (Table 8b), "none" not.
        overlap: instances that would hide at least this share of one of the target's instances are left out.

    Returns:
        A new sample with the blended image. Masks of the target lose the pixels that are covered, boxes follow, and
        instances without a visible pixel are dropped.
    """
    # Leave out instances that would hide too much.
    before: Instances = target["instances"]
    rows, columns = (
        slice(start, start + extent) for start, extent in zip(pasted.offset, pasted.masks.shape[1:], strict=True)
    )
    masks, confidence = before.gt_masks.dense(), before.gt_confidence.gathered()
    hiding = hides(pasted.masks, masks[:, rows, columns], areas=before.gt_masks.area(), share=overlap)
    kept = (~hiding).nonzero()[:, 0]
    if not len(kept):
        return _unpasted(target)
    # Blend the image.
    scores, sure = pasted.scores[kept], pasted.confidence[kept]
    visible = uncovered(pasted.masks[kept])
    image = target["image"].clone()
    image[:, rows, columns] = blend(image[:, rows, columns], pasted.pixels, opacity(visible, sure, scores, alpha=alpha))
    # Append the pasted masks, and cut those of the target where they are covered.
    own, added = len(masks), len(visible)
    masks = torch.cat([masks, masks.new_zeros((added, *before.image_size))])
    confidence = torch.cat([confidence, confidence.new_full((added, *before.image_size), LEVELS)])
    hidden = visible.any(dim=0)
    masks[:own, rows, columns] &= ~hidden
    masks[own:, rows, columns] = visible
    confidence[:own, rows, columns].masked_fill_(hidden, LEVELS)
    confidence[own:, rows, columns] = ConfidenceMaps.of(torch.where(visible, sure, 1.0)).maps
    # Compute the fields that follow from the masks, of those that are still seen.
    boxes = IndexedMasks(masks).get_bounding_boxes()
    seen = boxes.nonempty().nonzero()[:, 0]
    after = Instances(before.image_size)
    after.gt_masks = IndexedMasks(masks, seen)
    after.gt_boxes = boxes[seen]
    after.gt_classes = torch.zeros_like(seen)
    after.gt_confidence = ConfidenceMaps(confidence, seen)
    after.gt_scores = torch.cat([before.gt_scores, scores])[seen]
    after.gt_pasted = seen >= own
    return {**target, "image": image, "instances": after}


def hides(masks: torch.Tensor, others: torch.Tensor, *, areas: torch.Tensor, share: float) -> torch.Tensor:
    """Find the masks that would hide too much of another one.

    Args:
        masks: (N, h, w) bool.
        others: (K, h, w) bool, the masks below them, in the same window.
        areas: (K,) int64, areas of the others in pixels, also outside of the window.
        share: this share of another one's area is too much; with 0, any pixel is.

    Returns:
        (N,) bool.
    """
    # Counts are exact in single precision up to 16 million pixels, but not in half precision.
    with torch.autocast(masks.device.type, enabled=False):
        shared = masks.flatten(1).to(torch.float32) @ others.flatten(1).to(torch.float32).T
    return ((shared > 0) & (shared >= share * areas)).any(dim=1)


def uncovered(masks: torch.Tensor) -> torch.Tensor:
    """Compute the visible parts of masks, where a later one covers an earlier one.

    Args:
        masks: (N, h, w) bool; N is at least 1.

    Returns:
        (N, h, w) bool, disjoint.
    """
    if len(masks) == 1:
        return masks
    seen: list[torch.Tensor] = []
    above = torch.zeros_like(masks[0])
    for mask in masks.flip(0):
        seen.append(mask & ~above)
        above = above | mask
    return torch.stack(seen[::-1])


def opacity(masks: torch.Tensor, confidence: torch.Tensor, scores: torch.Tensor, *, alpha: str) -> torch.Tensor:
    """Compute the weight of the pasted instances in each pixel (paper: Eq. 5); 0 outside of them.

    Args:
        masks: (N, H, W) bool, disjoint.
        confidence: (N, H, W) float32 in [0, 1].
        scores: (N,) float32 in [0, 1], mean confidence.
        alpha: "spatial", "scalar" or "none".

    Returns:
        (H, W) float32 in [0, 1].
    """
    if alpha == "none":
        return masks.any(dim=0).to(torch.float32)
    each = confidence if alpha == "spatial" else scores[:, None, None].expand(masks.shape)
    return (each * masks).sum(dim=0)


def blend(target: torch.Tensor, source: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Compute SC * source + (1 - SC) * target (paper: Eq. 5).

    Args:
        target: (3, H, W) uint8.
        source: (3, H, W) float32 in [0, 255].
        strength: (H, W) float32 in [0, 1], the weight of the source.

    Returns:
        (3, H, W) uint8, rounded to the nearest.
    """
    mixed = strength * source + (1 - strength) * target.to(torch.float32)
    return mixed.round().clamp(0, 255).to(torch.uint8)


def nearest_pixels(
    old: tuple[int, int], new: tuple[int, int], *, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute which old pixel holds the centre of each new one.

    Args:
        old: height and width before.
        new: height and width after.
        device: of the result.

    Returns:
        (h,) rows and (w,) columns, int64.
    """
    rows, columns = (nearest_places(*sides) for sides in zip(old, new, strict=True))
    both = torch.from_numpy(np.concatenate([rows, columns])).to(device)
    return both[: new[0]], both[new[0] :]


def sampled(field: IndexedMasks | ConfidenceMaps, places: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the map of each instance at some rows and columns.

    Args:
        field: N instances.
        places: (h,) rows and (w,) columns, int64.

    Returns:
        (N, h, w), as stored.
    """
    rows, columns = places
    return field.maps[field.index[:, None], rows][:, :, columns]


def _unpasted(sample: Sample) -> Sample:
    """Return a sample whose instances are all marked as its own."""
    before: Instances = sample["instances"]
    after = Instances(before.image_size, **before.get_fields())
    after.gt_pasted = torch.zeros(len(before), dtype=torch.bool, device=sample["image"].device)
    return {**sample, "instances": after}


def _draw(low: float, high: float, generator: torch.Generator) -> float:
    """Draw a number from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def _draw_int(low: int, high: int, generator: torch.Generator) -> int:
    """Draw a whole number from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))
