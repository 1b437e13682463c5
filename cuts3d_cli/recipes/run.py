"""`cuts3d run`: from photos to evaluated detectors, by one recipe. Every stage skips what it finds finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuts3d_cli.config.recipe import Recipe
from cuts3d_cli.cut.crf import check_backend
from cuts3d_cli.cut.methods import get_method
from cuts3d_cli.depth.catalogue import depth_spec
from cuts3d_cli.detector import card as cards
from cuts3d_cli.detector import train
from cuts3d_cli.devices import choose_device, choose_precision
from cuts3d_cli.engine.sharing import without_split
from cuts3d_cli.errors import UsageError
from cuts3d_cli.evaluation import shards as evaluation
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.files import atomic_write_json
from cuts3d_cli.recipes.needs import RecipeNeeds, of_recipe, raise_all, unmet
from cuts3d_cli.recipes.plan import Plan, make_plan
from cuts3d_cli.recipes.sources import Source
from cuts3d_cli.recipes.steps import Bar, Reports, Steps, uses_depth
from cuts3d_cli.shards.manifest import digest_file
from cuts3d_cli.stages.pack import name_problem
from cuts3d_cli.wording import Say

if TYPE_CHECKING:
    from cuts3d_cli.detector.run_log import TrainingEvents

RESULTS = "results.json"
PSEUDO_MASKS = "pseudo-masks"
"""The name of the masks themselves among the results, beside "initial", "st1", ..."""


@dataclass(frozen=True, kw_only=True)
class RecipeResult:
    """What a recipe produced.

    Attributes:
        recipe: its file.
        weights: of each generation by name, in order.
        results: evaluation set -> "pseudo-masks" or generation -> its figures.
        failed: step -> number of samples that failed there; only steps with failed samples.
    """

    recipe: Path
    weights: Mapping[str, Path]
    results: Mapping[str, Mapping[str, evaluation.Evaluation]]
    failed: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: figures in [0, 1], full precision, null where undefined."""
        return {
            "recipe": str(self.recipe),
            "generations": {name: str(path) for name, path in self.weights.items()},
            "results": {
                name: {what: result.to_json() for what, result in found.items()} for name, found in self.results.items()
            },
            "failed": dict(self.failed),
        }


