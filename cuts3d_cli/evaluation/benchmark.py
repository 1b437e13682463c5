"""`cuts3d eval --checkpoint`: runs a detector on the photos of benchmarks and compares what it finds."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cuts3d_cli._version import __version__
from cuts3d_cli.config import Config
from cuts3d_cli.detector.train import require_detectron2
from cuts3d_cli.devices import choose_device
from cuts3d_cli.engine.results import Progress, Silent
from cuts3d_cli.errors import UsageError, WeightsError
from cuts3d_cli.evaluation.benchmark_photos import Finder, left_to_see, look
from cuts3d_cli.evaluation.datasets import BENCHMARKS, PAPER, Dataset, open_benchmark, open_own
from cuts3d_cli.evaluation.journal import Journal, journal_path
from cuts3d_cli.evaluation.metrics import Evaluator, Prediction, ranked
from cuts3d_cli.evaluation.reference import by_reference
from cuts3d_cli.evaluation.report import BenchmarkReport, DatasetResult
from cuts3d_cli.files import atomic_file
from cuts3d_cli.shards.manifest import digest_file
from cuts3d_cli.sidecars.detections import Detections

GROUPS = {"paper": PAPER, "all": tuple(BENCHMARKS)}
"""Names that stand for several datasets."""
DETECTIONS = "detections"
"""Folder beside a checkpoint in which its detections are kept."""


def chosen(names: Sequence[str], *, images: Path | None) -> list[str]:
    """The datasets that were asked for, each once.

    Args:
        names: of benchmarks, of `GROUPS`, or COCO JSONs of the user's own; each may be several, separated by commas.
        images: folder of the photos of the user's own.

    Raises:
        UsageError: a name is unknown, there is none, or images go with no JSON or with several.
    """
    words = [word.strip() for name in names for word in ([name] if _is_file(name) else name.split(","))]
    found = list(dict.fromkeys(itertools.chain.from_iterable(GROUPS.get(word, (word,)) for word in words if word)))
    if not found:
        raise UsageError("no dataset was named: pass --dataset, for example --dataset coco; see `cuts3d eval --list`")
    own = [name for name in found if name not in BENCHMARKS]
    for name in own:
        if not _is_file(name):
            known = ", ".join((*BENCHMARKS, *GROUPS))
            raise UsageError(f"there is no dataset '{name}', nor a file of that name: the datasets are {known}")
    if images is None and own:
        raise UsageError(f"{own[0]}: pass the folder of its photos with --images")
    if images is not None and len(own) != 1:
        raise UsageError(f"--images goes with one COCO JSON in --dataset, and there are {len(own)}")
    return found


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How detectors are evaluated.

    Attributes:
        batch_size: photos at once.
        limit: take only so many images of each dataset, spread evenly.
        partial: take what is there of datasets that are not complete.
        reference: have pycocotools compute AP and AR; without, they are computed image by image, equal to the last
            bits, faster, and in no memory that grows with the detections.
        export: a folder for all detections, as NAME.json in COCO's format of results.
    """

    batch_size: int = 1
    limit: int | None = None
    partial: bool = False
    reference: bool = True
    export: Path | None = None


