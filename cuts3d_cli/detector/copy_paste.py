"""Copy-paste between the images of a batch: confident selection and confidence alpha-blending (paper: Sec. 3.4).

It works on the batch where the batch lies, so that on a GPU nothing waits for a CPU. Every image is pasted into as it
came from the loader: what was pasted elsewhere is not pasted on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Instances
from torch.nn import functional

from cuts3d_cli.config import TrainConfig
from cuts3d_cli.detector.maps import LEVELS, ConfidenceMaps, IndexedMasks
from cuts3d_cli.detector.sampling import nearest_places

Sample = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pasted:
    """Instances of one image, scaled to lie in another. Only the window that they lie in is kept, h by w pixels.

    Attributes:
        pixels: (3, h, w) float32, the whole source image.
        masks: (N, h, w) bool.
        confidence: (N, h, w) float32 in [0, 1].
        scores: (N,) float32, mean confidence.
        offset: row and column of the window's first pixel in the other image.
    """

    pixels: torch.Tensor
    masks: torch.Tensor
    confidence: torch.Tensor
    scores: torch.Tensor
    offset: tuple[int, int] = (0, 0)


class CopyPaste:
    """Copy-paste as the configuration says.

    Args:
        config: the fields `copy_paste...` and `alpha`.
    """

    def __init__(self, config: TrainConfig) -> None:
        """See the class."""
        self.config = config

    def __call__(self, batch: list[Sample], *, generator: torch.Generator) -> list[Sample]:
        """Paste instances of each image of a batch into another one.

        The sources are the same batch, turned by a random number of places, so that no image is its own source; with
        one image nothing is pasted.

        Args:
            batch: training samples on one device; they are left as they are.
            generator: on the CPU, of all draws, so that they do not depend on the device.

        Returns:
            New samples, each with the field `gt_pasted`, (N,) bool.
        """
        if not self.config.copy_paste or len(batch) < 2:
            return [_unpasted(sample) for sample in batch]
        turn = _draw_int(1, len(batch) - 1, generator)
        return [self._into(sample, batch[(i + turn) % len(batch)], generator) for i, sample in enumerate(batch)]

    def _into(self, target: Sample, source: Sample, generator: torch.Generator) -> Sample:
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
    """Which instances of an image are pasted: one of one, else some but never all.

    Args:
        scores: (N,) float32, mean confidence; N is at least 1.
        confident: take those of the highest scores, the earlier of equal ones; else any.
        generator: of the draws.

    Returns:
        (n,) int64, ascending.
    """
    total = len(scores)
    count = 1 if total == 1 else _draw_int(1, total - 1, generator)
    if confident:
        order = torch.argsort(scores, descending=True, stable=True).cpu()
    else:
        order = torch.randperm(total, generator=generator)
    return order[:count].sort().values


def place(source: Sample, chosen: torch.Tensor, *, scaled: tuple[int, int], offset: tuple[int, int]) -> Pasted:
    """Scale an image with some of its instances.

    Args:
        source: a training sample.
        chosen: (n,) int64, its instances.
        scaled: height and width that the whole source image gets.
        offset: row and column where it will lie in the other image.

    Returns:
        What is pasted. Instances of which no pixel is left are gone.
    """
    instances: Instances = source["instances"]
    chosen = chosen.to(instances.gt_scores.device)
    image = source["image"].to(torch.float32)
    pixels = functional.interpolate(image[None], scaled, mode="bilinear", align_corners=False, antialias=True)[0]
    # Masks by the nearest pixel, which neither grows nor shrinks them; confidence by the same pixel.
    masks = nearest(instances.gt_masks[chosen].dense(), scaled)
    kept = masks.flatten(1).any(dim=1)
    confidence = ConfidenceMaps(nearest(instances.gt_confidence[chosen[kept]].gathered(), scaled))
    return Pasted(
        pixels=pixels,
        masks=masks[kept],
        confidence=confidence.dense(),
        scores=instances.gt_scores[chosen][kept],
        offset=offset,
    )


def paste(target: Sample, pasted: Pasted, *, alpha: str, overlap: float) -> Sample:
    """Paste instances into an image.

    What is pasted ends sharply where its mask ends, whatever the source's confidence said of the pixels around it, and
    an instance certainly is not seen where something lies over it. So confidence is 1 around a pasted instance and
    where an instance is hidden. Elsewhere it stays as it was.

    Args:
        target: a training sample.
        pasted: instances that lie within it; a later one lies over an earlier one.
        alpha: "spatial" blends by the confidence map (Eq. 5), "scalar" by the mean confidence (Table 8b), "none" not.
        overlap: instances that would hide at least this share of one of the target's are left out.

    Returns:
        A new sample: the image blended; masks of the target cut where something lies over them, and gone where nothing
        of them is left; boxes as the masks now are.
    """
    before: Instances = target["instances"]
    rows, columns = (
        slice(start, start + extent) for start, extent in zip(pasted.offset, pasted.masks.shape[1:], strict=True)
    )
    masks, confidence = before.gt_masks.dense(), before.gt_confidence.gathered()
    kept = ~hides(pasted.masks, masks[:, rows, columns], areas=before.gt_masks.area(), share=overlap)
    if not bool(kept.any()):
        return _unpasted(target)
    scores, sure = pasted.scores[kept], pasted.confidence[kept]
    visible = uncovered(pasted.masks[kept])
    image = target["image"].clone()
    image[:, rows, columns] = blend(image[:, rows, columns], pasted.pixels, opacity(visible, sure, scores, alpha=alpha))
    own, added = len(masks), len(visible)
    masks = torch.cat([masks, masks.new_zeros((added, *before.image_size))])
    confidence = torch.cat([confidence, confidence.new_full((added, *before.image_size), LEVELS)])
    hidden = visible.any(dim=0)
    masks[:own, rows, columns] &= ~hidden
    masks[own:, rows, columns] = visible
    confidence[:own, rows, columns].masked_fill_(hidden, LEVELS)
    confidence[own:, rows, columns] = ConfidenceMaps.of(torch.where(visible, sure, 1.0)).maps

    after = Instances(before.image_size)
    after.gt_masks = IndexedMasks(masks)
    after.gt_boxes = after.gt_masks.get_bounding_boxes()
    after.gt_classes = torch.zeros(own + added, dtype=torch.int64, device=masks.device)
    after.gt_confidence = ConfidenceMaps(confidence)
    after.gt_scores = torch.cat([before.gt_scores, scores])
    after.gt_pasted = torch.arange(own + added, device=masks.device) >= own
    return {**target, "image": image, "instances": after[after.gt_boxes.nonempty()]}


def hides(masks: torch.Tensor, others: torch.Tensor, *, areas: torch.Tensor, share: float) -> torch.Tensor:
    """Which masks would hide too much of another one.

    Args:
        masks: (N, h, w) bool.
        others: (K, h, w) bool, what lies below them.
        areas: (K,) int64, pixels of each of the others, also those that lie elsewhere.
        share: how much of another one's area is too much; with 0, any pixel is.

    Returns:
        (N,) bool.
    """
    # Sums of zeros and ones are exact in single precision up to 16 million pixels, but not in half precision.
    with torch.autocast(masks.device.type, enabled=False):
        shared = masks.flatten(1).to(torch.float32) @ others.flatten(1).to(torch.float32).T
    return ((shared > 0) & (shared >= share * areas)).any(dim=1)


def uncovered(masks: torch.Tensor) -> torch.Tensor:
    """What is seen of masks of which a later one lies over an earlier one.

    Args:
        masks: (N, h, w) bool; N is at least 1.

    Returns:
        (N, h, w) bool, disjoint.
    """
    seen: list[torch.Tensor] = []
    above = torch.zeros_like(masks[0])
    for mask in masks.flip(0):
        seen.append(mask & ~above)
        above = above | mask
    return torch.stack(seen[::-1])


def opacity(masks: torch.Tensor, confidence: torch.Tensor, scores: torch.Tensor, *, alpha: str) -> torch.Tensor:
    """How much of each pixel comes from what is pasted (Eq. 5); 0 outside of the pasted instances.

    Args:
        masks: (N, H, W) bool, disjoint.
        confidence: (N, H, W) float32.
        scores: (N,) float32, mean confidence.
        alpha: "spatial", "scalar" or "none".

    Returns:
        (H, W) float32 in [0, 1].
    """
    if alpha == "none":
        return masks.any(dim=0).to(torch.float32)
    each = confidence if alpha == "spatial" else scores[:, None, None].expand(masks.shape)
    return (each * masks).sum(dim=0)


def blend(target: torch.Tensor, source: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Eq. 5: SC * source + (1 - SC) * target.

    Args:
        target: (3, H, W) uint8.
        source: (3, H, W) float32 in [0, 255].
        strength: (H, W) float32 in [0, 1].

    Returns:
        (3, H, W) uint8, rounded to the nearest.
    """
    mixed = strength * source + (1 - strength) * target.to(torch.float32)
    return mixed.round().clamp(0, 255).to(torch.uint8)


def nearest(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resample maps by the pixel at the centre of each new one.

    Args:
        maps: (N, H, W).
        size: new height and width.

    Returns:
        (N, *size), of the same type.
    """
    rows, columns = (
        torch.from_numpy(nearest_places(old, new)).to(maps.device)
        for old, new in zip(maps.shape[1:], size, strict=True)
    )
    return maps[:, rows][:, :, columns]


def _unpasted(sample: Sample) -> Sample:
    before: Instances = sample["instances"]
    after = Instances(before.image_size, **before.get_fields())
    after.gt_pasted = torch.zeros(len(before), dtype=torch.bool, device=sample["image"].device)
    return {**sample, "instances": after}


def _draw(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _draw_int(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))
