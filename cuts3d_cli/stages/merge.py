"""A generation of pseudo-masks: the detector's predictions, merged with the masks that it learned from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cuts3d_cli.config import Config, SelfTrainConfig
from cuts3d_cli.detector.merging import merge_instances
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import ShardError
from cuts3d_cli.shards.names import generation_of, in_generation, masks_of
from cuts3d_cli.sidecars import detections, masks
from cuts3d_cli.sidecars.finished import FinishedSidecar, finished, mixed_settings, require
from cuts3d_cli.wording import Say


def min_score_of(config: SelfTrainConfig, round: int) -> float:
    """Return the score from which a prediction becomes a mask of a round of self-training, counted from 1."""
    return config.score_thresholds[min(round, len(config.score_thresholds)) - 1]


def _intact(shards: Sequence[Path], stage: str) -> Iterator[FinishedSidecar]:
    """Yield the sidecars of a stage; those that are missing or damaged are told when their shard's turn comes."""
    for base in shards:
        with suppress(ShardError):
            if (found := finished(base, stage)) is not None:
                yield found


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

    # Shards of different settings may be merged, but not without a word.
    for stage in (previous, predicted):
        if say is not None and (mixed := mixed_settings(list(_intact(shards, stage)))):
            say(f"warning: {mixed}")

    def inputs(base: Path) -> Mapping[str, Path]:
        return {stage: require(base, stage).tar for stage in (previous, predicted)}

    def outcomes(base: Path) -> Iterator[Outcome]:
        predictions, learned_from = require(base, predicted), require(base, previous)
        with learned_from.open() as previous_masks:
            for sample in predictions.samples():
                found, before = detections.decode(sample), previous_masks.get(sample.key)
                if before is None:
                    learned_from.check_failed(sample.key)
                merged = merge_instances(
                    # An image without a record of masks, where nothing could be cut, gets the predictions alone.
                    masks.decode(before).instances if before else [],
                    found.instances,
                    min_score=min_score,
                    keep_iou=settings.keep_iou,
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
        config={"selftrain": {"min_score": min_score, "keep_iou": settings.keep_iou}},
        inputs=inputs,
        outcomes=outcomes,
        if_exists=config.run.if_exists,
        sharing=Sharing.from_config(config.run),
        progress=progress,
    )
