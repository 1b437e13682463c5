"""`cuts3d eval --checkpoint`: runs a detector on the photos of benchmarks and compares what it finds."""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.cut.masks import Rle
from cuts3d_cli.errors import SampleError, UsageError
from cuts3d_cli.evaluation.datasets import BENCHMARKS, PAPER, Dataset, open_benchmark, open_own
from cuts3d_cli.evaluation.metrics import Evaluator, Prediction
from cuts3d_cli.evaluation.reference import by_reference
from cuts3d_cli.evaluation.report import BenchmarkReport, DatasetResult
from cuts3d_cli.images import decode_image
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.shards.writer import atomic_file
from cuts3d_cli.stages.batches import infer_in_batches
from cuts3d_cli.stages.results import Progress, Silent

GROUPS = {"paper": PAPER, "all": tuple(BENCHMARKS)}
"""Names that stand for several datasets."""
_READERS = 2
"""Threads that decode photos while the detector works."""


class Found(Protocol):
    """What a detector found in one photo: `cuts3d_cli.detector.inference.Detections`."""

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(N, 4) x0, y0, x1, y1 in pixels of the photo."""

    @property
    def scores(self) -> NDArray[np.float32]:
        """(N,) larger is surer."""

    @property
    def masks(self) -> Sequence[Rle]:
        """N masks at the photo's size."""


class Finder(Protocol):
    """A detector: `cuts3d_cli.detector.inference.Detector`."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> Sequence[Found]:
        """Find the instances of some (H, W, 3) uint8 RGB photos, each of its own size: one result a photo."""


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


def run(
    names: Sequence[str],
    *,
    detector: Finder,
    label: str,
    root: Path | None = None,
    images: Path | None = None,
    batch_size: int = 1,
    limit: int | None = None,
    partial: bool = False,
    reference: bool = True,
    save: Path | None = None,
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
        batch_size: photos at once.
        limit: take only so many images of each dataset, spread evenly.
        partial: take what is there of datasets that are not complete.
        reference: have pycocotools compute AP and AR; without, they are computed image by image, equal to the last
            bits, faster, and in no memory that grows with the detections.
        save: a folder for all detections, as NAME.json in COCO's format of results.
        say: told warnings, and what takes long.
        progress: told how far it is; its shards are the datasets.

    Returns:
        The figures.

    Raises:
        UsageError: the names are wrong, or a JSON of the user's own is unusable.
        DatasetError: a dataset is not there, not complete or damaged.
    """
    wanted = chosen(names, images=images)
    watcher = progress or Silent()

    def opened(name: str, *, say: Callable[[str], None]) -> Dataset:
        if name in BENCHMARKS:
            if root is None:
                raise UsageError(f"{name}: pass the folder of the datasets with --root")
            return open_benchmark(BENCHMARKS[name], root, partial=partial, say=say)
        if images is None:
            raise UsageError(f"{name}: pass the folder of its photos with --images")
        return open_own(Path(name), images, partial=partial)

    counts: list[tuple[Path, int | None]] = []
    dataset = None
    for name in wanted:
        dataset = None  # one at a time in memory
        dataset = opened(name, say=say)
        counts.append((Path(name), len(_spread(sorted(dataset.paths), limit))))
    watcher.begin(counts)
    results = []
    for name in wanted:
        if dataset is None or len(wanted) > 1:
            dataset = None
            dataset = opened(name, say=lambda line: None)
        for warning in dataset.truth.warnings:
            say(f"warning: {warning}")
        watcher.start(Path(name), why="")
        results.append(
            _evaluate(
                dataset, detector, batch_size=batch_size, limit=limit, reference=reference, save=save, progress=watcher
            )
        )
        watcher.finish(Path(name))
    return BenchmarkReport(detector=label, results=results)


def _is_file(name: str) -> bool:
    return name not in BENCHMARKS and name not in GROUPS and Path(name).is_file()


def _evaluate(
    dataset: Dataset,
    detector: Finder,
    *,
    batch_size: int,
    limit: int | None,
    reference: bool,
    save: Path | None,
    progress: Progress,
) -> DatasetResult:
    begun = time.perf_counter()
    numbers = _spread(sorted(dataset.paths), limit)
    evaluator = Evaluator(masks=dataset.masks)
    kept: dict[int, list[Prediction]] = {}
    failed: list[dict[str, str]] = []
    with _results_file(save, dataset.name) as write:
        for number, found, failure in _detections(dataset, numbers, detector, batch_size=batch_size):
            predictions = predictions_of(found, masks=dataset.masks) if found is not None else []
            evaluator.add(number, predictions, dataset.truth.instances[number])
            if failure:
                failed.append({"file": str(dataset.paths[number]), "reason": failure})
            if reference:
                kept[number] = predictions
            if found is not None:
                write(_records(number, found))
            progress.advance(failed=bool(failure))
    metrics = evaluator.metrics()
    if reference:
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


def _detections(
    dataset: Dataset, numbers: Sequence[int], detector: Finder, *, batch_size: int
) -> Iterator[tuple[int, Found | None, str | None]]:
    """Image id, what was found, and why nothing was, in the order of the numbers."""
    with ThreadPoolExecutor(_READERS) as pool:
        waiting: dict[str, Future[NDArray[np.uint8]]] = {}

        def samples() -> Iterator[Sample]:
            ahead: deque[int] = deque()
            left = iter(numbers)
            while True:
                for number in itertools.islice(left, batch_size + _READERS - len(ahead)):
                    waiting[str(number)] = pool.submit(_pixels, dataset, number)
                    ahead.append(number)
                if not ahead:
                    return
                yield Sample(key=str(ahead.popleft()), members={})

        results = infer_in_batches(
            samples(),
            batch_size=batch_size,
            prepare=lambda sample: waiting.pop(sample.key).result(),
            infer=detector.detect,
        )
        for item in results:
            yield int(item.sample.key), item.output, item.failure


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


def predictions_of(found: Found, *, masks: bool) -> list[Prediction]:
    """Detections as they are evaluated: boxes in float32, as detectron2's evaluation takes them, and masks if asked."""
    return [
        Prediction(box=box, score=score, mask=mask if masks else None)
        for box, score, mask in zip(_boxes(found), _scores(found), found.masks, strict=True)
    ]


def _boxes(found: Found) -> list[tuple[float, float, float, float]]:
    """x, y, width, height; the differences are float32's, as in detectron2's evaluation."""
    boxes = np.array(found.boxes, dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return [(x, y, width, height) for x, y, width, height in boxes.tolist()]


def _scores(found: Found) -> list[float]:
    return [float(score) for score in np.asarray(found.scores, dtype=np.float32).tolist()]


def _records(number: int, found: Found) -> list[dict[str, Any]]:
    return [
        {"image_id": number, "category_id": 1, "bbox": list(box), "score": score, "segmentation": mask}
        for box, score, mask in zip(_boxes(found), _scores(found), found.masks, strict=True)
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
