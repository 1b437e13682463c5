"""Runs a detector on the photos of a dataset in several processes, one for each GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from cuts3d_cli.config import Precision, PredictConfig
from cuts3d_cli.engine.processes import Tell, place_of, run_processes
from cuts3d_cli.evaluation.benchmark_photos import PhotoResult, detect_photos
from cuts3d_cli.evaluation.datasets.loading import Dataset
from cuts3d_cli.wording import Say, counted


@dataclass(frozen=True, kw_only=True)
class DetectingTeam:
    """Processes that detect, each on a device of its own.

    Attributes:
        devices: of the processes.
        checkpoint: of the detector.
        wanted: what the user says of its settings.
        precision: what the network computes in.
        batch_size: photos at once.
        say: prints a status line.
    """

    devices: Sequence[str]
    checkpoint: Path
    wanted: PredictConfig
    precision: Precision
    batch_size: int
    say: Say

    def detect(self, dataset: Dataset, left: Sequence[int], *, heard: Callable[[Sequence[PhotoResult]], None]) -> None:
        """Run the detector on images.

        Batches are the same as in one process. What a process that dies has not told is left to the caller.

        Args:
            dataset: of the images.
            left: their ids, as complete batches.
            heard: receives each batch that is through, in any order.

        Raises:
            Cuts3dError: a process cannot detect at all.
        """
        batches = [left[first : first + self.batch_size] for first in range(0, len(left), self.batch_size)]
        devices = self.devices[: len(batches)]
        if len(devices) < 2:
            return
        self.say(f"{counted(len(devices), 'process', 'processes')} share the photos, on {place_of(devices)}")
        parts = [list(chain.from_iterable(batches[number :: len(devices)])) for number in range(len(devices))]

        def died(number: int, why: str) -> None:
            self.say(f"warning: a process on {devices[number]} has ended ({why}): what it has left is done at the end")

        run_processes(
            _detect_part,
            [
                (replace(self, devices=(device,), say=_keep_quiet), _slim(dataset, part), part)
                for device, part in zip(devices, parts, strict=True)
            ],
            devices=devices,
            heard=lambda number, photos: heard(photos),
            died=died,
        )


def _keep_quiet(line: object) -> None:
    """Say nothing: the first process has said it."""


def _slim(dataset: Dataset, numbers: Sequence[int]) -> Dataset:
    """Return what of a dataset is needed to detect in some of its images."""
    images = {number: dataset.truth.images[number] for number in numbers}
    truth = replace(dataset.truth, images=images, instances={}, warnings=())
    return replace(dataset, truth=truth, paths={number: dataset.paths[number] for number in numbers})


def _detect_part(tell: Tell, team: DetectingTeam, dataset: Dataset, numbers: Sequence[int]) -> None:
    """Detect in some images: what one of the processes does; it tells each batch."""
    from cuts3d_cli.detector.inference import Detector
    from cuts3d_cli.detector.loading import load_detector

    stored = load_detector(team.checkpoint, team.wanted, say=team.say)
    detector = Detector.of(stored, device=team.devices[0], precision=team.precision)
    waiting: list[PhotoResult] = []
    for place, photo in enumerate(
        detect_photos(dataset, numbers, numbers, detector, journal=None, batch_size=team.batch_size), start=1
    ):
        waiting.append(photo)
        if len(waiting) == team.batch_size or place == len(numbers):
            tell(waiting)
            waiting = []
