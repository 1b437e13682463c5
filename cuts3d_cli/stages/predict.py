"""`cuts3d predict`: reads base shards, writes what a trained detector finds in every image."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import Config, PredictConfig, output_dict, recorded_limits
from cuts3d_cli.cut.masks import rle_area
from cuts3d_cli.devices import choose_device
from cuts3d_cli.engine.batches import infer_in_batches
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import WeightsError
from cuts3d_cli.files import to_json_bytes
from cuts3d_cli.shards.names import in_generation
from cuts3d_cli.shards.reader import Sample, read_shard
from cuts3d_cli.stages.features import photo
from cuts3d_cli.wording import Say

if TYPE_CHECKING:
    from cuts3d_cli.detector.inference import Detections, Detector


def run(
    shards: Sequence[Path],
    *,
    config: Config,
    progress: Progress | None = None,
    say: Say | None = None,
    checkpoint: Path,
    generation: str | None = None,
) -> StageResult:
    """Detect the instances of every image.

    Args:
        shards: base shards.
        config: sections `predict` and `run`.
        progress: receives progress events.
        say: prints a status line.
        checkpoint: what `cuts3d train` wrote.
        generation: names the sidecars, as in "initial" or "st1"; None for `NAME-000.predict.tar`.

    Returns:
        The results of all shards.

    Raises:
        WeightsError: the checkpoint is missing, damaged, or no detector's.
        ShardError: a shard is missing or damaged.
    """
    if not checkpoint.is_file():
        raise WeightsError(
            f"{checkpoint} does not exist: pass the checkpoint of a detector, as `cuts3d train` wrote it"
        )
    device = choose_device(config.run.device)
    decode = functools.partial(_pixels, max_pixels=config.run.max_image_pixels)

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
                record = to_record(item.output, size=item.prepared.shape[:2], config=config.predict)
                yield Outcome(
                    key=item.sample.key,
                    members={"predict.json": to_json_bytes(record)},
                    counts={"masks": len(record["instances"])},
                )

    return run_shards(
        shards,
        stage=in_generation("predict", generation),
        config={"predict": output_dict(config.predict), **recorded_limits(config.run)},
        inputs=lambda base: {"base": base, "checkpoint": checkpoint},
        outcomes=outcomes,
        if_exists=config.run.if_exists,
        sharing=Sharing.from_config(config.run),
        info={"device": device},
        progress=progress,
    )


def to_record(found: Detections, *, size: tuple[int, int], config: PredictConfig) -> dict[str, Any]:
    """The JSON that a predict sidecar holds for one image: instances, best first.

    A detection whose mask is empty is left out.
    """
    kept = found.over(config.min_score)
    instances = [
        {
            "score": round(float(score), 6),
            "bbox": [round(float(value), 2) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
            "segmentation": mask,
            "area": rle_area(mask),
        }
        for box, score, mask in zip(kept.boxes, kept.scores, kept.masks, strict=True)
        if rle_area(mask) > 0
    ]
    return {"height": size[0], "width": size[1], "instances": instances[: config.max_detections]}


def _pixels(sample: Sample, *, max_pixels: int) -> NDArray[np.uint8]:
    return np.asarray(photo(sample, max_pixels=max_pixels), dtype=np.uint8)
