"""A generation of pseudo-masks: the detector's predictions, merged with the masks that it learned from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cuts3d_cli.config import Config, SelfTrainConfig
from cuts3d_cli.detector.merging import merge_instances
from cuts3d_cli.engine.driver import require_sidecar, run_shards
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.files import to_json_bytes
from cuts3d_cli.shards.names import generation_of, in_generation, masks_of, sidecar
from cuts3d_cli.shards.reader import SidecarReader, read_shard
from cuts3d_cli.sidecars.fields import read_json
from cuts3d_cli.wording import Say


def min_score_of(config: SelfTrainConfig, round: int) -> float:
    """Return the score from which a prediction becomes a mask of a round of self-training, counted from 1."""
    return config.score_thresholds[min(round, len(config.score_thresholds)) - 1]


def run(
    shards: Sequence[Path],
    *,
    config: Config,
    progress: Progress | None = None,
    say: Say | None = None,
    round: int,
) -> StageResult:
    """Write the masks that a round of self-training learns from, `NAME-000.pseudo.st1.tar`.

    Args:
        shards: base shards, with the masks and the predictions of the round before.
        config: sections `selftrain` and `run`.
        progress: receives progress events.
        say: prints a status line.
        round: 1 is the first of self-training.

    Returns:
        The results of all shards. An image that the detector could not read is a failed sample.

    Raises:
        ShardError: masks or predictions of the round before are missing, unfinished or damaged.
    """
    previous, predicted = masks_of(round - 1), in_generation("predict", generation_of(round - 1))
    settings = config.selftrain
    min_score = min_score_of(settings, round)

    def inputs(base: Path) -> Mapping[str, Path]:
        return {stage: require_sidecar(base, stage)[0] for stage in (previous, predicted)}

    def outcomes(base: Path) -> Iterator[Outcome]:
        _, predictions = require_sidecar(base, predicted)
        with SidecarReader(sidecar(base, previous)) as masks:
            for sample in read_shard(sidecar(base, predicted)):
                found, before = read_json(sample, "predict.json"), masks.get(sample.key)
                merged = merge_instances(
                    # An image without a record of masks, where nothing could be cut, gets the predictions alone.
                    read_json(before, "pseudo.json")["instances"] if before else [],
                    found["instances"],
                    min_score=min_score,
                    keep_iou=settings.keep_iou,
                )
                facts: dict[str, Any] = {
                    "method": generation_of(round),
                    "height": found["height"],
                    "width": found["width"],
                    "instances": merged.instances,
                }
                yield Outcome(
                    key=sample.key,
                    members={"pseudo.json": to_json_bytes(facts)},
                    counts={
                        "masks": len(merged.instances),
                        "predicted": merged.predicted,
                        "replaced": merged.replaced,
                    },
                )
        for item in predictions.failed:
            yield Outcome(key=item["key"], failure=f"not predicted: {item['reason']}")

    return run_shards(
        shards,
        stage=masks_of(round),
        config={"selftrain": {"min_score": min_score, "keep_iou": settings.keep_iou}},
        inputs=inputs,
        outcomes=outcomes,
        if_exists=config.run.if_exists,
        sharing=Sharing.from_config(config.run),
        progress=progress,
    )
