"""Training batches straight from shards: nothing is indexed beforehand, and a run goes on where it was stopped.

The order of an epoch is a function of the seed: shards are drawn at random and taken in windows, the samples of a
window are mixed. Every reader knows its places in that order without reading what lies before, so that

- each sample comes once an epoch, whatever the number of ranks and of loader processes,
- what a rank sees does not depend on the number of its loader processes,
- the position is a number, and a run that goes on at it sees what it would have seen.

Memory: the names of the samples of one window, and for each loader process two decoded samples.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cuts3d_cli.config import MAX_IMAGE_PIXELS, TrainConfig
from cuts3d_cli.detector.samples import draw_geometry, training_sample
from cuts3d_cli.errors import SampleError, ShardError
from cuts3d_cli.shards.names import sidecar
from cuts3d_cli.shards.reader import Sample, SidecarReader
from cuts3d_cli.sidecars.confidence import current_confidence
from cuts3d_cli.sidecars.confidence import decode as decode_confidence
from cuts3d_cli.sidecars.finished import require
from cuts3d_cli.sidecars.masks import decode as decode_masks
from cuts3d_cli.sidecars.photos import photo

MAX_FAILED_SHARE = 0.5
"""More images than this share must not be unusable."""
_JUDGED_AFTER = 100
MAX_OPEN = 64
"""Shards that a loader process keeps open at once, and the most that a window has."""
_UPRIGHT, _LYING = 0, 1


@dataclass(frozen=True, kw_only=True)
class TrainingShard:
    """The files of one shard that training reads.

    Attributes:
        base: the photos.
        pseudo: the masks.
        confidence: how sure they are, if that is used.
        samples: images with masks on record, of which some may have none.
        digest: sha256 of the masks and of the confidence, together.
    """

    base: Path
    pseudo: Path
    confidence: Path | None
    samples: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A place in the order that gives no training sample.

    Attributes:
        shard: the base shard.
        key: of the sample.
        reason: what is wrong with it; None if it merely has no masks.
    """

    shard: str
    key: str
    reason: str | None


@dataclass
class Position:
    """Where a rank is in its order.

    Attributes:
        taken: places that were taken.
        waiting: of these, the places of samples that wait for a batch of their shape to fill.
    """

    taken: int = 0
    waiting: list[int] = field(default_factory=list)


def training_shards(bases: Sequence[Path], *, stage: str = "pseudo", with_confidence: bool) -> list[TrainingShard]:
    """Find what training reads.

    Args:
        bases: base shards.
        stage: of the masks, as in "pseudo" or "pseudo.st1".
        with_confidence: whether Spatial Confidence is used.

    Raises:
        ShardError: masks or confidence are missing, unfinished, or were made from other files.
    """
    found = []
    for base in bases:
        masks = require(base, stage)
        confidence = current_confidence(base) if with_confidence else None
        if with_confidence and confidence is None:
            raise ShardError(
                f"{sidecar(base, 'confidence')} is missing or unfinished: run `cuts3d confidence --shards {base}`, or"
                " train without it: --copy-paste-select random --alpha none --no-soft-loss"
            )
        found.append(
            TrainingShard(
                base=base,
                pseudo=masks.tar,
                confidence=confidence.tar if confidence else None,
                samples=masks.manifest.counts["samples_out"],
                digest=masks.manifest.sha256 + (confidence.manifest.sha256 if confidence else ""),
            )
        )
    if not sum(shard.samples for shard in found):
        raise ShardError("the shards hold no image with masks on record: nothing can be learned from them")
    return found


