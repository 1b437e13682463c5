"""The one interface of all depth sources. No torch here: reading what a source is must be quick."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Direction = Literal["distance", "disparity"]
"""`distance`: larger = farther. `disparity`: larger = nearer."""
Unit = Literal["metre", "relative"]
"""`metre`: distances in metres, disparities in 1/metre. `relative`: known only up to scale, or scale and
shift."""

MAX_ASPECT = 4.0
"""Longer images are squeezed to this ratio of sides before a network sees them, else a strip of 8000x100
pixels would become thousands of patches, or none. Not in the paper."""
MAX_INPUT_SIDE = 2048
"""Larger images are scaled down to this longer side (pixels) before a network's own resizing, which goes to a
few hundred pixels. Bounds memory. Not in the paper."""


@dataclass(frozen=True, kw_only=True)
class DepthSpec:
    """What a depth source is and gives.

    Attributes:
        name: what the user types.
        model: the hub's id of the model, or a few words on where the maps come from.
        direction: whether larger values are farther or nearer.
        unit: of the raw values.
        input_size: what the network sees, for people.
        licence: of the weights, SPDX where there is one.
        extra: the extra of this package to install (`pip install 'cuts3d[EXTRA]'`), or None where none is
            needed.
        weights_hint: what the user does where the weights are missing; ends an error line.
    """

    name: str
    model: str
    direction: Direction
    unit: Unit
    input_size: str
    licence: str
    extra: str | None
    weights_hint: str


class DepthBackend(ABC):
    """A network that estimates depth from one photo."""

    spec: DepthSpec

    @abstractmethod
    def predict(self, images: Sequence[NDArray[np.uint8]], *, max_side: int) -> list[NDArray[np.float32]]:
        """Estimate one map an image. What an image gives does not depend on the others in the call.

        Args:
            images: (h, w, 3) uint8 RGB each, of any sizes.
            max_side: bound on the longer side of the maps, pixels.

        Returns:
            A float32 map for each image, in the order given: the image's whole field of view, of the size
            that `target_size` gives, in the model's own direction and unit (see `spec`). Values are not
            checked: `maps.normalise` takes what is not finite as missing.
        """


def target_size(height: int, width: int, *, max_side: int) -> tuple[int, int]:
    """The size of the map of an image: the image's own, or scaled down to fit.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        max_side: bound on the longer side of the map, pixels, at least 1.

    Returns:
        (height, width) of the map, each at least 1; the longer side is at most `max_side`.
    """
    if max_side < 1:
        raise ValueError(f"max_side must be at least 1, not {max_side}")
    longer = max(height, width)
    if longer <= max_side:
        return height, width
    scale = max_side / longer
    return max(1, round(height * scale)), max(1, round(width * scale))


def fit_input(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bound an image's ratio of sides and its size, so that every network can take it.

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        The same array where nothing has to change; or a smaller one by LANCZOS, a strip squeezed along its longer side
        to the ratio `MAX_ASPECT`, then the whole scaled to a longer side of `MAX_INPUT_SIDE`. It covers the same field
        of view: the map made from it, stretched to the image's size, still lies on the image.
    """
    height, width = image.shape[:2]
    shorter = min(height, width)
    longer = min(max(height, width), round(MAX_ASPECT * shorter))
    scale = min(1.0, MAX_INPUT_SIDE / longer)
    size = (round(min(height, longer) * scale), round(min(width, longer) * scale))
    if size == (height, width):
        return image
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return np.array(resized)
