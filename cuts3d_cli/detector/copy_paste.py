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
from cuts3d_cli.detector.fields import ConfidenceMaps, IndexedMasks

Sample = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pasted:
    """Instances of one image, scaled and shifted to lie in another.

    Attributes:
        pixels: (3, H, W) float32, the source image in the target's frame, 0 beyond it.
        masks: (N, H, W) bool.
        confidence: (N, H, W) float32 in [0, 1], 1 beyond the source.
        scores: (N,) float32, mean confidence.
    """

    pixels: torch.Tensor
    masks: torch.Tensor
    confidence: torch.Tensor
    scores: torch.Tensor


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
        pasted = place(source, chosen, scaled=scaled, offset=offset, size=size)
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


def place(
    source: Sample, chosen: torch.Tensor, *, scaled: tuple[int, int], offset: tuple[int, int], size: tuple[int, int]
) -> Pasted:
    """Scale an image with some of its instances and lay it into the frame of another image.

    Args:
        source: a training sample.
        chosen: (n,) int64, its instances.
        scaled: height and width that the whole source image gets.
        offset: row and column of its first pixel in the frame.
        size: height and width of the frame; the scaled image lies within it.

    Returns:
        What is in the frame then. Instances of which no pixel is left are gone.
    """
    instances: Instances = source["instances"]
    chosen = chosen.to(instances.gt_scores.device)
    masks = instances.gt_masks[chosen].dense()
    confidence = instances.gt_confidence[chosen].dense()
    image = source["image"].to(torch.float32)
    small = functional.interpolate(image[None], scaled, mode="bilinear", align_corners=False, antialias=True)[0]
    # Masks by the nearest pixel, which neither grows nor shrinks them; confidence by the same pixel.
    masks = nearest(masks, scaled)
    confidence = nearest(confidence, scaled)
    kept = masks.flatten(1).any(dim=1)
    top, left = offset
    frame = (left, size[1] - left - scaled[1], top, size[0] - top - scaled[0])
    return Pasted(
        pixels=functional.pad(small, frame),
        masks=functional.pad(masks[kept], frame),
        confidence=functional.pad(confidence[kept], frame, value=1.0),
        scores=instances.gt_scores[chosen][kept],
    )


def paste(target: Sample, pasted: Pasted, *, alpha: str, overlap: float) -> Sample:
    """Paste instances into an image.

    Args:
        target: a training sample.
        pasted: instances in its frame; a later one lies over an earlier one.
        alpha: "spatial" blends by the confidence map (Eq. 5), "scalar" by the mean confidence (Table 8b), "none" not.
        overlap: instances that would hide at least this share of one of the target's are left out.

    Returns:
        A new sample: the image blended; masks of the target cut where something lies over them, and gone where nothing
        of them is left; boxes as the masks now are; confidence 1 where an instance no longer is.
    """
    before: Instances = target["instances"]
    own = before.gt_masks.dense()
    shared = (own[:, None] & pasted.masks[None]).flatten(2).sum(dim=2)
    hides = shared >= overlap * own.flatten(1).sum(dim=1).clamp(min=1)[:, None]
    kept = ~hides.any(dim=0) if len(own) else torch.ones(len(pasted.masks), dtype=torch.bool, device=own.device)
    if not bool(kept.any()):
        return _unpasted(target)
    masks, confidence, scores = pasted.masks[kept], pasted.confidence[kept], pasted.scores[kept]
    # Instances of one image may overlap: what lies over others hides them.
    over = torch.flip(torch.cumsum(torch.flip(masks.to(torch.int32), [0]), dim=0), [0]) - masks.to(torch.int32)
    masks = masks & (over == 0)
    strength = opacity(masks, confidence, scores, alpha=alpha)
    image = blend(target["image"], pasted.pixels, strength)
    own = own & ~masks.any(dim=0)
    every = IndexedMasks(torch.cat([own, masks]))
    own_confidence = torch.where(own, before.gt_confidence.dense(), 1.0)
    after = Instances(before.image_size)
    after.gt_boxes = every.get_bounding_boxes()
    after.gt_classes = torch.zeros(len(every), dtype=torch.int64, device=own.device)
    after.gt_masks = every
    after.gt_confidence = ConfidenceMaps.of(torch.cat([own_confidence, torch.where(masks, confidence, 1.0)]))
    after.gt_scores = torch.cat([before.gt_scores, scores])
    after.gt_pasted = torch.arange(len(every), device=own.device) >= len(own)
    return {**target, "image": image, "instances": after[every.nonempty()]}


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
        ((torch.arange(new, device=maps.device) + 0.5) * (old / new)).floor().long().clamp(max=old - 1)
        for new, old in zip(size, maps.shape[1:], strict=True)
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
