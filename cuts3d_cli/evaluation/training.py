"""Evaluates a detector on datasets while it is trained. The processes of the training share the photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuts3d_cli.config import SelfTrainConfig, TrainConfig
from cuts3d_cli.errors import Setting, SettingError
from cuts3d_cli.evaluation.benchmark_photos import PhotoResult, detect_photos
from cuts3d_cli.evaluation.benchmark_results import compare_photos
from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS
from cuts3d_cli.evaluation.selection import Selection
from cuts3d_cli.wording import Say, counted, listed

if TYPE_CHECKING:
    from cuts3d_cli.detector.evaluating import Share
    from cuts3d_cli.detector.inference import Detector


@dataclass(frozen=True, kw_only=True)
class TrainingEvaluation:
    """An evaluation on some datasets. Fits `cuts3d_cli.detector.evaluating.Evaluation`.

    Attributes:
        selections: name in the results -> the dataset, alone in its selection.
    """

    selections: Mapping[str, Selection]

    def check(self, *, say: Say) -> None:
        """Open the datasets, one after the other.

        Raises:
            UsageError: a user's own JSON is unusable.
            DatasetError: a dataset is missing, incomplete or damaged.
        """
        for selection in self.selections.values():
            for name in selection.names():
                selection.open(name, say=say)

    def __call__(self, detector: Detector, *, share: Share, say: Say) -> dict[str, dict[str, Any]]:
        """Evaluate a detector; see `Evaluation`. A photo that cannot be read counts as one without detections."""
        results: dict[str, dict[str, Any]] = {}
        for label, selection in self.selections.items():
            # Detect in every n-th photo.
            (name,) = selection.names()
            dataset = selection.open(name, say=lambda line: None)
            numbers = selection.image_ids(dataset)[share.rank :: share.world]
            found: list[PhotoResult] = []
            for photo in detect_photos(dataset, numbers, numbers, detector, journal=None, batch_size=1):
                found.append(photo)
                if share.stopped():
                    break
            # Compare all of them in the first process.
            if (every := share.gather(found)) and not share.stopped():
                photos = sorted(chain.from_iterable(every), key=lambda photo: photo.number)
                metrics, failed = compare_photos(dataset, photos)
                if failed:
                    files, why = listed([item["file"] for item in failed]), failed[0]["reason"]
                    say(f"warning: {label}: {counted(len(failed), 'photo')} failed: {files} ({why})")
                results[label] = {**metrics.to_json(), "failed": len(failed)}
        return results


def evaluation_of(
    config: TrainConfig, *, root: Path | None, own: Mapping[str, Selection] | None = None
) -> TrainingEvaluation | None:
    """Return the evaluation that a training asks for.

    Args:
        config: the fields `eval_...`.
        root: the folder of the benchmarks.
        own: evaluation sets of a recipe by name, which are all taken where the configuration names no data set.

    Returns:
        The evaluation; None where the training asks for none.

    Raises:
        UsageError: a field has no effect without another, or a name is unknown.
    """
    section = "selftrain" if isinstance(config, SelfTrainConfig) else "train"
    given = [name for name in ("eval_dataset", "eval_images", "eval_limit") if getattr(config, name)]
    if not config.eval_every:
        if given:
            raise SettingError(
                f"{section}.{given[0]}", "has no effect: also set ", Setting(f"{section}.eval_every"), " to iterations"
            )
        return None
    own = own or {}
    chosen = config.eval_dataset or tuple(own)
    if not chosen:
        wanted = Setting(f"{section}.eval_dataset")
        raise SettingError(f"{section}.eval_every", "needs a data set to evaluate on: name it by ", wanted)
    selections = {name: own[name] for name in chosen if name in own}
    others = [name for name in chosen if name not in own]
    if others or config.eval_images:
        named = Selection(dataset=others, root=root, images=config.eval_images, limit=config.eval_limit)
        for name in named.names():
            # Benchmarks go by their names, a user's own JSON by that of its file, where this is no other's.
            label = name if name in BENCHMARKS or Path(name).stem in (*selections, *BENCHMARKS) else Path(name).stem
            images = None if name in BENCHMARKS else named.images
            selections[label] = replace(named, dataset=[name], images=images)
    return TrainingEvaluation(selections=selections)
