"""Detections in photos of a dataset: compared with their ground truth, and written in COCO's format of results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cuts3d_cli.evaluation.benchmark_photos import PhotoResult
from cuts3d_cli.evaluation.datasets.loading import Dataset
from cuts3d_cli.evaluation.metrics import Evaluator, Metrics, Prediction, sort_predictions
from cuts3d_cli.exports.coco import result
from cuts3d_cli.exports.json_lists import JsonList
from cuts3d_cli.files import atomic_file, make_folder
from cuts3d_cli.sidecars.detections import Detections


def compare_photos(
    dataset: Dataset,
    photos: Iterable[PhotoResult],
    *,
    judged: Callable[[PhotoResult, Sequence[Prediction]], None] = lambda photo, predictions: None,
) -> tuple[Metrics, list[dict[str, str]]]:
    """Compare detections with the ground truth of their photos; one that failed counts as one without detections.

    Args:
        dataset: of the photos.
        photos: each once.
        judged: receives each photo with its predictions.

    Returns:
        The figures, and {"file": ..., "reason": ...} of each photo that failed.
    """
    evaluator = Evaluator(masks=dataset.masks)
    failed: list[dict[str, str]] = []
    for photo in photos:
        predictions = predictions_of(photo.found, masks=dataset.masks) if photo.found is not None else []
        evaluator.add(photo.number, predictions, dataset.truth.instances[photo.number])
        if photo.failure:
            failed.append({"file": str(dataset.paths[photo.number]), "reason": photo.failure})
        judged(photo, predictions)
    return evaluator.metrics(), failed


def predictions_of(found: Detections, *, masks: bool) -> list[Prediction]:
    """Return detections as they are evaluated: boxes in float32, as detectron2's evaluation takes them.

    Args:
        found: the detections in one photo.
        masks: whether masks are evaluated as well.
    """
    boxes = np.array(found.boxes, dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]  # to width and height, in float32 as detectron2 does
    scores = np.asarray(found.scores, dtype=np.float32).tolist()
    codes = found.masks if masks else [None] * len(boxes)
    classes = [None] * len(boxes) if found.classes is None else found.classes.tolist()
    return [
        Prediction(box=(x, y, width, height), score=score, mask=code, class_id=class_id)
        for (x, y, width, height), score, code, class_id in zip(boxes.tolist(), scores, codes, classes, strict=True)
    ]


def add_results(results: JsonList, image_id: int | str, predictions: Sequence[Prediction]) -> None:
    """Add the predictions of an image, in the order in which they are judged."""
    for item in sort_predictions(predictions):
        results.add(result(image_id=image_id, box=item.box, score=item.score, mask=item.mask, class_id=item.class_id))


@contextmanager
def results_file(folder: Path | None, name: str) -> Iterator[JsonList | None]:
    """Write results in COCO's format to FOLDER/NAME.json, which appears only when it is complete."""
    if folder is None:
        yield None
        return
    make_folder(folder)
    with atomic_file(folder / f"{name}.json") as file:
        results = JsonList(file)
        yield results
        results.close()
