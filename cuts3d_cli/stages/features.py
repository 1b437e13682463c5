"""`cuts3d features`: reads base shards, writes the patch features of every image. Also computes them for `pseudo`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import Config, recorded_limits
from cuts3d_cli.devices import choose_device
from cuts3d_cli.engine.batches import infer_in_batches
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import ShardError
from cuts3d_cli.features.catalogue import BackboneSpec, backbone_spec
from cuts3d_cli.images import resize_square
from cuts3d_cli.shards.manifest import digest_file
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.features import StoredFeatures, encode
from cuts3d_cli.sidecars.finished import FinishedSidecar, finished
from cuts3d_cli.sidecars.photos import photo
from cuts3d_cli.weights.cache import resolve_weights

if TYPE_CHECKING:
    from torch import Tensor

    from cuts3d_cli.features.vit import Backbone

Say = Callable[[str], None]


class FeatureExtractor:
    """The backbone that a configuration names; weights and network are fetched when they are first needed.

    Attributes:
        spec: the backbone.
        size: side to which images are resized, pixels.
        grid: (H, W) of its features.
    """

    def __init__(self, config: Config, *, say: Say | None = None) -> None:
        """Check the names; load nothing.

        Args:
            config: sections `features` and `run`.
            say: told in a line what is being fetched.

        Raises:
            UsageError: no such backbone, or a size that is no multiple of its patches.
        """
        self.spec: BackboneSpec = backbone_spec(config.features.backbone)
        self.size = self.spec.check_size(config.features.size)
        self.grid = (self.size // self.spec.patch, self.size // self.spec.patch)
        self._config = config
        self._say = say

    @property
    def recorded(self) -> dict[str, Any]:
        """What a manifest records of it; the weights are an input of their own."""
        return {"backbone": self.spec.name, "size": self.size}

    @property
    def asks_for_weights(self) -> bool:
        """Whether a file of weights was named, rather than the backbone's own taken."""
        return self._config.features.weights is not None

    @cached_property
    def weights(self) -> Path:
        """The file of the weights.

        Raises:
            WeightsError: they cannot be had.
        """
        return resolve_weights(self.spec.name, weights=self._config.features.weights, progress=self._say)

    @cached_property
    def device(self) -> str:
        """The device that the network computes on."""
        return choose_device(self._config.run.device)

    @cached_property
    def backbone(self) -> Backbone:
        """The network."""
        from cuts3d_cli.features.vit import load_backbone

        return load_backbone(
            self.spec.name,
            size=self.size,
            weights=self.weights,
            device=self.device,
            half=self._config.run.half and self.device.startswith("cuda"),
        )

    def extract(self, images: Sequence[Image.Image]) -> list[NDArray[np.float16]]:
        """Features of photos.

        Args:
            images: RGB photos of any size.

        Returns:
            (C, H, W) float16 for each: the precision of a sidecar, so that features from there give the same masks.
        """
        squares = np.stack([resize_square(image, self.size) for image in images])
        return list(self.backbone.extract(squares).astype(np.float16))

    def extract_on_device(self, squares: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        """Features of photos that are resized already, left on the device.

        Args:
            squares: (S, S, 3) uint8, RGB, S = `size`.

        Returns:
            (C, H, W) float16 for each, the same numbers as from `extract`.
        """
        return list(self.backbone.extract_on_device(np.stack(squares)).half())


def run(
    shards: Sequence[Path], *, config: Config, progress: Progress | None = None, say: Say | None = None
) -> StageResult:
    """Compute the features of every image.

    Args:
        shards: base shards.
        config: sections `features` and `run`.
        progress: told how far it is.
        say: told in a line what is being fetched.

    Returns:
        What became of every shard.

    Raises:
        WeightsError: the backbone's weights cannot be had.
        ShardError: a shard is missing or damaged.
    """
    extractor = FeatureExtractor(config, say=say)
    decode = functools.partial(photo, max_pixels=config.run.max_image_pixels)

    def outcomes(base: Path) -> Iterator[Outcome]:
        results = infer_in_batches(
            read_shard(base), batch_size=config.run.batch_size, prepare=decode, infer=extractor.extract
        )
        for item in results:
            if item.output is None:
                yield Outcome(key=item.sample.key, failure=item.failure)
            else:
                stored = StoredFeatures(
                    features=item.output,
                    backbone=extractor.spec.name,
                    size=extractor.size,
                    tensor=extractor.spec.tensor,
                )
                yield Outcome(key=item.sample.key, members=encode(stored))

    return run_shards(
        shards,
        stage="features",
        config={"features": extractor.recorded, **recorded_limits(config.run)},
        inputs=lambda base: {"base": base, "weights": extractor.weights},
        outcomes=outcomes,
        if_exists=config.run.if_exists,
        sharing=Sharing.from_config(config.run),
        info={"device": extractor.device},
        progress=progress,
    )


def stored_features(base: Path, extractor: FeatureExtractor) -> FinishedSidecar | None:
    """Find the finished features sidecar of a shard.

    Args:
        base: the base shard.
        extractor: what the run asks for.

    Returns:
        The sidecar, or None if there is none that was finished.

    Raises:
        ShardError: it holds features of another backbone, size or file of weights.
    """
    found = finished(base, "features")
    if found is None:
        return None
    tar, manifest = found
    recorded = manifest.config.get("features", {})
    if recorded != extractor.recorded:
        raise ShardError(
            f"{tar} holds features of {recorded.get('backbone')} at {recorded.get('size')}, this run asks for"
            f" {extractor.spec.name} at {extractor.size}: pass --backbone and --size to match, or delete the file"
        )
    if extractor.asks_for_weights:
        used = manifest.inputs.get("weights")
        if used is None or digest_file(extractor.weights, known=used).sha256 != used.sha256:
            raise ShardError(
                f"{tar} holds features of other weights than --weights {extractor.weights}: run `cuts3d features` with"
                " them, or delete the file"
            )
    return found
