"""`cuts3d run`: from photos to evaluated detectors, by one recipe. Every stage skips what it finds finished."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuts3d_cli.config.recipe import EvaluationSet, Recipe
from cuts3d_cli.cut.cuts3d import check_tau_knn
from cuts3d_cli.cut.image import needs_depth
from cuts3d_cli.detector import FINAL_WEIGHTS, train
from cuts3d_cli.detector import card as cards
from cuts3d_cli.devices import choose_device
from cuts3d_cli.engine.results import Progress, StageResult
from cuts3d_cli.engine.sharing import without_split
from cuts3d_cli.errors import UsageError
from cuts3d_cli.evaluation import shards as evaluation
from cuts3d_cli.files import atomic_write_json
from cuts3d_cli.recipes import selftrain
from cuts3d_cli.recipes.plan import (
    MEMBER_BYTES,
    TRAINING,
    Part,
    Plan,
    confidence_bytes,
    depth_bytes,
    detection_record_bytes,
    look,
    make_plan,
    mask_record_bytes,
    sidecar_bytes,
    training_bytes,
    unfinished_sidecars,
)
from cuts3d_cli.recipes.sources import Source
from cuts3d_cli.shards.manifest import digest_file
from cuts3d_cli.shards.names import in_generation
from cuts3d_cli.stages import STAGES, pack
from cuts3d_cli.stages.features import FeatureExtractor
from cuts3d_cli.stages.merge import generation_of, masks_of
from cuts3d_cli.wording import Say

if TYPE_CHECKING:
    from cuts3d_cli.detector.training import Watcher

RESULTS = "results.json"
PSEUDO_MASKS = "pseudo-masks"
"""What the results of the masks themselves are called, beside "initial", "st1", ..."""

Bar = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True, kw_only=True)
class RecipeResult:
    """What came of a recipe.

    Attributes:
        recipe: its file.
        weights: of each generation, by name, in order.
        results: evaluation set -> "pseudo-masks" or generation -> its figures.
        failed: part -> samples that failed there; only those with some.
    """

    recipe: Path
    weights: Mapping[str, Path]
    results: Mapping[str, Mapping[str, evaluation.Evaluation]]
    failed: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: figures in [0, 1], full precision, null where undefined."""
        return {
            "recipe": str(self.recipe),
            "generations": {name: str(path) for name, path in self.weights.items()},
            "results": {
                name: {what: result.to_json() for what, result in found.items()} for name, found in self.results.items()
            },
            "failed": dict(self.failed),
        }


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What is done in one go; it may have several parts in the plan. `run` returns how many samples failed."""

    name: str
    parts: Sequence[Part]
    run: Callable[[], int]


class RecipeRun:
    """A recipe with everything that is needed to follow it.

    Args:
        recipe: what to do.
        bar: shows a progress bar for the stage of that name.
        watcher: told how training goes.
        say: told everything else, a line at a time.
        failures: told the failed samples of a stage.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        bar: Bar,
        watcher: Watcher,
        say: Say,
        failures: Callable[[Sequence[dict[str, str]]], None],
    ) -> None:
        """List the photos, and check what would otherwise fail after hours.

        Raises:
            UsageError: a key of the recipe is impossible, or there are no photos.
            Cuts3dError: detectron2 is not installed.
        """
        self.recipe, self.out = recipe, recipe.source.out
        self.config = replace(recipe.config, run=without_split(recipe.config.run))
        self._bar, self._watcher, self._say, self._failures = bar, watcher, say, failures
        self._with_confidence = train.uses_confidence(self.config.train)
        self._with_depth = needs_depth(self.config.pseudo) or (
            self._with_confidence and self.config.confidence.source == "depth"
        )
        self._grid = self._check()
        own = recipe.source
        self._photos = self._listed(
            "recipe",
            Source(
                name=own.name,
                source=own.photos,
                images=own.images,
                depth_dir=own.depth_dir,
                out=self.out / "shards",
            ),
        )
        self._sets = {
            name: self._listed(
                f"recipe.evaluate.{name}",
                Source(
                    name=name,
                    source=wanted.ground_truth,
                    images=wanted.photos,
                    depth_dir=wanted.depth_dir,
                    out=self.out / "evaluate" / name,
                ),
            )
            for name, wanted in recipe.evaluate.items()
        }
        self.weights = {
            generation_of(number): self.out / train.default_out(number) / FINAL_WEIGHTS
            for number in range(self.config.selftrain.rounds + 1)
        }
        self._steps = self._all_steps()

    def plan(self) -> Plan:
        """What there is yet to do; nothing is written."""
        return make_plan([part for step in self._steps for part in step.parts], out=self.out)

    def run(self) -> RecipeResult:
        """Do it.

        Returns:
            The results, which are also written to `results.json` in the recipe's `out` and to the model cards.

        Raises:
            Cuts3dError: a stage cannot go on; what is finished is kept.
        """
        failed = {}
        for step in self._steps:
            self._say(f"== {step.name}")
            if number := step.run():
                failed[step.name] = number
        results = {name: self._evaluated(name) for name in self._sets}
        result = RecipeResult(recipe=self.recipe.file, weights=self.weights, results=results, failed=failed)
        atomic_write_json(self.out / RESULTS, result.to_json())
        return result

    # ---------------------------------------------------------------------------------------------- checks

    def _check(self) -> tuple[int, int]:
        """Find what would stop the recipe late. Returns the grid of the features."""
        train.require_detectron2()
        recipe, config = self.recipe, self.config
        try:
            extractor = FeatureExtractor(config)
            if config.pseudo.method == "cuts3d" and config.pseudo.cut == "local":
                check_tau_knn(config.pseudo.tau_knn, extractor.grid)
            device = choose_device(config.run.device)
        except UsageError as error:
            raise UsageError(f"{recipe.file}: ", *error.parts) from error
        if recipe.source.gpus > 1 and not device.startswith("cuda"):
            raise recipe.error("recipe.gpus", f"is {recipe.source.gpus}, but training is on {device}")
        if self._with_depth and config.depth.backend == "sensor":
            if recipe.source.depth_dir is None:
                raise recipe.error("recipe.depth_dir", "is missing: depth.backend is 'sensor'")
            for name, wanted in recipe.evaluate.items():
                if wanted.pseudo and wanted.depth_dir is None:
                    raise recipe.error(
                        f"recipe.evaluate.{name}.depth_dir", "is missing: depth.backend is 'sensor', and pseudo is true"
                    )
        return extractor.grid

    def _listed(self, key: str, source: Source) -> Source:
        try:
            return source.listed(shard_size=self.config.pack.shard_size)
        except UsageError as error:
            raise self.recipe.error(key, "names no photos that can be packed: ", *error.parts) from error

    # ---------------------------------------------------------------------------------------------- steps

    def _all_steps(self) -> list[_Step]:
        photos = self._photos
        steps = [self._pack(photos), *self._masks(photos, title="")]
        steps.append(self._training())
        steps += [self._round(number) for number in range(1, self.config.selftrain.rounds + 1)]
        for name, source in self._sets.items():
            steps.append(self._pack(source, title=f"{name}: "))
            if self._cuts(self.recipe.evaluate[name]):
                steps += self._masks(source, title=f"{name}: ")
            steps += [self._prediction(source, generation) for generation in self.weights]
        return steps

    def _cuts(self, wanted: EvaluationSet) -> bool:
        """Whether pseudo-masks are made on an evaluation set: where it is asked for, else where depth can be had."""
        if wanted.pseudo is not None:
            return wanted.pseudo
        return not self._with_depth or self.config.depth.backend != "sensor" or wanted.depth_dir is not None

    def _pack(self, source: Source, *, title: str = "") -> _Step:
        packing = pack.Packing(
            source=source.source,
            out=source.out,
            name=source.name,
            images=source.images,
            depth_dir=source.depth_dir,
        )
        run = partial(pack.run, packing, config=self.config)

        def unfinished(bases: Sequence[Path]) -> dict[Path, str]:
            if not any(base.exists() for base in bases):  # so that looking makes no folder
                return dict.fromkeys(bases, "not there yet")
            done, why = look(lambda progress: run(progress=progress))
            return dict.fromkeys((base for base in bases if base not in done), why or "not there yet")

        def needed(missing: Collection[Path]) -> int:
            each = 3 * MEMBER_BYTES + source.map_bytes
            return round(sum(source.files[base] + each * source.images_of[base] for base in missing))

        name = f"{title}pack"
        part = Part(name=name, bases=source.bases, unfinished=unfinished, bytes_of=needed)
        return _Step(name=name, parts=[part], run=lambda: self._finish(name, lambda bar: run(progress=bar)))

    def _masks(self, source: Source, *, title: str) -> list[_Step]:
        """Depth, pseudo-masks and their confidence."""
        config, masks = self.config, self.config.pseudo.instances
        steps, before = [], f"{title}pack"
        stages: dict[str, float] = {}
        if self._with_depth:
            stages["depth"] = depth_bytes(config, sensor=source.map_bytes)
        stages["pseudo"] = mask_record_bytes(masks)
        if self._with_confidence:
            stages["confidence"] = confidence_bytes(masks, grid=self._grid)
        for stage, otherwise in stages.items():
            name = f"{title}{stage}"
            settled = partial(STAGES[stage].run, config=config, say=self._say)
            part = self._sidecars(name, source, stage=stage, run=settled, needs=[before], otherwise=otherwise)
            steps.append(_Step(name=name, parts=[part], run=self._over(name, source, settled)))
            before = name
        return steps

    def _training(self) -> _Step:
        folder = self.out / train.default_out(0)
        name = generation_of(0)

        def run() -> int:
            self._trained(lambda: self._train(folder))
            return 0

        needs = ["confidence" if self._with_confidence else "pseudo"]
        return _Step(name=name, parts=[self._training_part(name, round=0, needs=needs)], run=run)

    def _train(self, folder: Path) -> None:
        train.run(
            self._photos.bases,
            round=0,
            out=folder,
            config=self.config.train,
            device=self.config.run.device,
            max_image_pixels=self.config.run.max_image_pixels,
            gpus=self.recipe.source.gpus,
            resume="if begun",
            overwrite=False,
            init=None,
            watcher=self._watcher,
        )

    def _round(self, number: int) -> _Step:
        before, name = generation_of(number - 1), generation_of(number)
        checkpoint, bases = self.weights[before], self._photos.bases
        predicting = selftrain.predicting(self.config, number)

        def predicted(shards: Sequence[Path], *, progress: Progress) -> StageResult:
            return STAGES["predict"].run(
                shards, config=predicting, progress=progress, checkpoint=checkpoint, generation=before
            )

        def merged(shards: Sequence[Path], *, progress: Progress) -> StageResult:
            return STAGES["merge"].run(shards, config=self.config, progress=progress, round=number)

        masks = "pseudo" if number == 1 else f"{before}: masks"
        record = detection_record_bytes(selftrain.MAX_DETECTIONS)
        parts = [
            self._sidecars(
                f"{name}: predictions",
                self._photos,
                stage=in_generation("predict", before),
                run=predicted,
                needs=[before],
                otherwise=record,
            ),
            self._sidecars(
                f"{name}: masks",
                self._photos,
                stage=masks_of(number),
                run=merged,
                needs=[masks, f"{name}: predictions"],
                otherwise=record + mask_record_bytes(self.config.pseudo.instances),
            ),
            self._training_part(name, round=number, needs=[f"{name}: masks"]),
        ]

        def run() -> int:
            done = self._trained(
                lambda: selftrain.run_round(
                    bases,
                    number=number,
                    checkpoint=checkpoint,
                    out=self.out,
                    config=self.config,
                    gpus=self.recipe.source.gpus,
                    watcher=self._watcher,
                    progress=self._bar,
                )
            )
            return int(done.failed)

        return _Step(name=name, parts=parts, run=run)

    def _prediction(self, source: Source, generation: str) -> _Step:
        name = f"{source.name}: predictions of {generation}"
        run = partial(
            STAGES["predict"].run, checkpoint=self.weights[generation], config=self.config, generation=generation
        )
        part = self._sidecars(
            name,
            source,
            stage=in_generation("predict", generation),
            run=run,
            needs=[f"{source.name}: pack", generation],
            otherwise=detection_record_bytes(self.config.predict.max_detections),
        )
        return _Step(name=name, parts=[part], run=self._over(name, source, run))

    # ---------------------------------------------------------------------------------------------- parts

    def _sidecars(
        self,
        name: str,
        source: Source,
        *,
        stage: str,
        run: Callable[..., StageResult],
        needs: Sequence[str],
        otherwise: float,
    ) -> Part:
        return Part(
            name=name,
            bases=source.bases,
            needs=needs,
            unfinished=lambda bases: unfinished_sidecars(
                bases, stage=stage, run=lambda some, progress: run(some, progress=progress)
            ),
            bytes_of=lambda missing: sidecar_bytes(
                missing, bases=source.bases, stage=stage, images=source.images_of, otherwise=otherwise
            ),
        )

    def _training_part(self, name: str, *, round: int, needs: Sequence[str]) -> Part:
        config = self.config.selftrain if round else self.config.train
        init = self.weights[generation_of(round - 1)] if round else None
        folder = self.out / train.default_out(round)

        def unfinished(units: Sequence[Path]) -> dict[Path, str]:
            if not units:
                return {}
            task = train.task_of(
                self._photos.bases,
                round=round,
                out=folder,
                config=config,
                init=init,
                max_image_pixels=self.config.run.max_image_pixels,
            )
            if train.finished_weights(task) is not None:
                return {}
            return {TRAINING: "goes on from a checkpoint" if train.begun(folder) else "not there yet"}

        return Part(
            name=name, bases=[], needs=needs, unfinished=unfinished, bytes_of=lambda missing: training_bytes(config)
        )

    # ---------------------------------------------------------------------------------------------- running

    def _over(self, name: str, source: Source, run: Callable[..., StageResult]) -> Callable[[], int]:
        return lambda: self._finish(name, lambda bar: run(source.bases, progress=bar))

    def _finish(self, name: str, run: Callable[[Progress], StageResult]) -> int:
        with self._bar(name) as bar:
            result = run(bar)
        self._failures(result.failed)
        return len(result.failed)

    def _trained(self, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except UsageError as error:  # a training of another configuration or other masks is never thrown away
            raise self.recipe.error("recipe.out", "cannot be resumed: ", *error.parts) from error

    def _evaluated(self, name: str) -> dict[str, evaluation.Evaluation]:
        """The figures of everything on one set; those of the detectors go into their cards."""
        source, wanted = self._sets[name], self.recipe.evaluate[name]
        self._say(f"== {name}: evaluation")
        run = partial(evaluation.run, source.bases, ground_truth=wanted.ground_truth, say=self._say)
        found = {PSEUDO_MASKS: run()} if self._cuts(wanted) else {}
        truth = {"file": wanted.ground_truth.name, "sha256": digest_file(wanted.ground_truth).sha256}
        for generation, weights in self.weights.items():
            result = found[generation] = run(predicted=True, generation=generation)
            facts = {**result.to_json(), "ground_truth": truth}
            cards.record_results(weights, {name: facts})
        return found
