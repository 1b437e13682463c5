"""A generation of pseudo-masks: the detector's predictions, merged with the masks it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cuts3d_cli.config import IfExists, SelfTrainConfig
from cuts3d_cli.detector.merging import merge_instances
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.files import to_json_bytes
from cuts3d_cli.shards.names import in_generation, sidecar
from cuts3d_cli.shards.reader import SidecarReader, read_shard
from cuts3d_cli.sidecars.fields import read_json
from cuts3d_cli.sidecars.finished import require_sidecar


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
        return {stage: require_sidecar(base, stage)[0] for stage in (previous, predicted)}

    def outcomes(base: Path) -> Iterator[Outcome]:
        _, predictions = require_sidecar(base, predicted)
        with SidecarReader(sidecar(base, previous)) as masks:
            for sample in read_shard(sidecar(base, predicted)):
                found, before = read_json(sample, "predict.json"), masks.get(sample.key)
                merged = merge_instances(
                    # Where nothing could be cut, predictions alone are the masks.
                    read_json(before, "pseudo.json")["instances"] if before else [],
                    found["instances"],
                    min_score=min_score,
                    keep_iou=config.keep_iou,
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
        config={"selftrain": {"min_score": min_score, "keep_iou": config.keep_iou}},
        inputs=inputs,
        outcomes=outcomes,
        if_exists=if_exists,
        sharing=sharing,
        progress=progress,
    )
