"""A shard's images as both ways of cutting take them, and as they give them back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import Config
from cuts3d_cli.cut.focal import Focal
from cuts3d_cli.cut.image import CutResult
from cuts3d_cli.engine.batch_size import BatchSize
from cuts3d_cli.engine.batches import Failed, infer_each
from cuts3d_cli.engine.pool import WorkerPool, numerics_of_one_image, result_of
from cuts3d_cli.errors import SampleError, ShardError
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.shards.reader import Sample, read_shard
from cuts3d_cli.sidecars.depth import finished_depth
from cuts3d_cli.sidecars.features import read_features
from cuts3d_cli.sidecars.finished import FinishedSidecar
from cuts3d_cli.stages.features import stored_features
from cuts3d_cli.stages.reading import Loaded, ReadTask, bytes_to_read, read_image
from cuts3d_cli.timing import StepTimer, add_seconds

if TYPE_CHECKING:
    from torch import Tensor

_Found = tuple[Sample | None, str | None]
"""A sample of a sidecar, or the reason why it is missing."""
Extract = Callable[[Sequence[NDArray[np.uint8]]], "Sequence[Tensor]"]
"""From squares, (S, S, 3) uint8, to their features, (C, H, W) float16 each, left on the network's device."""


@dataclass(frozen=True, kw_only=True)
class ImageCut:
    """An image after its cut.

    Attributes:
        key: of its sample.
        size: (height, width) of the photo.
        result: its masks; None where it failed.
        failure: why it has no result.
        seconds: by step, of all steps.
        is_relative, is_flattened, focal: as of what was read.
    """

    key: str
    size: tuple[int, int]
    result: CutResult | None
    failure: str | None
    seconds: Mapping[str, float]
    is_relative: bool = False
    is_flattened: bool = False
    focal: Focal | None = None


def load_shard(
    base: Path, *, config: Config, extractor: FeatureExtractor, with_depth: bool, pool: WorkerPool | None = None
) -> Generator[Loaded, None, None]:
    """Read the images of a shard, with what lies beside them, up to the network.

    Args:
        base: the base shard.
        config: sections `pseudo` and `run`.
        extractor: what the run asks for; stored features must be its own.
        with_depth: whether the method needs depth.
        pool: the workers that decode and resize, a bounded number of images ahead; None does it here.

    Yields:
        The images in order; one that is unusable carries its failure.

    Raises:
        ShardError: a shard is damaged, the depth sidecar is missing, or features are of another backbone.
    """
    timer = StepTimer()
    with ExitStack() as stack:
        depths = _Beside(finished_depth(base), stack=stack) if with_depth else None
        finished = stored_features(base, extractor)
        features = _Beside(finished, stack=stack) if finished else None

        def tasks() -> Iterator[tuple[tuple[str, _Found | None], ReadTask]]:
            for sample in read_shard(base):
                task = ReadTask(
                    sample=bytes_to_read(sample),
                    depth=depths.get(sample.key) if depths else None,
                    settings=config.pseudo,
                    grid=extractor.grid,
                    size=None if features else extractor.size,
                    max_pixels=config.run.max_image_pixels,
                )
                # Stored features are arrays already: they need not travel.
                yield (sample.key, features.get(sample.key) if features else None), task

        for (key, stored), future in (pool or WorkerPool(0)).in_order(read_image, tasks()):
            assert future is not None
            try:
                loaded = result_of(future)
                if stored is not None:
                    with timer.step("read"), numerics_of_one_image():
                        loaded = replace(loaded, features=read_features(*stored))
            except SampleError as error:
                loaded = Loaded(key=key, failure=str(error))
            yield replace(loaded, seconds=add_seconds(loaded.seconds, timer.take()))


def sample_features(
    shards: Sequence[Path], *, config: Config, extractor: FeatureExtractor, count: int
) -> Iterator[NDArray[np.float16]]:
    """Yield the features of the first photos of some shards, stored ones where there are any.

    Args:
        shards: base shards. One that cannot be read is passed over: whoever works on it says so.
        config: sections `pseudo` and `run`.
        extractor: what the run asks for; stored features must be its own.
        count: of photos, at most.

    Yields:
        (C, H, W) float16 a photo.
    """
    left = count
    for base in shards:
        with suppress(ShardError):
            images = (
                image
                for image in load_shard(base, config=config, extractor=extractor, with_depth=False)
                if image.failure is None
            )
            for image in with_features(
                islice(images, left),
                extract=extractor.extract_on_device,
                batch_size=BatchSize.of(config.run, device=extractor.device),
            ):
                if image.features is not None:
                    left -= 1
                    yield image.features
        if not left:
            return


def with_features(images: Iterable[Loaded], *, extract: Extract, batch_size: BatchSize) -> Iterator[Loaded]:
    """Put images through the network in batches, those whose features are stored excepted.

    Args:
        images: as `load_shard` yields them.
        extract: the network.
        batch_size: images that are held together.

    Yields:
        The images in order, each with its features or with a failure.
    """
    remaining = iter(images)
    while batch := list(islice(remaining, batch_size.current)):
        squares = [image.square for image in batch if image.square is not None]
        timer = StepTimer()
        with timer.step("features"):
            outputs = iter(
                infer_each(squares, lambda some: _on_cpu(extract(some)), what="the network", size=batch_size)
            )
        batch_size.fitted(len(squares))
        share = {name: seconds / max(len(squares), 1) for name, seconds in timer.seconds.items()}
        for image in batch:
            if image.square is None:
                yield image
                continue
            output, seconds = next(outputs), add_seconds(image.seconds, share)
            if isinstance(output, Failed):
                yield Loaded(key=image.key, failure=output.reason, seconds=seconds)
            else:
                yield replace(image, square=None, features=output, seconds=seconds)


def _on_cpu(features: Sequence[Tensor]) -> list[NDArray[np.float16]]:
    return [item.cpu().numpy() for item in features]


class _Beside:
    """A sidecar, read in step with its base shard; the stack closes it."""

    def __init__(self, sidecar: FinishedSidecar, *, stack: ExitStack) -> None:
        self._reader = stack.enter_context(sidecar.open())
        self._reasons = sidecar.failures

    def get(self, key: str) -> _Found:
        """Return the sample of that key; or None, and the reason why it is missing, if the manifest has one."""
        return self._reader.get(key), self._reasons.get(key)