class SampleOrder:
    """The order of all samples over all epochs.

    Args:
        counts: samples of each shard.
        seed: of the order.
        window: samples that are mixed at once, in whole shards.
    """

    def __init__(self, counts: Sequence[int], *, seed: int, window: int) -> None:
        """See the class."""
        self.counts = np.asarray(counts, dtype=np.int64)
        self.seed = seed
        self.window = window
        self.total = int(self.counts.sum())
        self._windows: tuple[int, list[tuple[int, NDArrayInt]]] | None = None
        self._mixed: tuple[tuple[int, int], NDArrayInt] | None = None

    def at(self, place: int) -> tuple[int, int, int]:
        """What is at a place.

        Args:
            place: from 0 on, over all epochs.

        Returns:
            The epoch, the shard's number, and the sample's number in the shard.
        """
        epoch, offset = divmod(place, self.total)
        windows = self._epoch(epoch)
        number = int(np.searchsorted([start for start, _ in windows], offset, side="right")) - 1
        start, shards = windows[number]
        if self._mixed is None or self._mixed[0] != (epoch, number):
            rng = np.random.default_rng([self.seed, epoch, number + 1])
            self._mixed = ((epoch, number), rng.permutation(int(self.counts[shards].sum())))
        inside = int(self._mixed[1][offset - start])
        ends = np.cumsum(self.counts[shards])
        which = int(np.searchsorted(ends, inside, side="right"))
        return epoch, int(shards[which]), inside - int(ends[which - 1] if which else 0)

    def _epoch(self, epoch: int) -> list[tuple[int, NDArrayInt]]:
        """First place and shards of each window."""
        if self._windows is None or self._windows[0] != epoch:
            order = np.random.default_rng([self.seed, epoch, 0]).permutation(len(self.counts))
            windows: list[tuple[int, NDArrayInt]] = []
            start, held, current = 0, 0, []
            for shard in order:
                current.append(shard)
                held += int(self.counts[shard])
                if held >= self.window or len(current) == MAX_OPEN:
                    windows.append((start, np.asarray(current)))
                    start, held, current = start + held, 0, []
            if held:
                windows.append((start, np.asarray(current)))
            self._windows = (epoch, windows)
        return self._windows[1]


NDArrayInt = np.ndarray[Any, np.dtype[np.int64]]


class SampleStream(IterableDataset[Any]):
    """The samples of one rank, on and on: a decoded sample for each place of its order, or why there is none.

    Args:
        shards: what to read.
        config: the fields on data, and the seed.
        rank: of this process.
        world_size: processes that train.
        start: places to begin with: those that wait, and the first one not taken.
        max_image_pixels: photos with more are skipped.
    """

    def __init__(
        self,
        shards: Sequence[TrainingShard],
        *,
        config: TrainConfig,
        rank: int,
        world_size: int,
        start: Position,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        """See the class."""
        self.shards = list(shards)
        self.config = config
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self.max_image_pixels = max_image_pixels

    def places(self) -> Iterator[int]:
        """Places of this rank, counted in its own order."""
        yield from self.start.waiting
        place = self.start.taken
        while True:
            yield place
            place += 1

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | Skipped]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            torch.set_num_threads(1)
        order = SampleOrder(
            [shard.samples for shard in self.shards], seed=self.config.seed, window=self.config.shuffle_window
        )
        files = _OpenShards(self.shards)
        for count, place in enumerate(self.places()):
            # The loader takes from its processes in turn, so that the places come in order.
            if count % workers == number:
                yield place, self._sample(order.at(place * self.world_size + self.rank), files)

    def _sample(self, where: tuple[int, int, int], files: _OpenShards) -> dict[str, Any] | Skipped:
        epoch, shard, number = where
        base = self.shards[shard].base
        key = files.key(shard, number)
        try:
            mask_sample, image, confidence = files.read(shard, key)
            masks = decode_masks(mask_sample).instances
            if not masks:
                return Skipped(shard=base.name, key=key, reason=None)
            if image is None:
                raise SampleError("the base shard has no such image")
            if self.shards[shard].confidence is not None and confidence is None:
                raise SampleError("it failed in `cuts3d confidence`")
            picture = photo(image, max_pixels=self.max_image_pixels)
            seed = (self.config.seed, epoch, zlib.crc32(f"{base.name}/{key}".encode()))
            sample = training_sample(
                picture,
                masks,
                decode_confidence(confidence) if confidence else None,
                geometry=draw_geometry((picture.height, picture.width), config=self.config, seed=seed),
            )
        except SampleError as error:
            return Skipped(shard=base.name, key=key, reason=str(error))
        if not len(sample["instances"]):
            return Skipped(shard=base.name, key=key, reason=None)
        return {**sample, "key": key, "shard": base.name}