class RecipeRun:
    """A recipe whose photos are listed and whose settings are checked.

    Args:
        recipe: what to do.
        bar: makes a progress bar for the stage of a name.
        events: receives the events of trainings.
        say: prints a status line.
        failures: receives the failed samples of a stage.

    Raises:
        UsageError: a key of the recipe is impossible, or there are no photos.
        Cuts3dError: detectron2 is not installed.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        bar: Bar,
        events: TrainingEvents,
        say: Say,
        failures: Callable[[Sequence[dict[str, str]]], None],
    ) -> None:
        self.recipe, self.out = recipe, recipe.source.out
        self._say = say
        self._config = replace(recipe.config, run=without_split(recipe.config.run))
        # Checks first: listing the photos of a large folder takes a while.
        grid = self._check()
        photos, sets = self._list_photos()
        self._steps = Steps(
            recipe=recipe,
            config=self._config,
            photos=photos,
            sets=sets,
            grid=grid,
            reports=Reports(bar=bar, events=events, say=say, failures=failures),
        )
        for training in (self._config.train, self._config.selftrain):
            try:
                wanted = self._steps.evaluation(training)
            except UsageError as error:
                raise of_recipe(recipe, error) from error
            if wanted is not None:
                wanted.check(say=say)

    def plan(self) -> Plan:
        """Return what is left to do; nothing is written."""
        return make_plan([part for step in self._steps.all() for part in step.parts], out=self.out)

    def needs(self, plan: Plan) -> RecipeNeeds:
        """Return what a plan needs before its first step."""
        return RecipeNeeds(recipe=self.recipe, config=self._config, plan=plan)

    def run(self, plan: Plan) -> RecipeResult:
        """Check what the work needs, do what is left to do, then evaluate.

        Args:
            plan: as `plan` returned it.

        Returns:
            The results, which are also written to `results.json` in the recipe's `out` and to the model cards.

        Raises:
            Cuts3dError: something that the work needs is missing, or a stage cannot continue; what is finished is kept.
        """
        needs = self.needs(plan)
        needs.check()
        needs.fetch(say=self._say)
        failed = {}
        for step in self._steps.all():
            self._say(f"== {step.name}")
            if number := step.run():
                failed[step.name] = number
        results = {name: self._evaluate(name) for name in self._steps.sets}
        result = RecipeResult(recipe=self.recipe.file, weights=self._steps.weights, results=results, failed=failed)
        atomic_write_json(self.out / RESULTS, result.to_json())
        return result

    def _check(self) -> tuple[int, int]:
        """Check what would otherwise fail after hours; return the grid of the features, rows and columns.

        Raises:
            UsageError: settings do not fit each other or this machine.
            Cuts3dError: detectron2 is not installed.
        """
        train.require_detectron2()
        recipe, config = self.recipe, self._config
        # Settings of the cut, the device, and the processes that train.
        try:
            extractor = FeatureExtractor(config)
            get_method(config.pseudo.method).check(config.pseudo, extractor.grid)
            check_backend(config.pseudo.crf_backend)
            if uses_depth(config):
                depth_spec(config.depth.backend)
            device = choose_device(config.run.device)
            choose_precision(config.run.precision, device=device)
            trainings = (config.train, config.selftrain)
            check = partial(train.check_processes, gpus=recipe.source.gpus, device=device)
            raise_all(unmet(partial(check, training) for training in trainings))
        except UsageError as error:
            raise UsageError(f"{recipe.file}: ", *error.parts) from error
        if problem := name_problem(recipe.source.name):
            raise recipe.error("recipe.name", problem)
        # Sensor maps, wherever masks are cut.
        if uses_depth(config) and config.depth.backend == "sensor":
            if recipe.source.depth_dir is None:
                raise recipe.error("recipe.depth_dir", "is missing: depth.backend is 'sensor'")
            for name, wanted in recipe.evaluate.items():
                if wanted.pseudo and wanted.depth_dir is None:
                    raise recipe.error(
                        f"recipe.evaluate.{name}.depth_dir", "is missing: depth.backend is 'sensor', and pseudo is true"
                    )
        return extractor.grid

    def _list_photos(self) -> tuple[Source, dict[str, Source]]:
        """List the photos to learn from, and those of the evaluation sets by name.

        Raises:
            UsageError: a folder or COCO JSON names no photos.
        """
        own = self.recipe.source
        photos = Source(
            name=own.name, source=own.photos, images=own.images, depth_dir=own.depth_dir, out=self.out / "shards"
        )
        sets = {
            name: Source(
                name=name,
                source=wanted.ground_truth,
                images=wanted.photos,
                depth_dir=wanted.depth_dir,
                out=self.out / "evaluate" / name,
            )
            for name, wanted in self.recipe.evaluate.items()
        }
        return self._listed("recipe", photos), {
            name: self._listed(f"recipe.evaluate.{name}", source) for name, source in sets.items()
        }

    def _listed(self, key: str, source: Source) -> Source:
        try:
            return source.listed(shard_size=self._config.pack.shard_size)
        except UsageError as error:
            raise self.recipe.error(key, "names no photos that can be packed: ", *error.parts) from error

    def _evaluate(self, name: str) -> dict[str, evaluation.Evaluation]:
        """Evaluate masks and detectors on one set; write the figures of the detectors into their cards."""
        source, wanted = self._steps.sets[name], self.recipe.evaluate[name]
        self._say(f"== {name}: evaluation")
        run = partial(evaluation.run, source.bases, ground_truth=wanted.ground_truth, say=self._say)
        found = {PSEUDO_MASKS: run()} if self._steps.cuts_masks(name) else {}
        truth = {"file": wanted.ground_truth.name, "sha256": digest_file(wanted.ground_truth).sha256}
        for generation, weights in self._steps.weights.items():
            result = found[generation] = run(predicted=True, generation=generation)
            cards.record_results(weights, {name: {**result.to_json(), "ground_truth": truth}})
        return found
