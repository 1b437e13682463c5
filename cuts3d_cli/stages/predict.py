"""`cuts3d predict`: reads base shards, writes what a trained detector finds in every image."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cuts3d_cli.config import Config, recorded_limits, recorded_precision
from cuts3d_cli.detector.train import require_detectron2
from cuts3d_cli.devices import choose_device, choose_precision
from cuts3d_cli.engine.batch_size import BatchSize
from cuts3d_cli.engine.batches import infer_in_batches
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.pool import WorkerPool
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.shards.names import in_generation
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.detections import encode, from_detections
from cuts3d_cli.sidecars.photos import photo_pixels
from cuts3d_cli.stages.reading import bytes_to_read
from cuts3d_cli.wording import Say

if TYPE_CHECKING:
    from cuts3d_cli.detector.inference import Detector


def run(
    shards: Sequence[Path],
    *,
    config: Config,
    progress: Progress | None = None,
    say: Say | None = None,
    checkpoint: Path,
    generation: str | None = None,
    chosen: bool = True,
) -> StageResult:
    """Detect the instances of every image.

    Args:
        shards: base shards.
        config: sections `predict` and `run`.
        progress: receives progress events.
        say: prints a status line.
        checkpoint: what `cuts3d train` or detectron2 wrote.
        generation: names the sidecars, as in "initial" or "st1"; None for `NAME-000.predict.tar`.
        chosen: the user chose the checkpoint, so that predictions of another one are of other settings; else it is a
            result itself, and predictions of an older one are redone.

    Returns:
        The results of all shards.

    Raises:
        WeightsError: the checkpoint is missing, damaged, or no detector's.
        FileError: a configuration cannot be read, or describes another detector.
        SettingError: a setting cannot take effect.
        ShardError: a shard is missing or damaged.
    """
    require_detectron2()
    from cuts3d_cli.detector.loading import load_detector

    stored = load_detector(checkpoint, config.predict, say=say or (lambda line: None))
    device = choose_device(config.run.device)
    choose_precision(config.run.precision, device=device)  # refuses before anything is read
    decode = functools.partial(photo_pixels, max_pixels=config.run.max_image_pixels)

    batch_size = BatchSize.of(config.run, device=device, say=say)
    pool = WorkerPool.for_reading(config.run, device=device)

    @functools.cache
    def loaded() -> Detector:
        from cuts3d_cli.detector.inference import Detector

        return Detector.of(stored, device=device, precision=config.run.precision)

    def outcomes(base: Path) -> Iterator[Outcome]:
        detector = loaded()  # not before a shard needs it
        results = infer_in_batches(
            map(bytes_to_read, read_shard(base)),
            batch_size=batch_size,
            prepare=decode,
            infer=detector.detect,
            pool=pool,
        )
        for item in results:
            if item.output is None or item.prepared is None:
                yield Outcome(key=item.sample.key, failure=item.failure)
            else:
                kept = from_detections(item.output, size=(item.prepared.shape[0], item.prepared.shape[1]))
                yield Outcome(key=item.sample.key, members=encode(kept), counts={"masks": len(kept.instances)})

    with pool:
        return run_shards(
            shards,
            stage=in_generation("predict", generation),
            config={"predict": stored.recorded(), **recorded_limits(config.run)},
            inputs=lambda base: {"base": base, "checkpoint": checkpoint},
            outcomes=outcomes,
            if_exists=config.run.if_exists,
            files={"checkpoint": "checkpoint"} if chosen else {},
            sharing=Sharing.from_config(config.run),
            info={"device": device, **recorded_precision(config.run)},
            progress=progress,
        )
