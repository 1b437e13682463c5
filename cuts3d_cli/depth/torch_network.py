"""What the networks share: batching by shape, precision, resizing to the map's size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from cuts3d_cli.depth.base import DepthBackend, DepthSpec, fit_input, target_size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class TorchDepthBackend(DepthBackend):
    """A depth network in torch."""

    def __init__(self, spec: DepthSpec, *, device: str, half: bool) -> None:
        """Keep what every network has.

        Args:
            spec: what it gives.
            device: of torch.
            half: autocast to float16; only sensible on CUDA.
        """
        self.spec = spec
        self.device = torch.device(device)
        self.half = half

    @abstractmethod
    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """(h, w, 3) uint8 RGB, after `fit_input` -> (3, H, W) float32, what the network sees."""

    @abstractmethod
    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) float32 on the device -> (n, H', W') of any float type, each from its own image alone."""

    def finish(self, values: torch.Tensor, *, size: tuple[int, int]) -> torch.Tensor:
        """(H', W') float32 map of an image of `size` (height, width) -> map of the image's field of view."""
        return values

    def predict(self, images: Sequence[NDArray[np.uint8]], *, max_side: int) -> list[NDArray[np.float32]]:
        """See `DepthBackend.predict`. Images that the network sees at one size go through it together."""
        fitted = [fit_input(image) for image in images]
        prepared = [self.prepare(image) for image in fitted]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, tensor in enumerate(prepared):
            groups.setdefault(tuple(tensor.shape), []).append(index)

        maps: dict[int, NDArray[np.float32]] = {}
        for indices in groups.values():
            with torch.inference_mode(), self._numerics():
                batch = torch.stack([prepared[index] for index in indices]).to(self.device)
                outputs = self.infer(batch)
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
            if self.half:
                stack.enter_context(torch.autocast(self.device.type, dtype=torch.float16))
            yield


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


def to_unit_tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    """(h, w, 3) uint8 -> (3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), dtype=np.float32)) / 255.0


def imagenet_normalise(tensor: torch.Tensor) -> torch.Tensor:
    """(3, h, w) float32 in [0, 1] -> zero mean and unit deviation over ImageNet, channel by channel."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (tensor - mean) / std
