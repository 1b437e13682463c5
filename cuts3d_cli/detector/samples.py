"""One training sample: a photo, its masks and their Spatial Confidence, resized and flipped together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import TrainConfig
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.detector.maps import LEVELS, ConfidenceMaps, IndexedMasks
from cuts3d_cli.detector.sampling import nearest_places
from cuts3d_cli.errors import SampleError
from cuts3d_cli.sidecars.confidence import StoredConfidence
from cuts3d_cli.sidecars.masks import StoredMask


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The geometric augmentation of one sample: a resize, then a crop, then a flip.

    Attributes:
        size: height and width after the resize.
        crop: first row, first column, number of rows and of columns to keep; None keeps everything.
        flip: whether to exchange left and right.
    """

    size: tuple[int, int]
    crop: tuple[int, int, int, int] | None = None
    flip: bool = False

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width after all of it."""
        return self.size if self.crop is None else (self.crop[2], self.crop[3])

    def image(self, photo: Image.Image) -> NDArray[np.uint8]:
        """Transform a photo, bilinearly; return (H, W, 3) uint8, RGB."""
        height, width = self.size
        resized = np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR), dtype=np.uint8)
        return self._cut(resized)

    def field(self, values: NDArray[Any]) -> NDArray[Any]:
        """Transform a map that covers the photo, at any resolution; return (H, W), its value at each pixel's centre."""
        rows, columns = (nearest_places(old, new) for old, new in zip(values.shape, self.size, strict=True))
        down, across = self._window
        # Whole rows at once, then columns of them: several times as fast as pixel by pixel.
        return np.ascontiguousarray(values.take(rows[down], axis=0).take(columns[across], axis=1))

    def _cut(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Crop and flip resized pixels."""
        down, across = self._window
        return np.ascontiguousarray(pixels[down, across])

    @property
    def _window(self) -> tuple[slice, slice]:
        """The rows and columns that are kept, of those after the resize, in their order after the flip."""
        top, left, rows, columns = self.crop or (0, 0, *self.size)
        across = slice(left, left + columns)
        if self.flip:
            across = slice(left + columns - 1, left - 1 if left else None, -1)
        return slice(top, top + rows), across


def draw_geometry(size: tuple[int, int], *, config: TrainConfig, seed: Sequence[int]) -> Geometry:
    """Draw the resize and flip of a sample.

    Args:
        size: height and width of the photo.
        config: the fields `min_sizes`, `max_size` and `flip`.
        seed: of the draws; equal seeds give equal draws in any process.

    Returns:
        A geometry without a crop.
    """
    rng = np.random.default_rng(list(seed))
    shorter = int(rng.choice(config.min_sizes))
    flip = bool(rng.random() < config.flip)
    return Geometry(size=resized_shape(size, shorter=shorter, longest=config.max_size), flip=flip)


def resized_shape(size: tuple[int, int], *, shorter: int, longest: int) -> tuple[int, int]:
    """Return height and width scaled so that the shorter side is `shorter` and the longer one at most `longest`."""
    scale = min(shorter / min(size), longest / max(size))
    height, width = (max(int(side * scale + 0.5), 1) for side in size)
    return height, width


def training_sample(
    photo: Image.Image,
    stored: Sequence[StoredMask],
    confidence: StoredConfidence | None,
    *,
    geometry: Geometry,
) -> dict[str, Any]:
    """Assemble one sample in the format of detectron2.

    The confidence of an instance is 1 outside of it (paper: Sec. 3.4, under Eq. 6). Inside is where its mask is or the
    patches that were cut, which the mask refines.

    Args:
        photo: upright RGB.
        stored: the masks of the photo.
        confidence: of these masks; None is full confidence.
        geometry: what is done to the pixels.

    Returns:
        "image" (3, H, W) uint8 RGB, "height" and "width" of the photo, "instances" with gt_boxes, gt_classes, gt_masks,
        gt_confidence and gt_scores. Instances without a pixel after the augmentation are dropped.

    Raises:
        SampleError: the masks are not of this photo, or there is confidence of more or fewer.
    """
    if confidence is not None and len(confidence.maps) != len(stored):
        raise SampleError(f"there are {len(stored)} masks and {len(confidence.maps)} confidence maps")
    # Transform masks and confidence alike.
    masks, maps, scores = [], [], []
    # Rounded to their steps on the grid, and enlarged then: a quarter of the bytes, and the same values.
    steps = None if confidence is None else ConfidenceMaps.of(torch.from_numpy(confidence.maps)).maps.numpy()
    for number, item in enumerate(stored):
        height, width = item.segmentation["size"]
        if (height, width) != (photo.height, photo.width):
            raise SampleError(f"a mask is {width}x{height}, the photo {photo.width}x{photo.height}")
        mask = geometry.field(item.pixels())
        if not mask.any():
            continue
        masks.append(mask)
        if confidence is not None and steps is not None:
            region = mask if item.cut is None else mask | geometry.field(decode_rle(item.cut.patch_mask))
            maps.append(np.where(region, geometry.field(steps[number]), np.uint8(LEVELS)))
            scores.append(confidence.scores[number])
    # Store each map once, however many boxes will refer to it.
    frame = geometry.frame
    instances = Instances(frame)
    fields = IndexedMasks(torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *frame), dtype=bool)))
    instances.gt_boxes = fields.get_bounding_boxes()
    instances.gt_classes = torch.zeros(len(masks), dtype=torch.int64)
    instances.gt_masks = fields
    if confidence is None or not maps:
        instances.gt_confidence = ConfidenceMaps.ones(len(masks), frame)
        instances.gt_scores = torch.ones(len(masks))
    else:
        instances.gt_confidence = ConfidenceMaps(torch.from_numpy(np.stack(maps)))
        instances.gt_scores = torch.tensor(scores, dtype=torch.float32)
    return {
        "image": torch.from_numpy(geometry.image(photo).transpose(2, 0, 1).copy()),
        "height": photo.height,
        "width": photo.width,
        "instances": instances,
    }
