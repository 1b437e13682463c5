"""The steps of a recipe: what each does, and the parts of the plan that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cuts3d_cli.config import Config, TrainConfig
from cuts3d_cli.config.recipe import Recipe
from cuts3d_cli.cut.methods import get_method
from cuts3d_cli.detector import FINAL_WEIGHTS, train
from cuts3d_cli.engine.replacing import OtherSettingsError
from cuts3d_cli.engine.results import Progress, StageResult
from cuts3d_cli.engine.sharing import on_gpus
from cuts3d_cli.errors import UsageError
from cuts3d_cli.evaluation.selection import Selection
from cuts3d_cli.evaluation.training import TrainingEvaluation, evaluation_of
from cuts3d_cli.recipes import selftrain
from cuts3d_cli.recipes.parts import masks_to_plan, pack_part, sidecars_part, training_part
from cuts3d_cli.recipes.plan import (
    Part,
    compare_sidecars,
    confidence_bytes,
    depth_bytes,
    detection_record_bytes,
    mask_record_bytes,
)
from cuts3d_cli.recipes.sources import Source
from cuts3d_cli.shards.names import generation_of, in_generation, masks_of
from cuts3d_cli.stages import STAGES, pack, run_stage
from cuts3d_cli.wording import Say

if TYPE_CHECKING:
    from cuts3d_cli.detector.run_log import TrainingEvents

Bar = Callable[[str], AbstractContextManager[Progress]]
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a recipe does in one go.

    Attributes:
        name: for people.
        parts: its parts in the plan, in order.
        run: does the step and returns the number of samples that failed.
    """

    name: str
    parts: Sequence[Part]
    run: Callable[[], int]


@dataclass(frozen=True, kw_only=True)
class Reports:
    """Who receives what a recipe reports.

    Attributes:
        bar: makes a progress bar for the stage of a name.
        events: receives the events of trainings.
        say: prints a status line.
        failures: receives the failed samples of a stage.
    """

    bar: Bar
    events: TrainingEvents
    say: Say
    failures: Callable[[Sequence[dict[str, str]]], None]


