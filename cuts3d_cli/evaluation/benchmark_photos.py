"""Runs a detector on the photos of a dataset, except those whose detections an earlier run has kept."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.engine.batches import infer_in_batches
from cuts3d_cli.errors import SampleError
from cuts3d_cli.evaluation.datasets.loading import Dataset
from cuts3d_cli.evaluation.journal import DetectionJournal, PhotoState
from cuts3d_cli.images import decode_image
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.detections import Detections

_READERS = 2
"""Threads that decode photos while the detector works."""


class AnyDetector(Protocol):
    """A detector, such as `cuts3d_cli.detector.inference.Detector`."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> Sequence[Detections]:
        """Detect the instances in some (H, W, 3) uint8 RGB photos, each of its own size: one result a photo."""


@dataclass(frozen=True, kw_only=True)
class PhotoResult:
    """The detections in one photo, or why there are none.

    Attributes:
        number: the image's id.
        found: the detections; None if the photo or the detector failed.
        failure: the reason.
        known: whether the detections are an earlier run's.
    """

    number: int
    found: Detections | None
    failure: str | None = None
    known: bool = False


def pending_photos(
    dataset: Dataset,
    numbers: Sequence[int],
    *,
    journal: DetectionJournal | None,
    batch_size: int,
    failures: Collection[int] = (),
) -> list[int]:
    """Return the images that must be shown to the detector, as complete batches.

    The size of a batch may change the last digits of what a network computes. So a batch that is known in part is
    computed again as a whole, for an interrupted run to end with the same figures as an uninterrupted one.

    Args:
        dataset: the dataset of the images.
        numbers: ids of all images to evaluate, in order.
        journal: the detections of earlier runs.
        batch_size: of this run.
        failures: images that are known to fail.
    """
    if journal is None:
        return list(numbers)
    left: list[int] = []
    for first in range(0, len(numbers), batch_size):
        batch = numbers[first : first + batch_size]
        states = [state_of(dataset, number) for number in batch if number not in failures]
        if not all(state is not None and journal.has(state) for state in states):
            left += batch
    return left


def detect_photos(
    dataset: Dataset,
    numbers: Sequence[int],
    left: Sequence[int],
    detector: AnyDetector,
    *,
    journal: DetectionJournal | None,
    batch_size: int,
    failures: Mapping[int, str] | None = None,
) -> Iterator[PhotoResult]:
    """Yield the detections in each image, in the order of the numbers.

    Args:
        dataset: the dataset of the images.
        numbers: ids of all images to evaluate, in order.
        left: those to show to the detector, as `pending_photos` returns them; the others are in the journal.
        detector: the detector.
        journal: detections of earlier runs, to which the new ones are added; failures are not, and are tried again.
        batch_size: photos at once.
        failures: images that are known to fail, with the reasons.
    """
    new, shown = _detections(dataset, left, detector, batch_size=batch_size), set(left)
    for number in numbers:
        state = state_of(dataset, number)
        if number in shown:
            photo = next(new)
            if journal is not None:
                keep(photo, state, journal=journal)
            yield photo
        else:
            found = journal.get(state) if journal is not None and state is not None else None
            failure = (failures or {}).get(number)
            if found is None and failure is None:
                failure = "it was changed during the evaluation"
            yield PhotoResult(number=number, found=found, failure=failure, known=True)


def keep(photo: PhotoResult, state: PhotoState | None, *, journal: DetectionJournal) -> None:
    """Add the detections in a photo to a journal, if there are any and the photo could be read.

    Args:
        photo: the detections.
        state: of the photo before it was shown to the detector, as `state_of` returns it.
        journal: what they are added to.
    """
    if state is not None and photo.found is not None:
        journal.add(state, photo.found)


def state_of(dataset: Dataset, number: int) -> PhotoState | None:
    """Return what tells whether a photo has changed; None if it cannot be read."""
    image = dataset.truth.images[number]
    try:
        facts = dataset.paths[number].stat()
    except OSError:  # reported when the photo is opened
        return None
    return PhotoState(
        file=image.file,
        size=facts.st_size,
        mtime_ns=facts.st_mtime_ns,
        width=image.width,
        height=image.height,
        masks=dataset.masks,
    )


def _detections(
    dataset: Dataset, numbers: Sequence[int], detector: AnyDetector, *, batch_size: int
) -> Iterator[PhotoResult]:
    """Run the detector on images, batch by batch, while threads decode the photos of the next ones."""
    with ThreadPoolExecutor(_READERS) as pool:
        waiting: dict[str, Future[NDArray[np.uint8]]] = {}
        ahead: deque[int] = deque()
        left = iter(numbers)

        def samples(count: int) -> Iterator[Sample]:
            # Keep a batch and a few more photos in the threads' hands.
            for _ in range(count):
                for number in itertools.islice(left, batch_size + _READERS - len(ahead)):
                    waiting[str(number)] = pool.submit(_pixels, dataset, number)
                    ahead.append(number)
                yield Sample(key=str(ahead.popleft()), members={})

        for first in range(0, len(numbers), batch_size):
            # A batch that lacks a failed photo is not filled up, so that the other batches stay the same.
            results = infer_in_batches(
                samples(min(batch_size, len(numbers) - first)),
                batch_size=batch_size,
                prepare=lambda sample: waiting.pop(sample.key).result(),
                infer=detector.detect,
            )
            for item in results:
                yield PhotoResult(number=int(item.sample.key), found=item.output, failure=item.failure)


def _pixels(dataset: Dataset, number: int) -> NDArray[np.uint8]:
    """Read the photo of an image, (H, W, 3) uint8, RGB, in the orientation of its annotations.

    Raises:
        SampleError: the photo cannot be read, or its masks are of another size.
    """
    image = dataset.truth.images[number]
    path = dataset.paths[number]
    # Decode the photo, turned by its EXIF orientation.
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SampleError(f"it cannot be read: {error.strerror}") from error
    pixels = np.asarray(decode_image(data), dtype=np.uint8)
    if pixels.shape[:2] == (image.height, image.width):
        return pixels
    # Some annotations ignore the EXIF orientation.
    plain = decode_image(data, upright=False)
    if plain.size == (image.width, image.height):
        return np.asarray(plain, dtype=np.uint8)
    # Boxes may be of another size than the photo, masks may not.
    if dataset.masks:
        raise SampleError(
            f"it is {pixels.shape[1]}x{pixels.shape[0]}, its annotations are for {image.width}x{image.height}"
        )
    return pixels
