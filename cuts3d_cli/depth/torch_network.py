"""What the networks share: bounds on sizes, batching by shape, precision, resizing to the size of the map."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch.nn import functional

from cuts3d_cli.depth.base import DepthBackend, DepthSpec
from cuts3d_cli.devices import NetworkPrecision, autocasting, computing
from cuts3d_cli.errors import SampleError
from cuts3d_cli.images import IMAGENET_MEAN, IMAGENET_STD

MAX_ASPECT = 4.0
"""Longer images are squeezed to this ratio of sides before a network sees them, else a strip of 8000x100
pixels would become thousands of patches, or none. Not in the paper."""
MAX_INPUT_SIDE = 2048
"""Larger images are scaled down to this longer side (pixels) before a network's own resizing, which goes to a
few hundred pixels. Bounds memory. Not in the paper."""


class TorchDepthBackend(DepthBackend):
    """A depth network in torch.

    Args:
        spec: what it gives.
        device: of torch.
        precision: what it computes in; in 16 bits by autocast.
        files: that it was read from.

    Attributes:
        autocasts: whether the network has float32 weights and computes in 16 bits by autocast.
    """

    precision: NetworkPrecision
    autocasts = True

    def __init__(
        self, spec: DepthSpec, *, device: str, precision: NetworkPrecision, files: Sequence[Path] = ()
    ) -> None:
        """Keep what every network has."""
        self.spec = spec
        self.files = tuple(files)
        self.device = torch.device(device)
        self.precision = precision

    @abstractmethod
    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """Return what the network sees: (h, w, 3) uint8 RGB, after `fit_input` -> (3, H, W) float32."""

    @abstractmethod
    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """Return maps, each from its image alone: (n, 3, H, W) float32 on the device -> (n, H', W') floats."""

    def infer_prompted(self, batch: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """Return the map of one image with the map of a sensor: (1, 3, H, W) and (1, 1, h, w) metres -> (1, H', W')."""
        raise NotImplementedError(f"{self.spec.name} takes no prompts")

    def finish(self, values: torch.Tensor, *, size: tuple[int, int]) -> torch.Tensor:
        """Return the map of an image's field of view from the (H', W') float32 map of an image of `size` (h, w)."""
        return values

    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        max_side: int,
        prompts: Sequence[NDArray[np.float32]] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Estimate one map an image, as `DepthBackend` says.

        On the CPU each image runs alone: last digits depend on the size of a batch there, and time does not. On CUDA
        images that the network sees at one size run in one batch.
        """
        # Bring every image to the network's input, and put those that can run together into a group.
        fitted = [fit_input(image) for image in images]
        prepared = [self.prepare(image) for image in fitted]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, tensor in enumerate(prepared):
            alone = self.device.type == "cpu" or prompts is not None
            groups.setdefault((index,) if alone else tuple(tensor.shape), []).append(index)

        # Each group is a batch; its maps are brought to the sizes of their own images.
        maps: dict[int, NDArray[np.float32]] = {}
        for indices in groups.values():
            with torch.inference_mode(), self._numerics():
                batch = torch.stack([prepared[index] for index in indices]).to(self.device)
                prompt = None if prompts is None else to_prompt(prompts[indices[0]]).to(self.device)
                outputs = self.infer(batch) if prompt is None else self.infer_prompted(batch, prompt)
            with torch.inference_mode():
                for index, output in zip(indices, outputs, strict=True):
                    values = self.finish(output.float(), size=fitted[index].shape[:2])
                    size = target_size(*images[index].shape[:2], max_side=max_side)
                    maps[index] = resize_map(values, size=size).cpu().numpy()
        return [maps[index] for index in range(len(images))]

    @contextmanager
    def _numerics(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self.device.type == "cuda":  # The same input gives the same bits, whatever ran before.
                stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True))
            stack.enter_context(computing(self.precision, device=self.device))
            if self.autocasts:
                stack.enter_context(autocasting(self.precision, device=self.device))
            yield


def target_size(height: int, width: int, *, max_side: int) -> tuple[int, int]:
    """Return the size of the map of an image: the image's own, or scaled down to fit.

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


def resize_map(values: torch.Tensor, *, size: tuple[int, int]) -> torch.Tensor:
    """Resize a map, bilinear, antialiased where it shrinks.

    Args:
        values: (h, w) float32.
        size: (height, width) of the result.

    Returns:
        float32 of `size`.
    """
    if tuple(values.shape) == tuple(size):
        return values
    return functional.interpolate(values[None, None], size=size, mode="bilinear", antialias=True)[0, 0]


def to_prompt(sensor: NDArray[np.float32]) -> torch.Tensor:
    """Return a sensor's map as a prompt, what was not measured taken from the nearest pixel that was.

    Args:
        sensor: (h, w) float32, metres; NaN, infinite and not positive values are missing.

    Returns:
        (1, 1, h, w) float32, metres.

    Raises:
        SampleError: nothing was measured.
    """
    valid = np.isfinite(sensor) & (sensor > 0)
    if not valid.any():
        raise SampleError("the sensor map has no valid pixel")
    nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    return torch.from_numpy(np.ascontiguousarray(sensor[tuple(nearest)], dtype=np.float32))[None, None]


def to_unit_tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    """Return an image as a tensor: (h, w, 3) uint8 -> (3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), dtype=np.float32)) / 255.0


def imagenet_normalise(tensor: torch.Tensor) -> torch.Tensor:
    """Normalise (3, h, w) float32 in [0, 1] by mean and deviation over ImageNet, channel by channel."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (tensor - mean) / std