def run_checkpoint(
    checkpoint: Path,
    names: Sequence[str],
    *,
    config: Config,
    images: Path | None = None,
    limit: int | None = None,
    partial: bool = False,
    export: Path | None = None,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Evaluate a trained detector on datasets.

    What it finds is kept, dataset by dataset, under a name made of all that shapes it, so that a run that was stopped
    goes on where it was, and one that was not has nothing left to find.

    Args:
        checkpoint: what `cuts3d train` wrote.
        names: of datasets: see `chosen`.
        config: sections `eval` and `run`.
        images: folder of the photos of the user's own.
        limit: see `Settings`.
        partial: see `Settings`.
        export: see `Settings`.
        keep: the folder in which detections are kept; `detections` beside the checkpoint by default.
        say: told warnings, and what takes long.
        progress: told how far it is; its shards are the datasets.

    Returns:
        The figures.

    Raises:
        UsageError: the names or the device are wrong, or a JSON of the user's own is unusable.
        WeightsError: the checkpoint is missing, damaged, or no detector's.
        DatasetError: a dataset is not there, not complete or damaged.
        Cuts3dError: detectron2 is not installed.
    """
    chosen(names, images=images)
    if not checkpoint.is_file():
        raise WeightsError(
            f"{checkpoint} does not exist: pass the checkpoint of a detector, as `cuts3d train` wrote it"
        )
    device = choose_device(config.run.device)
    require_detectron2()
    from cuts3d_cli.detector.inference import Detector

    detector = Detector.load(checkpoint, device=device, half=config.run.half)
    shaping = [digest_file(checkpoint).sha256, __version__, detector.device.type, detector.half]
    digest = hashlib.sha256(json.dumps(shaping).encode()).hexdigest()
    folder = keep or checkpoint.parent / DETECTIONS
    return run(
        names,
        detector=detector,
        label=str(checkpoint),
        root=config.eval.root,
        images=images,
        settings=Settings(
            batch_size=config.run.batch_size,
            limit=limit,
            partial=partial,
            reference=config.eval.evaluator == "pycocotools",
            export=export,
        ),
        journal=lambda name: journal_path(folder, dataset=name, detector=digest),
        say=say,
        progress=progress,
    )


def run(
    names: Sequence[str],
    *,
    detector: Finder,
    label: str,
    root: Path | None = None,
    images: Path | None = None,
    settings: Settings | None = None,
    journal: Callable[[str], Path] | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Run a detector on datasets, and compare what it finds with their ground truth, class-agnostically.

    All datasets are opened before the first photo is looked at, so that what is missing is known at once; their
    annotations are read again when their turn comes, for they can be large.

    Args:
        names: of datasets: see `chosen`.
        detector: to run.
        label: what it is, for the report.
        root: the folder of the benchmarks; not needed for a user's own alone.
        images: folder of the photos of the user's own.
        settings: how.
        journal: where the detections in a dataset are kept for later runs; they must all be this detector's.
        say: told warnings, and what takes long.
        progress: told how far it is; its shards are the datasets, with the images that are left to see.

    Returns:
        The figures.

    Raises:
        UsageError: the names are wrong, or a JSON of the user's own is unusable.
        DatasetError: a dataset is not there, not complete or damaged, or its journal cannot be written.
    """
    wanted = chosen(names, images=images)
    settings = settings or Settings()
    watcher = progress or Silent()

    def opened(name: str, *, say: Callable[[str], None]) -> Dataset:
        if name in BENCHMARKS:
            if root is None:
                raise UsageError(f"{name}: pass the folder of the datasets with --root")
            return open_benchmark(BENCHMARKS[name], root, partial=settings.partial, say=say)
        if images is None:
            raise UsageError(f"{name}: pass the folder of its photos with --images")
        return open_own(Path(name), images, partial=settings.partial)

    def kept(dataset: Dataset) -> AbstractContextManager[Journal | None]:
        return Journal(journal(dataset.name)) if journal is not None else nullcontext()

    counts: list[tuple[Path, int | None]] = []
    dataset = None
    for name in wanted:
        dataset = None  # one at a time in memory
        dataset = opened(name, say=say)
        numbers = _spread(sorted(dataset.paths), settings.limit)
        with kept(dataset) as known:
            left = len(left_to_see(dataset, numbers, journal=known, batch_size=settings.batch_size))
            if known is not None and left < len(numbers):
                before = f"{len(numbers) - left} of {len(numbers)} images were looked at before"
                say(f"{Path(name).name}: {before} ({known.path})")
        counts.append((Path(name), left))
    watcher.begin(counts)
    results = []
    for name in wanted:
        if dataset is None or len(wanted) > 1:
            dataset = None
            dataset = opened(name, say=lambda line: None)
        for warning in dataset.truth.warnings:
            say(f"warning: {warning}")
        with kept(dataset) as known:
            result = _evaluate(
                dataset, detector, name=name, settings=settings, journal=known, say=say, progress=watcher
            )
        results.append(result)
    return BenchmarkReport(detector=label, results=results)


def _is_file(name: str) -> bool:
    return name not in BENCHMARKS and name not in GROUPS and Path(name).is_file()


def _evaluate(
    dataset: Dataset,
    detector: Finder,
    *,
    name: str,
    settings: Settings,
    journal: Journal | None,
    say: Callable[[str], None],
    progress: Progress,
) -> DatasetResult:
    begun = time.perf_counter()
    numbers = _spread(sorted(dataset.paths), settings.limit)
    evaluator = Evaluator(masks=dataset.masks)
    kept: dict[int, list[Prediction]] = {}
    failed: list[dict[str, str]] = []
    left = left_to_see(dataset, numbers, journal=journal, batch_size=settings.batch_size)
    if left:
        progress.start(Path(name), why="")
    else:
        progress.skip(Path(name))
    with _results_file(settings.export, dataset.name) as write:
        for looked in look(dataset, numbers, left, detector, journal=journal, batch_size=settings.batch_size):
            number = looked.number
            predictions = predictions_of(looked.found, masks=dataset.masks) if looked.found is not None else []
            evaluator.add(number, predictions, dataset.truth.instances[number])
            if looked.failure:
                failed.append({"file": str(dataset.paths[number]), "reason": looked.failure})
            if settings.reference:
                kept[number] = predictions
            write(_records(number, predictions))
            if not looked.known:
                progress.advance(failed=bool(looked.failure))
    if left:
        progress.finish(Path(name))
    metrics = evaluator.metrics()
    if settings.reference:
        say(f"{Path(name).name}: comparing by pycocotools")
        metrics = by_reference(metrics, kept, {number: dataset.truth.instances[number] for number in numbers})
    return DatasetResult(
        name=dataset.name,
        title=dataset.title,
        metrics=metrics,
        missing=dataset.missing + len(dataset.paths) - len(numbers),
        failed=failed,
        seconds=time.perf_counter() - begun,
        warnings=dataset.truth.warnings,
    )


def _spread(numbers: Sequence[int], limit: int | None) -> list[int]:
    """So many of them, from first to last at even steps."""
    if limit is None or limit >= len(numbers):
        return list(numbers)
    return [numbers[place * len(numbers) // limit] for place in range(limit)]


def predictions_of(found: Detections, *, masks: bool) -> list[Prediction]:
    """Detections as they are evaluated: boxes in float32, as detectron2's evaluation takes them, and masks if asked."""
    boxes = np.array(found.boxes, dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]  # to width and height, in float32 as there
    scores = np.asarray(found.scores, dtype=np.float32).tolist()
    codes = found.masks if masks else [None] * len(boxes)
    return [
        Prediction(box=(x, y, width, height), score=score, mask=code)
        for (x, y, width, height), score, code in zip(boxes.tolist(), scores, codes, strict=True)
    ]


def _records(number: int, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Results in COCO's format, in the order in which they are judged."""
    return [
        {"image_id": number, "category_id": 1, "bbox": list(item.box), "score": item.score}
        | ({"segmentation": item.mask} if item.mask is not None else {})
        for item in ranked(predictions)
    ]


@contextmanager
def _results_file(folder: Path | None, name: str) -> Iterator[Callable[[Sequence[Mapping[str, Any]]], None]]:
    """Takes detections and writes them to FOLDER/NAME.json, which is there only when it is whole."""
    if folder is None:
        yield lambda records: None
        return
    folder.mkdir(parents=True, exist_ok=True)
    first = True

    def write(records: Sequence[Mapping[str, Any]], file: BinaryIO) -> None:
        nonlocal first
        for record in records:
            file.write((("[\n" if first else ",\n") + json.dumps(record)).encode("ascii"))
            first = False

    with atomic_file(folder / f"{name}.json") as file:
        yield lambda records: write(records, file)
        file.write(b"[]\n" if first else b"\n]\n")
