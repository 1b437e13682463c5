"""A generation of pseudo-masks: the detector's predictions, merged with the masks it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cuts3d_cli.config import IfExists, SelfTrainConfig
from cuts3d_cli.detector.merging import merge_instances
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.shards.names import in_generation, sidecar
from cuts3d_cli.shards.reader import SidecarReader, read_shard
from cuts3d_cli.sidecars import detections, masks
from cuts3d_cli.sidecars.finished import require


def generation_of(round: int) -> str:
    """Name what comes out of a round of training: "initial", "st1", "st2", ..."""
    return "initial" if round == 0 else f"st{round}"


def masks_of(round: int) -> str:
    """Name the stage whose sidecars a round of training learns from: "pseudo", "pseudo.st1", ..."""
    return "pseudo" if round == 0 else in_generation("pseudo", generation_of(round))


def min_score_of(config: SelfTrainConfig, round: int) -> float:
    """The lowest score of a prediction that becomes a mask of a round, 1 being the first of self-training."""
    return config.score_thresholds[min(round, len(config.score_thresholds)) - 1]


def run(
    shards: Sequence[Path],
    *,
    round: int,
    config: SelfTrainConfig,
    if_exists: IfExists,
    sharing: Sharing | None = None,
    progress: Progress | None = None,
) -> StageResult:
    """Write the masks that a round of self-training learns from, `NAME-000.pseudo.st1.tar`.

    Args:
        shards: base shards, with the masks and the predictions of the round before.
        round: 1 is the first of self-training.
        config: thresholds.
        if_exists: what happens to generations that are there.
        sharing: with other processes.
        progress: told how far it is.

    Returns:
        What became of every shard. An image that the detector could not read is a failed sample.

    Raises:
        ShardError: masks or predictions of the round before are missing, unfinished or damaged.
    """
    previous, predicted = masks_of(round - 1), in_generation("predict", generation_of(round - 1))
    min_score = min_score_of(config, round)

    def inputs(base: Path) -> Mapping[str, Path]:
        return {stage: require(base, stage).tar for stage in (previous, predicted)}

    def outcomes(base: Path) -> Iterator[Outcome]:
        predictions = require(base, predicted)
        with SidecarReader(sidecar(base, previous)) as previous_masks:
            for sample in read_shard(sidecar(base, predicted)):
                found, before = detections.decode(sample), previous_masks.get(sample.key)
                merged = merge_instances(
                    # Where nothing could be cut, predictions alone are the masks.
                    masks.decode(before).instances if before else [],
                    found.instances,
                    min_score=min_score,
                    keep_iou=config.keep_iou,
                )
                stored = masks.StoredMasks(size=found.size, method=generation_of(round), instances=merged.instances)
                yield Outcome(
                    key=sample.key,
                    members=masks.encode(stored),
                    counts={
                        "masks": len(merged.instances),
                        "predicted": merged.predicted,
                        "replaced": merged.replaced,
                    },
                )
        for key, reason in predictions.failures.items():
            yield Outcome(key=key, failure=f"not predicted: {reason}")

    return run_shards(
        shards,
        stage=masks_of(round),
        config={"selftrain": {"min_score": min_score, "keep_iou": config.keep_iou}},
        inputs=inputs,
        outcomes=outcomes,
        if_exists=if_exists,
        sharing=sharing,
        progress=progress,
    )
