"""Per-pixel fields of detectron2's `Instances`: masks, and the confidence of their pixels.

When boxes are sampled for the heads, detectron2 gathers every ground-truth field for each of up to 512 boxes per image.
Here only an index is gathered: the maps of an image are stored once, however many boxes refer to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from detectron2.structures import Boxes
from torchvision.ops import roi_align

LEVELS = 255
_Maps = TypeVar("_Maps", bound="_IndexedMaps")


class _IndexedMaps:
    """Maps that are stored once and referred to by index.

    Args:
        maps: (K, H, W).
        index: (N,) int64, the map of each instance; by default, each map is one instance's.

    Raises:
        ValueError: the maps have another shape.
    """

    def __init__(self, maps: torch.Tensor, index: torch.Tensor | None = None) -> None:
        if maps.dim() != 3:
            raise ValueError(f"maps have shape {tuple(maps.shape)}: expected (K, H, W)")
        self.maps = maps
        self.index = torch.arange(len(maps), device=maps.device) if index is None else index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self: _Maps, item: int | slice | torch.Tensor) -> _Maps:
        chosen = self.index[item]
        return type(self)(self.maps, chosen.reshape(1) if chosen.dim() == 0 else chosen)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} of {tuple(self.maps.shape)})"

    @property
    def device(self) -> torch.device:
        """The device of the maps."""
        return self.maps.device

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the maps."""
        return self.maps.shape[1], self.maps.shape[2]

    def to(self: _Maps, *arguments: Any, **named: Any) -> _Maps:
        """Return the field on another device, with arguments as `torch.Tensor.to` takes them."""
        return type(self)(self.maps.to(*arguments, **named), self.index.to(*arguments, **named))

    def clone(self: _Maps) -> _Maps:
        """Return a copy with memory of its own."""
        return type(self)(self.maps.clone(), self.index.clone())

    def gathered(self) -> torch.Tensor:
        """Return the map of each instance, (N, H, W), as stored."""
        return self.maps[self.index]

    @classmethod
    def cat(cls: type[_Maps], items: Sequence[_Maps]) -> _Maps:
        """Concatenate fields of one size; maps without an instance are dropped.

        Raises:
            ValueError: there are no fields.
        """
        if not items:
            raise ValueError("there are no fields to concatenate")
        return cls(torch.cat([item.gathered() for item in items]))

    def _crops(self, maps: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
        """Return averages of maps on the grids of boxes, (N, size, size), resampled as detectron2 does masks."""
        rois = torch.cat([self.index[:, None].to(boxes.dtype), boxes], dim=1)
        return roi_align(maps[:, None], rois, (size, size), 1.0, 0, True)[:, 0]


class IndexedMasks(_IndexedMaps):
    """Masks of instances, (K, H, W) bool, in place of detectron2's `BitMasks`."""

    def dense(self) -> torch.Tensor:
        """Return the mask of each instance, (N, H, W) bool."""
        return self.gathered()

    def nonempty(self) -> torch.Tensor:
        """Return which masks have a pixel, (N,) bool."""
        return self.maps.flatten(1).any(dim=1)[self.index]

    def area(self) -> torch.Tensor:
        """Return the areas of the masks in pixels, (N,) int64."""
        return torch.count_nonzero(self.maps, dim=(1, 2))[self.index]

    def get_bounding_boxes(self) -> Boxes:
        """Return the boxes of the masks, x0, y0, x1, y1 with x1 and y1 behind the last pixel; 0 for an empty mask."""
        # How far each row and column of a mask lies from the end and from the start: the greatest ones are its sides.
        reach: list[torch.Tensor] = []
        height, width = self.image_size
        for dim, size in ((1, width), (2, height)):
            behind = torch.arange(1, size + 1, device=self.device, dtype=torch.float32)
            both = torch.stack([behind.flip(0), behind])
            reach.append((self.maps.any(dim=dim)[:, None] * both).amax(dim=2))
        (left, right), (top, bottom) = (item.unbind(dim=1) for item in reach)
        boxes = torch.stack([width - left, height - top, right, bottom], dim=1) * (right > 0)[:, None]
        return Boxes(boxes[self.index])

    def crop_and_resize(self, boxes: torch.Tensor, size: int) -> torch.Tensor:
        """Resample the masks within boxes, as targets of the mask head; equal to the result of `BitMasks`.

        Args:
            boxes: (N, 4) float32, x0, y0, x1, y1 in pixels.
            size: side of the result.

        Returns:
            (N, size, size) bool.
        """
        return self._crops(self.maps.to(torch.float32), boxes.to(self.device), size) >= 0.5


class ConfidenceMaps(_IndexedMaps):
    """Spatial Confidence of instances, (K, H, W) uint8 in steps of 1/255; 255 outside of an instance."""

    @classmethod
    def of(cls, values: torch.Tensor) -> ConfidenceMaps:
        """Quantise maps, (K, H, W) float in [0, 1]."""
        return cls((values * LEVELS).round().to(torch.uint8))

    @classmethod
    def ones(cls, count: int, size: tuple[int, int], *, device: torch.device | str = "cpu") -> ConfidenceMaps:
        """Return full confidence everywhere: one map for all of `count` instances."""
        maps = torch.full((1, *size), LEVELS, dtype=torch.uint8, device=device)
        return cls(maps, torch.zeros(count, dtype=torch.int64, device=device))

    def dense(self) -> torch.Tensor:
        """Return the map of each instance, (N, H, W) float32 in [0, 1]."""
        return self.gathered().to(torch.float32) / LEVELS

    def crop_and_resize(self, boxes: torch.Tensor, size: int) -> torch.Tensor:
        """Resample the confidence within boxes as masks are, so that both stay aligned.

        Args:
            boxes: (N, 4) float32, x0, y0, x1, y1 in pixels.
            size: side of the result.

        Returns:
            (N, size, size) float32 in [0, 1]; 1 beyond the image.
        """
        # Average doubt, which is 0 beyond the image; without doubt the result is exactly 1.
        doubt = (LEVELS - self.maps.to(torch.float32)) / LEVELS
        return 1 - self._crops(doubt, boxes.to(self.device), size)
