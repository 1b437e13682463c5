"""Runs a detector on the photos of datasets, and compares its detections with their ground truth."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from cuts3d_cli._version import __version__
from cuts3d_cli.config import PredictConfig, RunConfig
from cuts3d_cli.detector.card import describes, record_results
from cuts3d_cli.detector.train import require_detectron2
from cuts3d_cli.devices import choose_device, devices_of
from cuts3d_cli.engine.batch_size import AUTO_FIRST
from cuts3d_cli.engine.results import Progress
from cuts3d_cli.evaluation.benchmark_photos import (
    AnyDetector,
    PhotoResult,
    detect_photos,
    keep,
    pending_photos,
    state_of,
)
from cuts3d_cli.evaluation.benchmark_results import add_results, compare_photos, results_file
from cuts3d_cli.evaluation.benchmark_team import DetectingTeam
from cuts3d_cli.evaluation.datasets.loading import Dataset
from cuts3d_cli.evaluation.journal import DetectionJournal, journal_path
from cuts3d_cli.evaluation.metrics import Prediction
from cuts3d_cli.evaluation.report import BenchmarkReport, DatasetResult
from cuts3d_cli.evaluation.selection import Selection
from cuts3d_cli.files import make_folder
from cuts3d_cli.shards.manifest import digest_file
from cuts3d_cli.wording import Say

DETECTIONS = "detections"
"""Folder beside a checkpoint for the journals of its detections."""


def run_checkpoint(
    checkpoint: Path,
    selection: Selection,
    *,
    config: RunConfig,
    wanted: PredictConfig | None = None,
    export: Path | None = None,
    detections: Path | None = None,
    say: Say = lambda line: None,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Evaluate a trained detector on datasets.

    Its detections are kept, dataset by dataset, under a name made of all that shapes them. So an interrupted run
    resumes where it was, and a finished one has nothing left to detect.

    Args:
        checkpoint: as `cuts3d train` or detectron2 writes it.
        selection: what to evaluate it on.
        config: the device, how many GPUs, the precision and the batch size.
        wanted: what the user says of the detector's settings; None for nothing.
        export: a folder for all detections, as NAME.json in COCO's format of results.
        detections: the folder in which detections are kept; `detections` beside the checkpoint by default.
        say: prints a status line or a warning.
        progress: receives progress events; its shards are the datasets.

    Returns:
        The figures.

    Raises:
        UsageError: the names or the device are wrong, there are not so many GPUs, or a user's own JSON is unusable.
        WeightsError: the checkpoint is missing, damaged, or not of a detector.
        FileError: a configuration of the detector cannot be read, or describes another one.
        SettingError: a setting of the detector cannot take effect.
        DatasetError: a dataset is missing, incomplete or damaged.
        FileError: the folder for all detections cannot be written to.
        Cuts3dError: detectron2 is not installed.
    """
    # Check the arguments before torch and detectron2 are loaded.
    selection.names()
    if export is not None:
        make_folder(export)
    devices = devices_of(config, network=True)
    device = choose_device(devices[0])
    require_detectron2()
    from cuts3d_cli.detector.inference import Detector
    from cuts3d_cli.detector.loading import load_detector

    # Load the detector; its detections are kept under a digest of all that can change them.
    wanted = wanted or PredictConfig()
    stored = load_detector(checkpoint, wanted, say=say)
    detector = Detector.of(stored, device=device, precision=config.precision)
    # Detections of older versions are kept under whether they were made in half precision.
    precision = {"float32": False, "float16": True}.get(detector.precision, detector.precision)
    shaping = [digest_file(checkpoint).sha256, stored.recorded(), __version__, detector.device.type, precision]
    digest = hashlib.sha256(json.dumps(shaping).encode()).hexdigest()
    folder = detections or checkpoint.parent / DETECTIONS
    batch_size = AUTO_FIRST if config.batch_size == "auto" else config.batch_size
    team = DetectingTeam(
        devices=devices,
        checkpoint=checkpoint,
        wanted=wanted,
        precision=config.precision,
        batch_size=batch_size,
        say=say,
    )
    return run(
        selection,
        detector=detector,
        label=str(checkpoint),
        batch_size=batch_size,
        team=team if len(devices) > 1 else None,
        export=export,
        journal=lambda name: journal_path(folder, dataset=name, detector=digest),
        say=say,
        progress=progress,
    )


