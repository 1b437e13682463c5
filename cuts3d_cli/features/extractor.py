"""The extractor: from a configuration and photos to features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import Config, recorded_precision
from cuts3d_cli.devices import NetworkPrecision, choose_device, choose_precision
from cuts3d_cli.features.base import Backbone, BackboneSpec
from cuts3d_cli.features.catalogue import backbone_spec, load_backbone, with_tensor
from cuts3d_cli.images import resize_square
from cuts3d_cli.weights.cache import resolve_weights
from cuts3d_cli.wording import Say

if TYPE_CHECKING:
    from torch import Tensor


class FeatureExtractor:
    """The backbone that a configuration names, applied to photos. Weights and network are loaded when first needed.

    Attributes:
        spec: the backbone.
        size: side to which images are resized, pixels.
        grid: (H, W) of its features.
    """

    def __init__(self, config: Config, *, say: Say | None = None) -> None:
        """Check the names; load nothing.

        Args:
            config: sections `features` and `run`.
            say: prints a status line.

        Raises:
            UsageError: no such backbone, or a size that is no multiple of its patches.
        """
        self.spec: BackboneSpec = with_tensor(backbone_spec(config.features.backbone), config.features.tensor)
        self.size = self.spec.check_size(config.features.size)
        self.grid = (self.size // self.spec.patch, self.size // self.spec.patch)
        self._config = config
        self._say = say

    @property
    def recorded(self) -> dict[str, Any]:
        """The facts that a manifest records; the weights are an input of their own."""
        chosen = self._config.features.tensor
        return {"backbone": self.spec.name, "size": self.size, **({"tensor": chosen} if chosen else {})}

    @property
    def recorded_precision(self) -> dict[str, str]:
        """What a manifest says of the network's precision; nothing where none was chosen, or the network never ran."""
        return recorded_precision(self._config.run) if self.is_loaded else {}

    @property
    def is_loaded(self) -> bool:
        """Whether the network is in memory."""
        return "backbone" in vars(self)

    @property
    def asks_for_weights(self) -> bool:
        """Whether a file of weights was named, rather than the backbone's own taken."""
        return self._config.features.weights is not None

    @cached_property
    def weights(self) -> Path:
        """The file of the weights.

        Raises:
            WeightsError: they are unavailable.
        """
        return resolve_weights(self.spec, weights=self._config.features.weights, say=self._say)

    @cached_property
    def device(self) -> str:
        """The device that the network computes on."""
        return choose_device(self._config.run.device)

    @cached_property
    def precision(self) -> NetworkPrecision:
        """What the network computes in."""
        return choose_precision(self._config.run.precision, device=self.device)

    @cached_property
    def backbone(self) -> Backbone:
        """The network."""
        return load_backbone(
            self.spec,
            size=self.size,
            weights=self.weights,
            device=self.device,
            precision=self.precision,
        )

    def extract(self, images: Sequence[Image.Image]) -> list[NDArray[np.float16]]:
        """Compute the features of photos.

        Args:
            images: RGB photos of any size.

        Returns:
            (C, H, W) float16 for each: the precision of a sidecar, so that features from there give the same masks.
        """
        return self.extract_squares([resize_square(image, self.size) for image in images])

    def extract_squares(self, squares: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float16]]:
        """Compute the features of photos that are resized already.

        Args:
            squares: (S, S, 3) uint8, RGB, S = `size`.

        Returns:
            (C, H, W) float16 for each, as from `extract`.
        """
        return list(self.backbone.extract(np.stack(squares)).astype(np.float16))

    def extract_on_device(self, squares: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        """Compute the features of photos that are resized already, and leave them on the device.

        Args:
            squares: (S, S, 3) uint8, RGB, S = `size`.

        Returns:
            (C, H, W) float16 for each, the same numbers as from `extract`.
        """
        return list(self.backbone.extract_on_device(np.stack(squares)).half())
