"""`cuts3d selftrain`: a detector learns from its own predictions, round after round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuts3d_cli.config import Config, PredictConfig
from cuts3d_cli.detector import train
from cuts3d_cli.engine.results import Progress
from cuts3d_cli.engine.sharing import without_split
from cuts3d_cli.errors import Setting, WeightsError
from cuts3d_cli.stages import STAGES
from cuts3d_cli.stages.merge import generation_of, min_score_of

if TYPE_CHECKING:
    from cuts3d_cli.detector.run_log import Watcher

MAX_DETECTIONS = 30
"""Predictions an image that may become masks, as CutLER has it."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What came of a round.

    Attributes:
        name: "st1", "st2", ...
        weights: of the detector.
        images: images that it learned from.
        masks: masks that it learned from.
        predicted: how many of these are predictions.
        failed: images that the detector could not read.
    """

    name: str
    weights: Path
    images: int
    masks: int
    predicted: int
    failed: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "weights": str(self.weights),
            "images": self.images,
            "masks": self.masks,
            "predicted": self.predicted,
            "failed": self.failed,
        }


def run(
    shards: Sequence[Path],
    *,
    checkpoint: Path,
    out: Path,
    config: Config,
    gpus: int,
    watcher: Watcher,
    progress: Callable[[str], AbstractContextManager[Progress]],
) -> list[Round]:
    """Train for some rounds, each on the predictions of the one before, merged with the masks that it learned from.

    Every step is skipped where it is done already: predictions and masks by their manifests, a training whose
    configuration and masks are the same; one that was stopped goes on.

    Args:
        shards: base shards with pseudo-masks.
        checkpoint: the detector to begin with.
        out: folder in which `detector-st1`, ... are made.
        config: sections `selftrain` and `run`.
        gpus: GPUs of this machine.
        watcher: told how training goes.
        progress: a bar for the stage of that name.

    Returns:
        One record a round.

    Raises:
        WeightsError: the checkpoint is missing or damaged.
        ShardError: masks are missing or damaged.
        TrainingError: a loss is no number any more.
    """
    train.require_detectron2()
    if not checkpoint.is_file():
        given = Setting("checkpoint")
        raise WeightsError(f"{checkpoint} does not exist: pass the detector of `cuts3d train` as ", given)
    rounds: list[Round] = []
    for number in range(1, config.selftrain.rounds + 1):
        rounds.append(
            run_round(
                shards,
                number=number,
                checkpoint=checkpoint,
                out=out,
                config=config,
                gpus=gpus,
                watcher=watcher,
                progress=progress,
            )
        )
        checkpoint = rounds[-1].weights
    return rounds


def predicting(config: Config, number: int) -> Config:
    """The configuration by which a round predicts on the shards that it learns from."""
    kept = PredictConfig(min_score=min_score_of(config.selftrain, number), max_detections=MAX_DETECTIONS)
    return replace(config, predict=kept)


def run_round(
    shards: Sequence[Path],
    *,
    number: int,
    checkpoint: Path,
    out: Path,
    config: Config,
    gpus: int,
    watcher: Watcher,
    progress: Callable[[str], AbstractContextManager[Progress]],
) -> Round:
    """One round: predict, merge with the masks of the round before, train.

    Args:
        number: of the round, 1 being the first.
        checkpoint: the detector of the round before.
        shards, out, config, gpus, watcher, progress: as `run`.

    Raises:
        As `run`.
    """
    name, before = generation_of(number), generation_of(number - 1)
    config = replace(config, run=without_split(config.run))
    watcher.say(f"{name}: predictions of {checkpoint} over {min_score_of(config.selftrain, number):g} become masks")
    with progress(f"predict, {before}") as bar:
        STAGES["predict"].run(
            shards, config=predicting(config, number), progress=bar, checkpoint=checkpoint, generation=before
        )
    with progress(f"masks, {name}") as bar:
        merged = STAGES["merge"].run(shards, config=config, progress=bar, round=number)
    trained = train.run(
        shards,
        round=number,
        out=out / train.default_out(number),
        config=config.selftrain,
        device=config.run.device,
        max_image_pixels=config.run.max_image_pixels,
        gpus=gpus,
        resume="if begun",
        overwrite=False,
        init=checkpoint,
        watcher=watcher,
    )
    return Round(
        name=name,
        weights=trained.weights,
        images=trained.images,
        masks=merged.count("masks"),
        predicted=merged.count("predicted"),
        failed=merged.count("failed"),
    )