def run(
    selection: Selection,
    *,
    detector: AnyDetector,
    label: str,
    batch_size: int = 1,
    team: DetectingTeam | None = None,
    export: Path | None = None,
    journal: Callable[[str], Path] | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Run a detector on datasets, and compare its detections with their ground truth, class-agnostically.

    All datasets are opened before the first photo is shown to the detector, so that a missing one is reported at once;
    their annotations are read again when their turn comes, since they can be large.

    Args:
        selection: what to evaluate it on.
        detector: the detector to run.
        label: its name in the report.
        batch_size: photos at once.
        team: processes that detect first, with the same batches; the detector does what they leave. It needs a journal.
        export: a folder for all detections, as NAME.json in COCO's format of results.
        journal: name of a dataset -> file in which this detector's detections are kept for later runs; None keeps none.
        say: prints a status line or a warning.
        progress: receives progress events; its shards are the datasets, with the number of images left to detect.

    Returns:
        The figures.

    Raises:
        UsageError: the names are wrong, or a user's own JSON is unusable.
        DatasetError: a dataset is missing, incomplete or damaged, or its journal cannot be written.
    """
    names = selection.names()
    progress = progress or Progress()

    def kept(dataset: Dataset) -> AbstractContextManager[DetectionJournal | None]:
        return DetectionJournal(journal(dataset.name)) if journal is not None else nullcontext()

    # Open every dataset once, to report what is missing and to count what is left to detect.
    counts: list[tuple[Path, int | None]] = []
    dataset = None
    for name in names:
        dataset = None  # one at a time in memory
        dataset = selection.open(name, say=say)
        numbers = selection.image_ids(dataset)
        with kept(dataset) as known:
            left = len(pending_photos(dataset, numbers, journal=known, batch_size=batch_size))
            if known is not None and left < len(numbers):
                before = f"the detections in {len(numbers) - left} of {len(numbers)} images are known"
                say(f"{Path(name).name}: {before} ({known.path})")
        counts.append((Path(name), left))
    progress.begin(counts)
    # Evaluate one dataset after the other.
    results = []
    for name in names:
        if dataset is None or len(names) > 1:
            dataset = None
            dataset = selection.open(name, say=lambda line: None)
        for warning in dataset.truth.warnings:
            say(f"warning: {warning}")
        numbers, shard = selection.image_ids(dataset), Path(name)
        failures: dict[int, str] | None = None
        if team is not None:
            with kept(dataset) as known:
                assert known is not None, "several processes need a journal"
                failures = _detect_in_team(dataset, numbers, team, shard=shard, journal=known, progress=progress)
        with kept(dataset) as known:
            results.append(
                _evaluate(
                    dataset,
                    numbers,
                    detector,
                    shard=shard,
                    failures=failures,
                    batch_size=batch_size,
                    export=export,
                    journal=known,
                    progress=progress,
                )
            )
    return BenchmarkReport(detector=label, results=results)


def _detect_in_team(
    dataset: Dataset,
    numbers: Sequence[int],
    team: DetectingTeam,
    *,
    shard: Path,
    journal: DetectionJournal,
    progress: Progress,
) -> dict[int, str] | None:
    """Let processes detect in those images of a dataset whose detections are not in the journal, which they come to.

    Returns:
        The images that failed, with the reasons; None where there was nothing to detect, and no progress begun.
    """
    left = pending_photos(dataset, numbers, journal=journal, batch_size=team.batch_size)
    if not left:
        return None
    progress.start(shard, why="")
    failures: dict[int, str] = {}
    states = {number: state_of(dataset, number) for number in left}

    def heard(photos: Sequence[PhotoResult]) -> None:
        for photo in photos:
            keep(photo, states[photo.number], journal=journal)
            if photo.failure:
                failures[photo.number] = photo.failure
            progress.advance(failed=bool(photo.failure))

    team.detect(dataset, left, heard=heard)
    return failures


def _evaluate(
    dataset: Dataset,
    numbers: Sequence[int],
    detector: AnyDetector,
    *,
    shard: Path,
    failures: Mapping[int, str] | None,
    batch_size: int,
    export: Path | None,
    journal: DetectionJournal | None,
    progress: Progress,
) -> DatasetResult:
    """Evaluate the detector on the numbered images of one dataset, which is a shard to the progress.

    Where several processes have detected, `failures` has the images that failed, and the shard has begun.
    """
    begun = time.perf_counter()
    # Announce the dataset, unless all its detections are known.
    left = pending_photos(dataset, numbers, journal=journal, batch_size=batch_size, failures=failures or ())
    if failures is None:
        if left:
            progress.start(shard, why="")
        else:
            progress.skip(shard)
    # Compare image by image.
    with results_file(export, dataset.name) as results:

        def judged(photo: PhotoResult, predictions: Sequence[Prediction]) -> None:
            if results is not None:
                add_results(results, dataset.truth.images[photo.number].id or photo.number, predictions)
            if not photo.known:
                progress.advance(failed=bool(photo.failure))

        photos = detect_photos(
            dataset, numbers, left, detector, journal=journal, batch_size=batch_size, failures=failures
        )
        metrics, failed = compare_photos(dataset, photos, judged=judged)
    if left or failures is not None:
        progress.finish(shard)
    return DatasetResult(
        name=dataset.name,
        title=dataset.title,
        metrics=metrics,
        missing=dataset.missing + len(dataset.paths) - len(numbers),
        failed=failed,
        seconds=time.perf_counter() - begun,
        warnings=dataset.truth.warnings,
    )


def record_benchmarks(weights: Path, report: BenchmarkReport) -> bool:
    """Put the results on complete datasets into the model card of a detector, if it has one.

    Results on parts of a dataset, or with photos that could not be read, are left out: they are not the dataset's.

    Args:
        weights: any file; one without a card beside it is left alone.
        report: the results of this detector.

    Returns:
        Whether the card was changed to hold results.

    Raises:
        FileError: the card cannot be written.
    """
    whole = [result for result in report.results if result.whole]
    if not whole or not describes(weights):
        return False
    facts = {
        Path(result.name).name: {name: value for name, value in result.to_json().items() if name != "seconds"}
        | {"dataset": Path(result.name).name}
        for result in whole
    }
    record_results(weights, facts)
    return True