def uses_depth(config: Config) -> bool:
    """Return whether a recipe needs depth maps, for its masks or for their confidence."""
    return get_method(config.pseudo.method).needs_depth(config.pseudo) or (
        train.uses_confidence(config.train) and config.confidence.source == "depth"
    )


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of a recipe, in order.

    Attributes:
        recipe: as it was read.
        config: its configuration, for a process that does all shards.
        photos: the photos to learn from.
        sets: the evaluation sets by name.
        grid: rows and columns of the features.
        reports: who receives what the steps report.
    """

    recipe: Recipe
    config: Config
    photos: Source
    sets: Mapping[str, Source]
    grid: tuple[int, int]
    reports: Reports

    @property
    def out(self) -> Path:
        """The recipe's folder for everything that is written."""
        return self.recipe.source.out

    @property
    def _on_gpus(self) -> Config:
        """The configuration of stages that work: on the recipe's GPUs."""
        return on_gpus(self.config, self.recipe.source.gpus)

    @property
    def weights(self) -> dict[str, Path]:
        """The final weights of each generation by name, in order."""
        return {
            generation_of(number): self.out / train.default_out(number) / FINAL_WEIGHTS
            for number in range(self.config.selftrain.rounds + 1)
        }

    def all(self) -> list[Step]:
        """Return all steps: masks of the photos, detectors, then masks and predictions of the evaluation sets."""
        steps = [self._pack(self.photos), *self._masks(self.photos, title="")]
        steps.append(self._training())
        steps += [self._round(number) for number in range(1, self.config.selftrain.rounds + 1)]
        for name, source in self.sets.items():
            steps.append(self._pack(source, title=f"{name}: "))
            if self.cuts_masks(name):
                steps += self._masks(source, title=f"{name}: ")
            steps += [self._prediction(source, generation) for generation in self.weights]
        return steps

    def cuts_masks(self, name: str) -> bool:
        """Return whether an evaluation set gets pseudo-masks: as the recipe says, else where depth is available."""
        wanted = self.recipe.evaluate[name]
        if wanted.pseudo is not None:
            return wanted.pseudo
        return not uses_depth(self.config) or self.config.depth.backend != "sensor" or wanted.depth_dir is not None

    def evaluation(self, config: TrainConfig) -> TrainingEvaluation | None:
        """Return the evaluation that a training asks for: of its data sets, else of all evaluation sets.

        Raises:
            UsageError: a field has no effect without another, or a name is unknown.
        """
        own = {
            name: Selection(
                dataset=[str(self.recipe.evaluate[name].ground_truth)], images=source.root, limit=config.eval_limit
            )
            for name, source in self.sets.items()
        }
        return evaluation_of(config, root=self.config.eval.root, own=own)

    # ---------------------------------------------------------------------------------------------- steps

    def _pack(self, source: Source, *, title: str = "") -> Step:
        """Pack photos into shards."""
        packing = pack.Packing(
            source=source.source,
            out=source.out,
            name=source.name,
            images=source.images,
            depth_dir=source.depth_dir,
        )
        run = partial(pack.run, packing, config=self.config)
        name = f"{title}pack"
        part = pack_part(name, source, run=run)
        say = self.reports.say
        return Step(name=name, parts=[part], run=lambda: self._with_bar(name, lambda bar: run(progress=bar, say=say)))

    def _masks(self, source: Source, *, title: str) -> list[Step]:
        """Estimate depth, cut pseudo-masks and compute their Spatial Confidence, as far as they are used."""
        config, masks = self.config, masks_to_plan(self.config.pseudo)
        sizes = {
            "depth": depth_bytes(config, sensor=source.map_bytes),
            "pseudo": mask_record_bytes(masks),
            "confidence": confidence_bytes(masks, grid=self.grid),
        }
        steps, before = [], f"{title}pack"
        for stage in self._mask_stages():
            otherwise = sizes[stage]
            name = f"{title}{stage}"
            planned = partial(STAGES[stage].run, config=config, say=self.reports.say)
            run = partial(run_stage, stage, config=self._on_gpus, say=self.reports.say)
            part = sidecars_part(name, source, stage=stage, run=planned, needs=[before], otherwise=otherwise)
            steps.append(Step(name=name, parts=[part], run=self._over(name, source, run)))
            before = name
        return steps

    def _training(self) -> Step:
        """Train the first detector on the pseudo-masks."""
        name = generation_of(0)

        def run() -> int:
            self._training_of_recipe(
                lambda: train.run(
                    self.photos.bases,
                    round=0,
                    out=self.out / train.default_out(0),
                    config=self.config.train,
                    device=self.config.run.device,
                    max_image_pixels=self.config.run.max_image_pixels,
                    gpus=self.recipe.source.gpus,
                    if_exists="complete",
                    init=None,
                    events=self.reports.events,
                    evaluation=self.evaluation(self.config.train),
                )
            )
            return 0

        needs = ["confidence" if train.uses_confidence(self.config.train) else "pseudo"]
        return Step(name=name, parts=[self._training_part(name, round=0, needs=needs)], run=run)

    def _replaces_masks(self, round: int) -> bool:
        """Return whether the masks that a training learned from are of other settings than this recipe's."""
        asking = replace(self.config, run=replace(self.config.run, if_exists="resume"))
        runs: dict[str, Callable[..., StageResult]] = {}
        if round:
            runs[masks_of(round)] = partial(STAGES["merge"].run, config=asking, round=round)
        else:
            runs |= {stage: partial(STAGES[stage].run, config=asking) for stage in self._mask_stages()}
        try:
            for stage, run in runs.items():
                compare_sidecars(self.photos.bases, stage=stage, run=lambda some, bar, run=run: run(some, progress=bar))  # type: ignore[misc]
        except OtherSettingsError:
            return True
        return False

    def _mask_stages(self) -> list[str]:
        """Return the stages that lead to masks and their confidence, as far as they are used."""
        stages = ["depth"] if uses_depth(self.config) else []
        return [*stages, "pseudo", *(["confidence"] if train.uses_confidence(self.config.train) else [])]

    def _round(self, number: int) -> Step:
        """Run a round of self-training: predictions, the masks that they are merged into, and a training on these."""
        before, name = generation_of(number - 1), generation_of(number)
        checkpoint = self.weights[before]
        predicting = selftrain.predicting(self.config, number)

        # The stages within the round, so that the plan can ask what they would do.
        def predicted(shards: Sequence[Path], *, progress: Progress) -> StageResult:
            return STAGES["predict"].run(
                shards, config=predicting, progress=progress, checkpoint=checkpoint, generation=before, chosen=False
            )

        def merged(shards: Sequence[Path], *, progress: Progress) -> StageResult:
            return STAGES["merge"].run(shards, config=self.config, progress=progress, round=number)

        # The parts: predictions need the detector, masks those of the round before, too.
        masks = "pseudo" if number == 1 else f"{before}: masks"
        record = detection_record_bytes(selftrain.MAX_DETECTIONS)
        parts = [
            sidecars_part(
                f"{name}: predictions",
                self.photos,
                stage=in_generation("predict", before),
                run=predicted,
                needs=[before],
                otherwise=record,
            ),
            sidecars_part(
                f"{name}: masks",
                self.photos,
                stage=masks_of(number),
                run=merged,
                needs=[masks, f"{name}: predictions"],
                otherwise=record + mask_record_bytes(masks_to_plan(self.config.pseudo)),
            ),
            self._training_part(name, round=number, needs=[f"{name}: masks"]),
        ]

        # The round itself is the one of `cuts3d selftrain`.
        def run() -> int:
            return self._training_of_recipe(
                lambda: selftrain.run_round(
                    self.photos.bases,
                    number=number,
                    checkpoint=checkpoint,
                    out=self.out,
                    config=self.config,
                    gpus=self.recipe.source.gpus,
                    events=self.reports.events,
                    evaluation=self.evaluation(self.config.selftrain),
                    progress=self.reports.bar,
                )
            ).failed

        return Step(name=name, parts=parts, run=run)

    def _prediction(self, source: Source, generation: str) -> Step:
        """Predict with one detector on an evaluation set."""
        name = f"{source.name}: predictions of {generation}"
        named: dict[str, Any] = {"checkpoint": self.weights[generation], "generation": generation, "chosen": False}
        planned = partial(STAGES["predict"].run, config=self.config, **named)
        run = partial(run_stage, "predict", config=self._on_gpus, **named)
        part = sidecars_part(
            name,
            source,
            stage=in_generation("predict", generation),
            run=planned,
            needs=[f"{source.name}: pack", generation],
            otherwise=detection_record_bytes(self.config.predict.max_detections or self.config.train.test_detections),
        )
        return Step(name=name, parts=[part], run=self._over(name, source, run))

    def _training_part(self, name: str, *, round: int, needs: Sequence[str]) -> Part:
        """Return the part of a round's training."""
        return training_part(
            name,
            self.photos.bases,
            round=round,
            out=self.out / train.default_out(round),
            config=self.config.selftrain if round else self.config.train,
            init=self.weights[generation_of(round - 1)] if round else None,
            max_image_pixels=self.config.run.max_image_pixels,
            needs=needs,
            replaces_masks=lambda: self._replaces_masks(round),
            not_resumed=self._not_resumed,
        )

    # ---------------------------------------------------------------------------------------------- running

    def _over(self, name: str, source: Source, run: Callable[..., StageResult]) -> Callable[[], int]:
        """Return a call that runs a stage over all shards of a source."""
        return lambda: self._with_bar(name, lambda bar: run(source.bases, progress=bar))

    def _with_bar(self, name: str, run: Callable[[Progress], StageResult]) -> int:
        """Run a stage under a progress bar, report its failed samples and return their number.

        Raises:
            ShardError: shards could not be done; what follows needs them.
        """
        with self.reports.bar(name) as bar:
            result = run(bar)
        self.reports.failures(result.failed)
        result.check_complete()
        return len(result.failed)

    def _training_of_recipe(self, run: Callable[[], _Result]) -> _Result:
        """Run a training. One that exists and does not fit is never deleted: the error names the recipe."""
        try:
            return run()
        except UsageError as error:
            raise self._not_resumed(error) from error

    def _not_resumed(self, error: UsageError) -> UsageError:
        return self.recipe.error("recipe.out", "cannot be resumed: ", *error.parts)
