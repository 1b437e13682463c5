"""How a training sample goes from a loader process to the one that trains: its pixels in one piece of shared memory.

torch shares each tensor by a file descriptor of its own. For each of them the process that trains calls back on the
one that reads, which is busy decoding the next photo; with a tensor a field it waited for these answers longer than
for the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray

from cuts3d_cli.detector.maps import ConfidenceMaps, IndexedMasks


@dataclass(frozen=True, kw_only=True)
class PackedSample:
    """A training sample on its way to another process.

    Attributes:
        pixels: (B,) uint8 in shared memory: the image, the masks and the maps of confidence, one after the other.
        shapes: of these three: (3, H, W), (N, H, W) and (M, H, W).
        numbers: what there is for each instance: boxes, classes, scores, and which map is whose.
        facts: what else the sample holds, such as its key.
    """

    pixels: torch.Tensor
    shapes: tuple[torch.Size, ...]
    numbers: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]


def packed(sample: dict[str, Any]) -> PackedSample:
    """Pack a training sample, as `samples.training_sample` makes it.

    Args:
        sample: on the CPU.
    """
    instances: Instances = sample["instances"]
    parts = (sample["image"], instances.gt_masks.maps, instances.gt_confidence.maps)
    pixels = torch.empty(sum(part.numel() for part in parts), dtype=torch.uint8).share_memory_()
    for place, part in zip(pixels.split([part.numel() for part in parts]), parts, strict=True):
        place.copy_(part.reshape(-1))
    return PackedSample(
        pixels=pixels,
        shapes=tuple(part.shape for part in parts),
        numbers={
            "boxes": instances.gt_boxes.tensor.numpy(),
            "classes": instances.gt_classes.numpy(),
            "scores": instances.gt_scores.numpy(),
            "masks": instances.gt_masks.index.numpy(),
            "confidence": instances.gt_confidence.index.numpy(),
        },
        facts={name: value for name, value in sample.items() if name not in ("image", "instances")},
    )


def unpacked(item: PackedSample) -> dict[str, Any]:
    """Return the sample in memory of its own: what is shared holds a file open."""
    sizes = [shape.numel() for shape in item.shapes]
    image, masks, confidence = (
        part.clone().view(shape) for part, shape in zip(item.pixels.split(sizes), item.shapes, strict=True)
    )
    numbers = {name: torch.from_numpy(np.array(values)) for name, values in item.numbers.items()}
    instances = Instances((image.shape[1], image.shape[2]))
    instances.gt_boxes = Boxes(numbers["boxes"])
    instances.gt_classes = numbers["classes"]
    instances.gt_masks = IndexedMasks(masks.view(torch.bool), numbers["masks"])
    instances.gt_confidence = ConfidenceMaps(confidence, numbers["confidence"])
    instances.gt_scores = numbers["scores"]
    return {**item.facts, "image": image, "instances": instances}