def _owned(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample from another process with memory of its own: what is shared holds a file open for each tensor."""
    instances: Instances = sample["instances"]
    fields = {name: value.clone() for name, value in instances.get_fields().items()}
    return {**sample, "image": sample["image"].clone(), "instances": Instances(instances.image_size, **fields)}


class _OpenShards:
    """Readers of the shards in use."""

    def __init__(self, shards: Sequence[TrainingShard]) -> None:
        self.shards = shards
        self._readers: dict[int, tuple[SidecarReader, SidecarReader, SidecarReader | None]] = {}

    def key(self, shard: int, number: int) -> str:
        keys = self._open(shard)[1].keys
        if len(keys) != self.shards[shard].samples:
            raise ShardError(
                f"{self.shards[shard].pseudo} holds {len(keys)} samples, its manifest says"
                f" {self.shards[shard].samples}: make it anew with --if-exists overwrite"
            )
        return keys[number]

    def read(self, shard: int, key: str) -> tuple[Sample, Sample | None, Sample | None]:
        """Read the samples of a key: masks, photo and confidence."""
        base, pseudo, confidence = self._open(shard)
        masks = pseudo.pick(key)
        assert masks is not None, "the key is one of the masks' own"
        return masks, base.pick(key), confidence.pick(key) if confidence else None

    def _open(self, shard: int) -> tuple[SidecarReader, SidecarReader, SidecarReader | None]:
        if shard not in self._readers:
            while len(self._readers) >= MAX_OPEN:  # the one opened first is the likeliest to be done
                for reader in self._readers.pop(next(iter(self._readers))):
                    if reader:
                        reader.close()
            files = self.shards[shard]
            confidence = SidecarReader(files.confidence) if files.confidence else None
            self._readers[shard] = (SidecarReader(files.base), SidecarReader(files.pseudo), confidence)
        return self._readers[shard]


class Batches:
    """Batches of one rank, on and on.

    Args:
        shards: what to read.
        config: the fields on data, and the seed.
        batch_size: images in a batch of this rank.
        rank: of this process.
        world_size: processes that train.
        start: where an earlier run stopped.
        max_image_pixels: photos with more are skipped.
        skipped: told, once an image, of images that cannot be used.

    Attributes:
        position: where the run stands after the batch that was given last.
    """

    def __init__(
        self,
        shards: Sequence[TrainingShard],
        *,
        config: TrainConfig,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        start: Position | None = None,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
        skipped: Callable[[Skipped], None] | None = None,
    ) -> None:
        """See the class."""
        begin = start or Position()
        self.position = Position(taken=begin.taken, waiting=list(begin.waiting))
        self._batch_size = batch_size
        self._grouped = config.group_by_aspect
        self._told: set[tuple[str, str]] = set()
        self._tell = skipped
        self._total = -(-sum(shard.samples for shard in shards) // world_size)
        stream = SampleStream(
            shards,
            config=config,
            rank=rank,
            world_size=world_size,
            start=self.position_copy(),
            max_image_pixels=max_image_pixels,
        )
        # Its own generator: the loader draws a number when it starts, which a run that goes on would draw once more.
        self._loader = DataLoader(
            stream,
            batch_size=None,
            num_workers=config.loader_workers,
            persistent_workers=config.loader_workers > 0,
            generator=torch.Generator().manual_seed(config.seed),
        )

    def position_copy(self) -> Position:
        """The position, as it is now."""
        return Position(taken=self.position.taken, waiting=list(self.position.waiting))

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Batches without end.

        Raises:
            ShardError: no image has masks, or most of them cannot be used.
        """
        groups: dict[int, list[tuple[int, dict[str, Any]]]] = {_UPRIGHT: [], _LYING: []}
        recalled = len(self.position.waiting)
        barren = taken = failed = 0
        for place, item in self._loader:
            if recalled:
                recalled -= 1
            else:
                self.position.taken = place + 1
            taken += 1
            if isinstance(item, Skipped):
                barren += 1
                failed += item.reason is not None
                self._note(item)
                if barren > self._total:
                    raise ShardError(
                        "no image of the shards has masks that can be used: nothing can be learned from them"
                    )
                if taken >= _JUDGED_AFTER and failed > MAX_FAILED_SHARE * taken:
                    raise ShardError(
                        f"{failed} of {taken} images cannot be used, the last one: {item.key}: {item.reason}"
                    )
                continue
            barren = 0
            item = _owned(item) if self._loader.num_workers else item
            height, width = item["instances"].image_size
            group = groups[_LYING if width >= height and self._grouped else _UPRIGHT]
            group.append((place, item))
            if len(group) == self._batch_size:
                batch = [sample for _, sample in group]
                group.clear()
                # In the order in which they were taken, so that they fall into the same groups again.
                self.position.waiting = sorted(number for members in groups.values() for number, _ in members)
                yield batch

    def _note(self, item: Skipped) -> None:
        if item.reason is not None and (item.shard, item.key) not in self._told:
            self._told.add((item.shard, item.key))
            if self._tell:
                self._tell(item)
