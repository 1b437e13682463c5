"""`cuts3d selftrain`: rounds of training, each on the predictions of the detector before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuts3d_cli.config import Config
from cuts3d_cli.detector import FINAL_WEIGHTS, train
from cuts3d_cli.devices import choose_device, choose_precision
from cuts3d_cli.engine.results import Progress
from cuts3d_cli.engine.sharing import on_gpus, without_split
from cuts3d_cli.evaluation.training import evaluation_of
from cuts3d_cli.files import check_folder
from cuts3d_cli.recipes.needs import raise_all, unmet
from cuts3d_cli.recipes.plan import compare_sidecars
from cuts3d_cli.shards.names import generation_of, in_generation, masks_of
from cuts3d_cli.stages import STAGES, run_stage
from cuts3d_cli.stages.merge import min_score_of

if TYPE_CHECKING:
    from cuts3d_cli.detector.evaluating import Evaluation
    from cuts3d_cli.detector.run_log import TrainingEvents

MAX_DETECTIONS = 30
"""At most so many predictions per image may become masks (CutLER's setting)."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a round of self-training produced.

    Attributes:
        name: "st1", "st2", ...
        weights: the final weights of the detector.
        images: number of images with a record of masks that it learned from.
        masks: number of masks that it learned from.
        predicted: number of these masks that are predictions.
        replaced: number of masks of the round before that predictions took the place of.
        failed: number of images that the detector before could not read.
    """

    name: str
    weights: Path
    images: int
    masks: int
    predicted: int
    replaced: int
    failed: int

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return {
            "name": self.name,
            "weights": str(self.weights),
            "images": self.images,
            "masks": self.masks,
            "predicted": self.predicted,
            "replaced": self.replaced,
            "failed": self.failed,
        }


def run(
    shards: Sequence[Path],
    *,
    checkpoint: Path,
    out: Path,
    config: Config,
    gpus: int,
    events: TrainingEvents,
    progress: Callable[[str], AbstractContextManager[Progress]],
) -> list[Round]:
    """Train for some rounds (paper: Sec. 4.1, after CutLER).

    Each round learns from the predictions of the detector before, merged with the masks of the round before. Steps that
    are finished are skipped: predictions and masks by their manifests, trainings with the same configuration and masks.
    A training that was stopped is resumed.

    Args:
        shards: base shards with pseudo-masks.
        checkpoint: the detector to start from.
        out: folder in which `detector-st1`, ... are created.
        config: sections `selftrain`, `predict`, `eval` and `run`. What `predict` says of the file of a detector is
            about the one to start from; single settings hold for those of the rounds, too.
        gpus: number of GPUs of this machine to use.
        events: receives the events of trainings.
        progress: makes a progress bar for the stage of a name.

    Returns:
        One record a round.

    Raises:
        WeightsError: the checkpoint is missing or damaged, or no detector that the rounds can go on from.
        ShardError: masks are missing or damaged.
        TrainingError: a loss is not finite.
    """
    # Check all that would fail later, after the predictions perhaps.
    train.require_detectron2()
    from cuts3d_cli.detector.loading import check_start

    check_start(checkpoint, config=config.selftrain, say=lambda line: None)  # said when the first round trains
    check_rounds(shards, checkpoint=checkpoint, out=out, config=config, gpus=gpus)
    evaluation = evaluation_of(config.selftrain, root=config.eval.root)
    if evaluation is not None:
        evaluation.check(say=events.say)
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
                events=events,
                evaluation=evaluation,
                progress=progress,
                chosen=number == 1,
            )
        )
        checkpoint = rounds[-1].weights
    return rounds


def check_rounds(shards: Sequence[Path], *, checkpoint: Path, out: Path, config: Config, gpus: int) -> None:
    """Check what all rounds need, and that none of them would refuse to replace results of other settings.

    Args:
        shards, checkpoint, out, config, gpus: as in `run`.

    Raises:
        UsageError, Cuts3dError: something is missing, or does not fit; one line names all that is.
    """
    config = replace(config, run=without_split(config.run))
    checks: list[Callable[[], object]] = [
        lambda: check_folder(out, setting="out"),
        lambda: train.check_processes(config.selftrain, gpus=gpus, device=choose_device(config.run.device)),
        lambda: choose_precision(config.run.precision, device=choose_device(config.run.device)),
    ]
    for number in range(1, config.selftrain.rounds + 1):
        if number > 1:
            checkpoint = out / train.default_out(number - 1) / FINAL_WEIGHTS
        checks += [
            partial(_compare_predictions, shards, number=number, checkpoint=checkpoint, config=config),
            partial(_compare_masks, shards, number=number, config=config),
            partial(
                train.check_settings,
                out / train.default_out(number),
                config.selftrain,
                max_image_pixels=config.run.max_image_pixels,
            ),
        ]
    raise_all(unmet(checks))


def _compare_predictions(shards: Sequence[Path], *, number: int, checkpoint: Path, config: Config) -> None:
    before = generation_of(number - 1)

    def run(some: Sequence[Path], progress: Progress) -> object:
        return STAGES["predict"].run(
            some, config=predicting(config, number), progress=progress, checkpoint=checkpoint, generation=before
        )

    compare_sidecars(shards, stage=in_generation("predict", before), run=run)


def _compare_masks(shards: Sequence[Path], *, number: int, config: Config) -> None:
    def run(some: Sequence[Path], progress: Progress) -> object:
        return STAGES["merge"].run(some, config=config, progress=progress, round=number)

    compare_sidecars(shards, stage=masks_of(number), run=run)


def predicting(config: Config, number: int) -> Config:
    """Return the configuration with which a round predicts on the shards that it learns from."""
    # No detector finds more than it has proposals.
    most = min(MAX_DETECTIONS, config.train.rpn_test_proposals, config.selftrain.rpn_test_proposals)
    wanted = replace(config.predict, min_score=min_score_of(config.selftrain, number), max_detections=most)
    if number > 1:  # its detector is one of the rounds before
        wanted = replace(wanted, detectron2_config=None, test_settings=None)
    return replace(config, predict=wanted)


def run_round(
    shards: Sequence[Path],
    *,
    number: int,
    checkpoint: Path,
    out: Path,
    config: Config,
    gpus: int,
    events: TrainingEvents,
    evaluation: Evaluation | None,
    progress: Callable[[str], AbstractContextManager[Progress]],
    chosen: bool = False,
) -> Round:
    """Run one round: predict, merge with the masks of the round before, train.

    Args:
        number: of the round, from 1 on.
        checkpoint: the detector of the round before.
        chosen: the user chose the checkpoint; see `stages.predict.run`.
        evaluation: of the detector while it is trained.
        shards, out, config, gpus, events, progress: as in `run`.

    Returns:
        What the round produced.

    Raises:
        WeightsError, ShardError, TrainingError: as in `run`.
    """
    name, before = generation_of(number), generation_of(number - 1)
    config = replace(config, run=without_split(config.run))
    events.say(f"{name}: predictions of {checkpoint} over {min_score_of(config.selftrain, number):g} become masks")
    with progress(f"predict, {before}") as bar:
        predicted = run_stage(
            "predict",
            shards,
            config=on_gpus(predicting(config, number), gpus),
            progress=bar,
            say=events.say,
            checkpoint=checkpoint,
            generation=before,
            chosen=chosen,
        )
    predicted.check_complete()
    with progress(f"masks, {name}") as bar:
        merged = STAGES["merge"].run(shards, config=config, progress=bar, round=number)
    merged.check_complete()
    trained = train.run(
        shards,
        round=number,
        out=out / train.default_out(number),
        config=config.selftrain,
        device=config.run.device,
        max_image_pixels=config.run.max_image_pixels,
        gpus=gpus,
        if_exists="complete",
        init=checkpoint,
        events=events,
        evaluation=evaluation,
    )
    return Round(
        name=name,
        weights=trained.weights,
        images=trained.images,
        masks=merged.count("masks"),
        predicted=merged.count("predicted"),
        replaced=merged.count("replaced"),
        failed=merged.count("failed"),
    )
