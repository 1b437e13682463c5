"""The one interface of all feature backbones. No torch here: reading what a backbone is must be quick."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cuts3d_cli.devices import NetworkPrecision
from cuts3d_cli.errors import SettingError
from cuts3d_cli.weights.specs import WeightsSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Rgb = tuple[float, float, float]
OFFSET, EXACT = "offset", "exact"
"""How absolute positions are resampled to a grid. `offset`: without antialiasing, by a scale factor of
(grid + 0.1) / grid0, as the code of DINO and of DINOv2 without registers does. `exact`: timm's rule, antialiased, as
DINOv2's code does for models with registers."""
ANY_TIMM, ANY_HUB = "timm:", "hf-hub:"
"""What begins the names of further backbones: a network of timm, or a repository of the model hub."""
MIN_GRID = 2
"""The smallest feature map, patches a side: one patch alone has nothing to be cut from."""


class LoadBackbone(Protocol):
    """Builds a backbone and loads its weights."""

    def __call__(
        self, spec: BackboneSpec, *, size: int, weights: Path, device: str, precision: NetworkPrecision
    ) -> Backbone:
        """Build a backbone.

        Args:
            spec: what is fixed about it.
            size: side of its square input, pixels, checked by `spec.check_size`.
            weights: a file that `spec.prepare` wrote, or one that the user gave.
            device: of torch, such as "cpu" or "cuda:1"; it exists.
            precision: what it computes in, as `choose_precision` says for the device.

        Raises:
            WeightsError: the file is damaged or holds another network's weights.
        """


@dataclass(frozen=True, kw_only=True)
class BackboneSpec(WeightsSpec):
    """What is fixed about a backbone, beside what is fixed about its weights.

    Attributes:
        name: what `--backbone` takes.
        architecture: the network's name in timm, or wherever `load` takes it from.
        model_args: further arguments of the network in timm.
        fixed_size: whether the network is built for inputs of one size, as ViTs are, rather than for any.
        patch: side of a patch, pixels: the stride of the feature map.
        dim: channels of its features.
        tensor: which of its tensors the features are, in a word that `load` understands.
        size: side of the square input if none is asked for, pixels.
        resampling: `OFFSET` or `EXACT`.
        normalisation: mean and deviation of RGB in [0, 1] by which it wants images normalised; None: ImageNet's.
        tau_ncut: threshold of the affinity graph (cosine) that suits its features; None: it is not known.
        load: builds it. Called with this spec.
    """

    architecture: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    fixed_size: bool = True
    patch: int
    dim: int
    tensor: str
    size: int
    resampling: str = EXACT
    normalisation: tuple[Rgb, Rgb] | None = None
    tau_ncut: float | None
    load: LoadBackbone

    def check_size(self, size: int | None) -> int:
        """Return the side of the square input, pixels.

        Args:
            size: what was asked for, or None for the backbone's default.

        Returns:
            A multiple of `patch`.

        Raises:
            SettingError: the size is not a multiple of `patch`, or gives fewer than `MIN_GRID` patches a side.
        """
        if size is None:
            return self.size
        smallest = MIN_GRID * self.patch
        if size < smallest:
            raise SettingError("features.size", f"{size} is too small for {self.name}: the smallest is {smallest}")
        if size % self.patch:
            below = size - size % self.patch
            raise SettingError(
                "features.size",
                f"{size} is not a multiple of the patch side of {self.name}, {self.patch} pixels:"
                f" use {below} or {below + self.patch}",
            )
        return size


class Backbone(ABC):
    """A network with its weights that turns square images of one size into feature maps.

    Attributes:
        spec: what is fixed about it.
        size: side of its input, pixels.
        grid: side of its feature map, patches: `size // spec.patch`.
    """

    spec: BackboneSpec
    size: int
    grid: int

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the features of a batch of images (Sec. 3.1). An image's features do not depend on its batch.

        Args:
            images: (B, S, S, 3) uint8, RGB, S = `size`.

        Returns:
            (B, C, H, W) float32, C = `spec.dim`, H = W = `grid`; [b, :, y, x] belongs to the patch in row y and column
            x. Not normalised.

        Raises:
            ValueError: the array has another shape or dtype.
        """
        features: NDArray[np.float32] = self.extract_on_device(images).cpu().numpy()
        return features

    @abstractmethod
    def extract_on_device(self, images: NDArray[np.uint8]) -> Tensor:
        """Compute the same features and leave them on the device, float32. Arguments and errors as in `extract`."""
