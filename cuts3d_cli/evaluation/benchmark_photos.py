"""Shows the photos of a dataset to a detector, but for those that an earlier run has shown it."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.engine.batches import infer_in_batches
from cuts3d_cli.errors import SampleError
from cuts3d_cli.evaluation.datasets import Dataset
from cuts3d_cli.evaluation.journal import Journal, PhotoState
from cuts3d_cli.images import decode_image
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.detections import Detections

_READERS = 2
"""Threads that decode photos while the detector works."""


class Finder(Protocol):
    """A detector: `cuts3d_cli.detector.inference.Detector`."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> Sequence[Detections]:
        """Find the instances of some (H, W, 3) uint8 RGB photos, each of its own size: one result a photo."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What became of one photo.

    Attributes:
        number: the image's id.
        found: in it; None if nothing could be.
        failure: why nothing could be.
        known: whether an earlier run has found it.
    """

    number: int
    found: Detections | None
    failure: str | None = None
    known: bool = False


def left_to_see(dataset: Dataset, numbers: Sequence[int], *, journal: Journal | None, batch_size: int) -> list[int]:
    """The images that must be shown to the detector, which are whole batches.

    What a network computes may depend on the size of a batch in its last digits. So a batch of which some is known is
    done again, in order that a run that was stopped ends as one that was not.

    Args:
        dataset: of the images.
        numbers: ids of all images that are to be evaluated, in order.
        journal: of earlier runs.
        batch_size: of this run.
    """
    if journal is None:
        return list(numbers)
    left: list[int] = []
    for first in range(0, len(numbers), batch_size):
        batch = numbers[first : first + batch_size]
        states = [_state(dataset, number) for number in batch]
        if not all(state is not None and journal.has(state) for state in states):
            left += batch
    return left


def look(
    dataset: Dataset,
    numbers: Sequence[int],
    left: Sequence[int],
    detector: Finder,
    *,
    journal: Journal | None,
    batch_size: int,
) -> Iterator[Looked]:
    """Find the instances of images, in the order of the numbers.

    Args:
        dataset: of the images.
        numbers: their ids.
        left: those that the detector is shown, as `left_to_see` has them; the others are in the journal.
        detector: is shown them.
        journal: of earlier runs; takes what is found. Failures are not kept, but tried again the next time.
        batch_size: photos at once.
    """
    new, shown = _seen(dataset, left, detector, batch_size=batch_size), set(left)
    for number in numbers:
        state = _state(dataset, number)
        if number in shown:
            looked = next(new)
            if journal is not None and state is not None and looked.found is not None:
                journal.add(state, looked.found)
            yield looked
        else:
            found = journal.get(state) if journal is not None and state is not None else None
            failure = None if found else "it was changed while the others were looked at"
            yield Looked(number=number, found=found, failure=failure, known=True)


def _state(dataset: Dataset, number: int) -> PhotoState | None:
    image = dataset.truth.images[number]
    try:
        facts = dataset.paths[number].stat()
    except OSError:  # said when it is opened
        return None
    return PhotoState(
        file=image.file,
        size=facts.st_size,
        mtime_ns=facts.st_mtime_ns,
        width=image.width,
        height=image.height,
        masks=dataset.masks,
    )


def _seen(dataset: Dataset, numbers: Sequence[int], detector: Finder, *, batch_size: int) -> Iterator[Looked]:
    with ThreadPoolExecutor(_READERS) as pool:
        waiting: dict[str, Future[NDArray[np.uint8]]] = {}
        ahead: deque[int] = deque()
        left = iter(numbers)

        def samples(count: int) -> Iterator[Sample]:
            for _ in range(count):
                for number in itertools.islice(left, batch_size + _READERS - len(ahead)):
                    waiting[str(number)] = pool.submit(_pixels, dataset, number)
                    ahead.append(number)
                yield Sample(key=str(ahead.popleft()), members={})

        for first in range(0, len(numbers), batch_size):
            # A batch that lacks a failed photo is not filled up, so that the others stay as they are.
            results = infer_in_batches(
                samples(min(batch_size, len(numbers) - first)),
                batch_size=batch_size,
                prepare=lambda sample: waiting.pop(sample.key).result(),
                infer=detector.detect,
            )
            for item in results:
                yield Looked(number=int(item.sample.key), found=item.output, failure=item.failure)


def _pixels(dataset: Dataset, number: int) -> NDArray[np.uint8]:
    """The photo of an image, (H, W, 3) uint8, RGB, turned as its annotations have it.

    Raises:
        SampleError: it cannot be read, or its masks are of another size.
    """
    image = dataset.truth.images[number]
    path = dataset.paths[number]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SampleError(f"it cannot be read: {error.strerror}") from error
    pixels = np.asarray(decode_image(data), dtype=np.uint8)
    if pixels.shape[:2] == (image.height, image.width):
        return pixels
    with Image.open(path) as plain:  # annotated with no regard to its EXIF orientation
        if plain.size == (image.width, image.height):
            return np.asarray(plain.convert("RGB"), dtype=np.uint8)
    if dataset.masks:
        raise SampleError(
            f"it is {pixels.shape[1]}x{pixels.shape[0]}, its annotations are for {image.width}x{image.height}"
        )
    return pixels
