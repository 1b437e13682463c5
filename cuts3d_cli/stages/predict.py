"""`cuts3d predict`: reads base shards, writes what a trained detector finds in every image."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cuts3d_cli.config import Config, recorded_limits
from cuts3d_cli.devices import choose_device
from cuts3d_cli.effects import recorded
from cuts3d_cli.engine.batches import infer_in_batches
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import WeightsError
from cuts3d_cli.shards.names import in_generation
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.detections import encode, from_detections
from cuts3d_cli.sidecars.photos import photo_pixels
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
        checkpoint: what `cuts3d train` wrote.
        generation: names the sidecars, as in "initial" or "st1"; None for `NAME-000.predict.tar`.
        chosen: the user chose the checkpoint, so that predictions of another one are of other settings; else it is a
            result itself, and predictions of an older one are redone.

    Returns:
        The results of all shards.

    Raises:
        WeightsError: the checkpoint is missing, damaged, or no detector's.
        ShardError: a shard is missing or damaged.
    """
    device = choose_device(config.run.device)
    decode = functools.partial(photo_pixels, max_pixels=config.run.max_image_pixels)

    @functools.cache
    def loaded() -> Detector:
        from cuts3d_cli.detector.inference import Detector

        return Detector.load(checkpoint, device=device, half=config.run.half)

    def outcomes(base: Path) -> Iterator[Outcome]:
        detector = loaded()  # not before a shard needs it
        results = infer_in_batches(
            read_shard(base), batch_size=config.run.batch_size, prepare=decode, infer=detector.detect
        )
        for item in results:
            if item.output is None or item.prepared is None:
                yield Outcome(key=item.sample.key, failure=item.failure)
            else:
                stored = from_detections(
                    item.output,
                    size=(item.prepared.shape[0], item.prepared.shape[1]),
                    min_score=config.predict.min_score,
                    max_detections=config.predict.max_detections,
                )
                yield Outcome(key=item.sample.key, members=encode(stored), counts={"masks": len(stored.instances)})

    def inputs(base: Path) -> Mapping[str, Path]:
        if not checkpoint.is_file():
            raise WeightsError(
                f"{checkpoint} does not exist: pass the checkpoint of a detector, as `cuts3d train` wrote it"
            )
        return {"base": base, "checkpoint": checkpoint}

    return run_shards(
        shards,
        stage=in_generation("predict", generation),
        config={"predict": recorded("predict", config.predict), **recorded_limits(config.run)},
        inputs=inputs,
        outcomes=outcomes,
        if_exists=config.run.if_exists,
        files={"checkpoint": "checkpoint"} if chosen else {},
        sharing=Sharing.from_config(config.run),
        info={"device": device},
        progress=progress,
    )
