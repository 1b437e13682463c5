"""Benchmark of the training loader: images per second by the number of its processes and of shards."""

from __future__ import annotations

import itertools
import tempfile
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from bench.common import Report, Row, Table, interleaved, log
from bench.data import Photo, rendered
from cuts3d_cli.config import TrainConfig
from cuts3d_cli.cut.masks import decode_rle, encode_rle
from cuts3d_cli.detector.data import Batches, TrainingShard, training_shards
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome
from cuts3d_cli.shards.names import sidecar
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars import confidence
from cuts3d_cli.sidecars.confidence import StoredConfidence
from cuts3d_cli.sidecars.masks import ImageCut, InstanceCut, StoredMask, StoredMasks, encode
from executable import cuts3d, neutral_environment

GRID = 60
"""Side of the patch grid that masks and confidence come from."""
MASKS = 3
LEVELS = 6
PHOTOS = 21
"""Photos in all; an epoch of a few is as good as one of many, since nothing is kept."""
PER_SHARD = 3
"""Photos of a shard, where there are many shards."""
STEP_SECONDS = 0.1
"""What a training step takes on a large GPU, without its data."""
FIRST_BATCHES = 3
"""Batches that are not timed: processes start."""


def loader(config: TrainConfig, *, processes: Sequence[int], images: int, repeats: int) -> Report:
    """Read training batches of one shard and of many.

    Args:
        config: the fields on data.
        processes: numbers of loader processes.
        images: that are timed each time.
        repeats: rounds of all ways in turn.

    Returns:
        Images a second for each number of processes, and how long a training waits whose step takes `STEP_SECONDS`.

    Raises:
        CommandError: a command failed.
    """
    photos = [rendered(seed) for seed in range(PHOTOS)]
    with tempfile.TemporaryDirectory(prefix="cuts3d-bench-") as name:
        kinds = {
            "one": _shards(Path(name) / "one", photos, PHOTOS),
            "many": _shards(Path(name) / "many", photos, PER_SHARD),
        }
        rows: list[Row] = []
        for number in processes:
            log(f"loader: {number} processes")
            settings = replace(config, loader_workers=number)
            timed = interleaved(
                {
                    kind: partial(_timed, shards, settings, images // config.images_per_batch)
                    for kind, shards in kinds.items()
                },
                repeats=repeats,
            ).results
            for kind, found in timed.items():
                rows.append(
                    {
                        "processes": number,
                        "shards": len(kinds[kind]),
                        "images per second": median(speed for speed, _ in found),
                        f"waits in a step of {STEP_SECONDS:g} s": median(waited for _, waited in found),
                    }
                )
    return Report(
        name="loader",
        tables=[Table("training batches", rows)],
        notes=[
            f"{PHOTOS} rendered scenes of 640x480 with {MASKS} masks and their confidence, shorter sides of"
            f" {min(config.min_sizes)} to {max(config.min_sizes)} pixels, batches of {config.images_per_batch};"
            f" {images} images each time, repeats: {repeats}, one shard and many in turn; medians.",
            "The last column is how long a batch is waited for, seconds, where a step sleeps beside it.",
        ],
    )


def _timed(shards: list[TrainingShard], config: TrainConfig, batches: int) -> tuple[float, float]:
    """Return images a second as fast as they come, and the seconds that a step waits for its batch."""

    def begun() -> Generator[object, None, None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, of more processes than cores
            found = iter(Batches(shards, config=config, batch_size=config.images_per_batch))
            for _ in itertools.islice(found, FIRST_BATCHES):
                pass
        return found

    with closing(begun()) as stream:
        start = time.perf_counter()
        for _ in itertools.islice(stream, batches):
            pass
        speed = batches * config.images_per_batch / (time.perf_counter() - start)
    with closing(begun()) as stream:
        waits = []
        for _ in range(batches):
            time.sleep(STEP_SECONDS)
            start = time.perf_counter()
            next(stream)
            waits.append(time.perf_counter() - start)
    return speed, sum(waits) / len(waits)


def _shards(folder: Path, photos: Sequence[Photo], size: int) -> list[TrainingShard]:
    """Pack photos with their true masks and random confidence."""
    images = folder / "images"
    images.mkdir(parents=True)
    for number, photo in enumerate(photos):
        photo.image.save(images / f"{number:06d}.jpg", quality=90)
    cuts3d("pack", images, "--out", folder, "--name", "a", "--shard-size", size, environment=neutral_environment())
    bases = sorted(path for path in folder.glob("a-*.tar") if path.name.count(".") == 1)

    def masks(base: Path) -> Iterator[Outcome]:
        for sample in read_shard(base):
            photo = photos[int(sample.key)]
            instances = []
            for item in photo.instances[:MASKS]:
                code = encode_rle(_on_grid(decode_rle(item["segmentation"])))
                cut = InstanceCut(
                    iteration=0, patch_mask=code, bipartition=code, source=(0, 0), sink=None, core=None, crf_iou=None
                )
                instances.append(StoredMask.of(item["segmentation"], cut=cut))
            whole = ImageCut(grid=(GRID, GRID), stopped=None, dropped=())
            stored = StoredMasks(size=photo.size, method="cuts3d", instances=instances, cut=whole)
            yield Outcome(key=sample.key, members=encode(stored))

    def scores(base: Path) -> Iterator[Outcome]:
        for sample in read_shard(base):
            count = min(MASKS, len(photos[int(sample.key)].instances))
            rng = np.random.default_rng(int(sample.key))
            counts = rng.integers(LEVELS // 2, LEVELS + 1, size=(count, GRID, GRID), dtype=np.uint8)
            stored = StoredConfidence(counts=counts, scores=[0.8] * count, levels=LEVELS, floor=0.5, source="depth")
            yield Outcome(key=sample.key, members=confidence.encode(stored))

    run_shards(bases, stage="pseudo", config={}, inputs=lambda base: {"base": base}, outcomes=masks, if_exists="fail")
    run_shards(
        bases,
        stage="confidence",
        config={},
        inputs=lambda base: {"pseudo": sidecar(base, "pseudo")},
        outcomes=scores,
        if_exists="fail",
    )
    return training_shards(bases, with_confidence=True)


def _on_grid(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows, columns = (np.arange(GRID) * side // GRID for side in mask.shape)
    return mask[rows[:, None], columns]
