"""What a run of several stages needs: all of it is looked at before the first step, not after days."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cuts3d_cli.config import Config
from cuts3d_cli.config.recipe import Recipe
from cuts3d_cli.cut.methods import get_method
from cuts3d_cli.depth import catalogue as depths
from cuts3d_cli.detector import resnet, train
from cuts3d_cli.errors import Cuts3dError, Part, Setting, SettingError, UsageError
from cuts3d_cli.evaluation.selection import Selection
from cuts3d_cli.evaluation.training import evaluation_of
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.files import check_folder
from cuts3d_cli.recipes.plan import Plan
from cuts3d_cli.stages.confidence import check_thresholds
from cuts3d_cli.weights.cache import check_available
from cuts3d_cli.wording import Say, size_of


def unmet(checks: Iterable[Callable[[], object]]) -> list[Cuts3dError]:
    """Return what the checks that fail say."""
    found = []
    for check in checks:
        try:
            check()
        except Cuts3dError as error:
            found.append(error)
    return found


def of_recipe(recipe: Recipe, error: Cuts3dError) -> Cuts3dError:
    """Return an error that names the recipe where a setting does not fit."""
    return recipe.error(error.setting, *error.args[1:]) if isinstance(error, SettingError) else error


def raise_all(found: Sequence[Cuts3dError]) -> None:
    """Raise errors as one.

    Raises:
        UsageError: one of them is, and settings have to change.
        Cuts3dError: there are others.
    """
    if len(found) == 1:
        raise found[0]
    if found:
        parts: list[Part] = [f"{len(found)} things stand in the way: "]
        for number, error in enumerate(found):
            parts += ["; " if number else "", *error.parts]
        raise (UsageError if any(isinstance(error, UsageError) for error in found) else Cuts3dError)(*parts)


@dataclass(frozen=True, kw_only=True)
class RecipeNeeds:
    """What the steps of a recipe need that are left to do.

    Attributes:
        recipe: as it was read.
        config: its configuration.
        plan: what is left to do.
    """

    recipe: Recipe
    config: Config
    plan: Plan

    def check(self) -> None:
        """Check all of it; nothing is fetched and nothing is written.

        Raises:
            UsageError, Cuts3dError: something is missing, or does not fit; one line names all that is.
        """
        found = [part.refused for part in self.plan.parts if part.refused is not None]
        found += unmet(
            (
                lambda: check_folder(self.recipe.source.out, setting="recipe.out"),
                self._check_disk,
                self._check_confidence,
                self._check_features,
                self._check_depth,
                self._check_detector,
                self._check_evaluation,
            )
        )
        raise_all([of_recipe(self.recipe, error) for error in found])

    def fetch(self, *, say: Say) -> None:
        """Fetch the weights that later steps need.

        Raises:
            WeightsError: they are not to be had.
        """
        if self._is_left("pseudo"):
            say(f"features: {FeatureExtractor(self.config, say=say).weights}")
        if self._is_left("initial"):
            resnet.fetch(self.config.train.backbone_weights, say=say)

    def _is_left(self, *names: str) -> bool:
        """Return whether parts of these names, of the photos or of an evaluation set, have work to do."""
        return any(part.open and part.name.rpartition(": ")[2] in names for part in self.plan.parts)

    def _check_disk(self) -> None:
        if self.plan.bytes > self.plan.free:
            needed, free = size_of(self.plan.bytes), size_of(self.plan.free)
            problem = f"is {self.recipe.source.out}, where {free} are free and about {needed} are needed: make room"
            raise self.recipe.error("recipe.out", f"{problem}, or choose another place")

    def _check_confidence(self) -> None:
        confidence, pseudo = self.config.confidence, self.config.pseudo
        if confidence.source != "depth" or not self._is_left("confidence"):
            return
        if not get_method(pseudo.method).cuts_in_3d(pseudo):
            crf = Setting("confidence.source", "crf")
            raise SettingError("confidence.source", "is 'depth', but these masks are cut in 2D: set ", crf)
        check_thresholds(confidence, pseudo, FeatureExtractor(self.config).grid)

    def _check_evaluation(self) -> None:
        """Check that trainings can evaluate what they are asked to."""
        own = {name: Selection(dataset=[str(item.ground_truth)]) for name, item in self.recipe.evaluate.items()}
        evaluation_of(self.config.train, root=self.config.eval.root, own=own)
        if self.config.selftrain.rounds:
            evaluation_of(self.config.selftrain, root=self.config.eval.root, own=own)

    def _check_features(self) -> None:
        if self._is_left("pseudo"):
            check_available(FeatureExtractor(self.config).spec, weights=self.config.features.weights)

    def _check_depth(self) -> None:
        if self._is_left("depth"):
            depths.check_available(self.config.depth)

    def _check_detector(self) -> None:
        folder = self.recipe.source.out / train.default_out(0)
        if self._is_left("initial") and not train.has_checkpoint(folder):
            resnet.check_available(self.config.train.backbone_weights)
