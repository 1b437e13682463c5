"""Training batches straight from shards: nothing is indexed beforehand, and a stopped run resumes at its place.

Every reader looks up its places in the order (`order.SampleOrder`) without reading what lies before, so that

- each sample comes once an epoch, whatever the number of ranks and of loader processes,
- what a rank sees does not depend on the number of its loader processes,
- the position is a number, and a run that resumes at it sees what it would have seen.

Memory: the keys of the samples of one window, and two decoded samples for each loader process.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cuts3d_cli import interrupts
from cuts3d_cli.config import MAX_IMAGE_PIXELS, TrainConfig
from cuts3d_cli.detector.order import MAX_WINDOW_SHARDS, Position, SampleOrder
from cuts3d_cli.detector.samples import draw_geometry, training_sample
from cuts3d_cli.detector.transfer import PackedSample, packed, unpacked
from cuts3d_cli.devices import require_processes
from cuts3d_cli.engine.worker import end_with_parent
from cuts3d_cli.errors import Command, Cuts3dError, SampleError, Setting, ShardError
from cuts3d_cli.shards.names import failed_in, sidecar
from cuts3d_cli.shards.reader import Sample, SidecarReader
from cuts3d_cli.sidecars.confidence import current_confidence
from cuts3d_cli.sidecars.confidence import decode as decode_confidence
from cuts3d_cli.sidecars.finished import mixed_settings, require
from cuts3d_cli.sidecars.masks import decode as decode_masks
from cuts3d_cli.sidecars.photos import photo
from cuts3d_cli.wording import Say, counted, listed

MAX_FAILED_SHARE = 0.5
"""Training stops when more than this share of the images is unusable."""
_JUDGED_AFTER = 100
"""Images that are read before that share is looked at."""
_PORTRAIT, _LANDSCAPE = 0, 1


@dataclass(frozen=True, kw_only=True)
class TrainingShard:
    """The files of one shard that training reads.

    Attributes:
        base: the tar of photos.
        pseudo: the tar of masks.
        confidence: the tar of Spatial Confidence; None where training does not use it.
        samples: number of images with a record of masks; a record may be empty.
        digest: sha256 of the masks, followed by that of the confidence.
    """

    base: Path
    pseudo: Path
    confidence: Path | None
    samples: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class SkippedSample:
    """A place in the order that gives no training sample.

    Attributes:
        shard: file name of the base shard.
        key: of the sample.
        reason: what is wrong with the sample; None if it merely has no masks.
    """

    shard: str
    key: str
    reason: str | None


def training_shards(
    bases: Sequence[Path], *, stage: str = "pseudo", with_confidence: bool, say: Say | None = None
) -> list[TrainingShard]:
    """Find the files that training reads.

    Args:
        bases: base shards.
        stage: of the masks, such as "pseudo" or "pseudo.st1".
        with_confidence: whether training uses Spatial Confidence.
        say: prints a warning.

    Returns:
        One record a base shard, in the same order.

    Raises:
        ShardError: masks or confidence are missing, unfinished or stale, or no shard has a record of masks.
    """
    found = []
    stored = [require(base, stage) for base in bases]
    if say is not None and (mixed := mixed_settings(stored)):
        say(f"warning: {mixed}")
    for base, masks in zip(bases, stored, strict=True):
        confidence = current_confidence(base) if with_confidence else None
        if with_confidence and confidence is None:
            raise ShardError(
                f"{sidecar(base, 'confidence')} is missing or unfinished: run ",
                Command("confidence", shards=base),
                ", or train without confidence (copy_paste_select random, alpha none, soft_loss off)",
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
        raise ShardError("the shards hold no masks: there is nothing to learn from")
    return found


class SampleStream(IterableDataset[Any]):
    """The samples of one rank, without end: for each place of its order the decoded sample, or why there is none.

    Args:
        shards: the shards to read.
        config: the fields on data, and the seed.
        rank: of this process.
        world_size: number of processes that train.
        start: where to begin: the places that wait come first, then the first one that was not taken.
        max_image_pixels: photos with more pixels are skipped.
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
        self.shards = list(shards)
        self.config = config
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self.max_image_pixels = max_image_pixels

    def places(self) -> Iterator[int]:
        """Yield the places of this rank, counted in its own order."""
        yield from self.start.waiting
        place = self.start.taken
        while True:
            yield place
            place += 1

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | SkippedSample | Exception]]:
        """Yield places with their samples; an error in a loader process is the last item, for the reader to raise."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            torch.set_num_threads(1)
        order = SampleOrder(
            [shard.samples for shard in self.shards], seed=self.config.seed, window=self.config.shuffle_window
        )
        files = _OpenShards(self.shards)
        for count, place in enumerate(self.places()):
            # The loader takes from its processes in turn, so that the places arrive in order.
            if count % workers == number:
                try:
                    sample = self._sample(order.at(place * self.world_size + self.rank), files)
                except (Cuts3dError, OSError) as error:  # the loader would pass on its traceback, as text
                    yield place, error
                    return
                yield place, sample

    def _sample(self, where: tuple[int, int, int], files: _OpenShards) -> dict[str, Any] | SkippedSample:
        epoch, shard, number = where
        base = self.shards[shard].base
        key = files.key(shard, number)
        try:
            mask_sample, image, confidence = files.read(shard, key)
            masks = decode_masks(mask_sample).instances
            if not masks:
                return SkippedSample(shard=base.name, key=key, reason=None)
            if image is None:
                raise SampleError("the base shard has no image of this key")
            if self.shards[shard].confidence is not None and confidence is None:
                raise SampleError(f"the image {failed_in('confidence')}")
            picture = photo(image, max_pixels=self.max_image_pixels)
            seed = (self.config.seed, epoch, zlib.crc32(f"{base.name}/{key}".encode()))
            sample = training_sample(
                picture,
                masks,
                decode_confidence(confidence) if confidence else None,
                geometry=draw_geometry((picture.height, picture.width), config=self.config, seed=seed),
            )
        except SampleError as error:
            return SkippedSample(shard=base.name, key=key, reason=str(error))
        if not len(sample["instances"]):
            return SkippedSample(shard=base.name, key=key, reason=None)
        return {**sample, "key": key, "shard": base.name}


class _OpenShards:
    """The readers of the shards in use."""

    def __init__(self, shards: Sequence[TrainingShard]) -> None:
        self.shards = shards
        self._readers: dict[int, tuple[SidecarReader, SidecarReader, SidecarReader | None]] = {}

    def key(self, shard: int, number: int) -> str:
        """Return the key of a shard's sample by its index."""
        keys = self._open(shard)[1].keys
        if len(keys) != self.shards[shard].samples:
            raise ShardError(
                f"{self.shards[shard].pseudo} holds {counted(len(keys), 'sample')}, but its manifest says"
                f" {self.shards[shard].samples}: overwrite it by running its stage again"
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
            while len(self._readers) >= MAX_WINDOW_SHARDS:  # the shard opened first is the likeliest to be done
                for reader in self._readers.pop(next(iter(self._readers))):
                    if reader:
                        reader.close()
            files = self.shards[shard]
            confidence = SidecarReader(files.confidence) if files.confidence else None
            self._readers[shard] = (SidecarReader(files.base), SidecarReader(files.pseudo), confidence)
            strangers = set(self._readers[shard][1].keys).difference(self._readers[shard][0].keys)
            if strangers:
                raise ShardError(f"{files.pseudo} has masks of {listed(sorted(strangers))}, which {files.base} has not")
        return self._readers[shard]


def _packed(item: Any) -> tuple[int, Any]:
    """Return what a loader process hands over, with its sample packed."""
    place, found = item
    return place, packed(found) if isinstance(found, dict) else found


def _as_it_is(item: Any) -> Any:
    """Return what the stream yields: no other process is there to receive it."""
    return item


def _leave_to_parent(worker: int) -> None:
    """Let the main process, which stops with a checkpoint, end its loaders: some signals reach all of the group."""
    interrupts.leave_to_parent(terminate=True)
    end_with_parent()


class Batches:
    """The batches of one rank, without end.

    Args:
        shards: the shards to read.
        config: the fields on data, and the seed.
        batch_size: number of images in a batch of this rank.
        rank: of this process.
        world_size: number of processes that train.
        start: where an earlier run stopped.
        max_image_pixels: photos with more pixels are skipped.
        on_unusable: receives every image that cannot be used, once.

    Attributes:
        position: where the run stands after the last batch.
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
        on_unusable: Callable[[SkippedSample], None] | None = None,
    ) -> None:
        self.position = (start or Position()).copy()
        self._batch_size = batch_size
        self._grouped = config.group_by_aspect
        self._reported: set[tuple[str, str]] = set()
        self._on_unusable = on_unusable
        self._epoch = -(-sum(shard.samples for shard in shards) // world_size)
        stream = SampleStream(
            shards,
            config=config,
            rank=rank,
            world_size=world_size,
            start=self.position.copy(),
            max_image_pixels=max_image_pixels,
        )
        # Its own generator: the loader draws a number when it starts, which a resumed run would draw once more.
        self._loader = DataLoader(
            stream,
            batch_size=None,
            collate_fn=_packed if config.loader_workers else _as_it_is,
            num_workers=config.loader_workers,
            worker_init_fn=_leave_to_parent,
            generator=torch.Generator().manual_seed(config.seed),
        )

    def __iter__(self) -> Generator[list[dict[str, Any]], None, None]:
        """Yield batches without end. Close the iterator when it is no longer needed: it has processes that read.

        Raises:
            ShardError: no image has masks, or most of them cannot be used.
        """
        groups: dict[int, list[tuple[int, dict[str, Any]]]] = {_PORTRAIT: [], _LANDSCAPE: []}
        recalled = deque(self.position.waiting)
        without_masks = taken = failed = 0
        if self._loader.num_workers:
            require_processes(without=Setting("train.loader_workers", 0))
        for place, item in self._loader:
            if isinstance(item, Exception):
                raise item
            # Samples that wait were taken before; all others move the position on.
            if recalled:
                recalled.popleft()
            else:
                self.position.taken = place + 1
            taken += 1
            # Give up where a whole epoch holds no masks, or where most images are damaged.
            if isinstance(item, SkippedSample):
                without_masks += 1
                failed += item.reason is not None
                self._report(item)
                if without_masks > self._epoch:
                    raise ShardError("no image of the shards has usable masks: there is nothing to learn from")
                if taken >= _JUDGED_AFTER and failed > MAX_FAILED_SHARE * taken:
                    raise ShardError(
                        f"{failed} of {taken} images cannot be used, the last one: {item.key}: {item.reason}"
                    )
                continue
            without_masks = 0
            # Collect images of one orientation until they fill a batch.
            item = unpacked(item) if isinstance(item, PackedSample) else item
            height, width = item["instances"].image_size
            group = groups[_LANDSCAPE if width >= height and self._grouped else _PORTRAIT]
            group.append((place, item))
            if len(group) == self._batch_size:
                batch = [sample for _, sample in group]
                group.clear()
                # In the order in which they were taken, so that they fall into the same groups again.
                left = [number for members in groups.values() for number, _ in members]
                self.position.waiting = sorted([*left, *recalled])
                yield batch

    def _report(self, item: SkippedSample) -> None:
        """Hand over an image that cannot be used, unless that was done before."""
        if item.reason is not None and (item.shard, item.key) not in self._reported:
            self._reported.add((item.shard, item.key))
            if self._on_unusable:
                self._on_unusable(item)
