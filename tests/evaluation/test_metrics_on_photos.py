"""Against pycocotools called directly, on the masks of real photos."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cuts3d_cli.cut.masks import decode_rle, encode_rle, rle_area, rle_box
from cuts3d_cli.evaluation.datasets.ground_truth import read_ground_truth
from cuts3d_cli.evaluation.metrics import Instance, KindMetrics, Prediction, evaluate
from tests.support.adversarial import TRUTHS, all_crowd

FIELDS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
Truth = dict[int, Sequence[Instance]]
Found = dict[int, list[Prediction]]


def each(truth: Truth) -> Iterator[tuple[int, Instance]]:
    return ((image, item) for image, items in truth.items() for item in items if item.mask is not None)


def perturbed(truth: Truth, rng: np.random.Generator) -> Found:
    """Most instances, moved about, each with a score of its own; and some masks that are nowhere near one."""
    found: Found = {image: [] for image in truth}
    for image, item in each(truth):
        assert item.mask is not None
        for _ in range(rng.integers(0, 3)):
            reach = int(item.area**0.5 * 0.3) + 1
            moved = np.roll(decode_rle(item.mask), rng.integers(-reach, reach, 2), axis=(0, 1))
            found[image].append(Prediction.of_mask(encode_rle(moved), score=float(rng.random())))
    return found


def equal_scores(truth: Truth, rng: np.random.Generator) -> Found:
    return {
        image: [Prediction.of_mask(item.mask) for item in items if item.mask is not None]
        for image, items in perturbed(truth, rng).items()
    }


def few_scores(truth: Truth, rng: np.random.Generator) -> Found:
    return {
        image: [Prediction(box=item.box, mask=item.mask, score=round(item.score * 3) / 3) for item in items]
        for image, items in perturbed(truth, rng).items()
    }


def duplicates(truth: Truth, rng: np.random.Generator) -> Found:
    return {image: items * 3 for image, items in perturbed(truth, rng).items()}


def none(truth: Truth, rng: np.random.Generator) -> Found:
    return {}


def in_crowds(truth: Truth, rng: np.random.Generator) -> Found:
    return {
        image: [Prediction.of_mask(item.mask, score=0.5) for item in items if item.crowd and item.mask is not None] * 2
        for image, items in truth.items()
    }


def one_giant_box(truth: Truth, rng: np.random.Generator) -> Found:
    """Over the whole image, beside the instances themselves."""
    found = {
        image: [Prediction.of_mask(item.mask, score=0.5) for item in items if item.mask is not None]
        for image, items in truth.items()
    }
    for image, items in found.items():
        if items and items[0].mask is not None:
            whole = np.ones(items[0].mask["size"], dtype=bool)
            found[image] = [*items, Prediction.of_mask(encode_rle(whole), score=0.9)]
    return found


CASES = [perturbed, equal_scores, few_scores, duplicates, none, in_crowds, one_giant_box]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("name", ["coco", "coco_person", "mosd"])
def test_it_agrees_with_pycocotools_called_directly(test_data: Path, name: str, case: Callable[..., Found]):
    path = test_data / name / "annotations.json"
    truth = read_ground_truth(path).instances
    found = case(truth, np.random.default_rng(7))
    metrics = evaluate(found, truth)
    assert metrics.mask is not None
    compare(metrics.box, directly(path, found, "bbox"))
    compare(metrics.mask, directly(path, found, "segm"))
    if case is perturbed:
        assert metrics.mask.ap is not None
        assert 0.02 < metrics.mask.ap < 0.9


@pytest.mark.parametrize("change", TRUTHS, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["coco", "coco_person", "mosd"])
def test_it_agrees_where_nothing_counts(
    test_data: Path, tmp_path: Path, name: str, change: Callable[[dict[str, Any]], None]
):
    path = test_data / name / "annotations.json"
    found = perturbed(dict(read_ground_truth(path).instances), np.random.default_rng(5))
    content = json.loads(path.read_bytes())
    change(content)
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(content))
    metrics = evaluate(found, read_ground_truth(changed).instances)
    assert metrics.mask is not None
    compare(metrics.box, directly(changed, found, "bbox"))
    compare(metrics.mask, directly(changed, found, "segm"))
    assert (metrics.mask.ap is None) == (change is all_crowd)


def test_merging_categories_is_what_pycocotools_does_without_them(test_data: Path, tmp_path: Path):
    content = json.loads((test_data / "coco" / "annotations.json").read_bytes())
    rng = np.random.default_rng(1)
    for item in content["annotations"]:
        item["category_id"] = int(rng.integers(1, 81))
    content["categories"] = [{"id": number, "name": f"class {number}"} for number in range(1, 91)]
    path = tmp_path / "many.json"
    path.write_text(json.dumps(content))
    truth = read_ground_truth(path).instances
    found = perturbed(truth, rng)
    metrics = evaluate(found, truth)
    assert metrics.mask is not None
    compare(metrics.mask, directly(path, found, "segm", use_categories=False))


def compare(figures: KindMetrics, direct: Sequence[float]) -> None:
    ours = [value if (value := getattr(figures, name)) is not None else -1.0 for name in FIELDS]
    np.testing.assert_allclose(ours, direct, rtol=0, atol=1e-12)


def directly(path: Path, found: Found, kind: str, *, use_categories: bool = True) -> Sequence[float]:
    """What pycocotools makes of the files as they are, predictions in the documented order."""
    results: list[dict[str, Any]] = []
    for image in sorted(found):
        for item in sorted(found[image], key=documented_order):
            shape = {"bbox": list(item.box)} if kind == "bbox" else {"segmentation": item.mask}
            results.append({"image_id": image, "category_id": 1, "score": item.score, **shape})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        if results:
            predicted = truth.loadRes(results)
        else:  # loadRes cannot take none
            predicted = COCO()
            predicted.dataset = {**truth.dataset, "annotations": []}
            predicted.createIndex()
        evaluation = COCOeval(truth, predicted, kind)
        evaluation.params.useCats = int(use_categories)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:9]]


def documented_order(item: Prediction) -> tuple[Any, ...]:
    assert item.mask is not None
    return -item.score, -rle_area(item.mask), tuple(rle_box(item.mask)), item.mask["counts"]


def test_recall_and_precision_are_what_a_plain_count_gives(test_data: Path):
    truth = read_ground_truth(test_data / "coco" / "annotations.json").instances
    found = perturbed(truth, np.random.default_rng(3))
    metrics = evaluate(found, truth).mask
    assert metrics is not None
    matched = ignored = 0
    best: list[float] = []
    for image, items in truth.items():
        predicted = [decode_rle(item.mask) for item in found[image] if item.mask is not None]
        objects = [decode_rle(item.mask) for item in items if item.mask is not None and not item.crowd]
        crowds = [decode_rle(item.mask) for item in items if item.mask is not None and item.crowd]
        pairs = sorted(
            (
                (iou(one, other), row, column)
                for row, one in enumerate(predicted)
                for column, other in enumerate(objects)
            ),
            reverse=True,
        )
        rows, columns = set(), set()
        for value, row, column in pairs:
            if value >= 0.5 and row not in rows and column not in columns:
                rows.add(row)
                columns.add(column)
        matched += len(rows)
        ignored += sum(
            any((one & crowd).sum() >= 0.5 * one.sum() for crowd in crowds)
            for row, one in enumerate(predicted)
            if row not in rows
        )
        best += [max((iou(one, other) for one in predicted), default=0.0) for other in objects]
    assert (metrics.matched, metrics.ignored) == (matched, ignored)
    assert metrics.recall50 == matched / len(best)
    assert metrics.precision50 == matched / (sum(map(len, found.values())) - ignored)
    assert metrics.mean_best_iou == pytest.approx(np.mean(best), abs=1e-12)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_masks_and_boxes_of_a_file_are_those_of_pycocotools(test_data: Path):
    path = test_data / "voc" / "annotations.json"
    truth = read_ground_truth(path)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    for image, items in truth.instances.items():
        for item, annotation in zip(items, coco.loadAnns(coco.getAnnIds(imgIds=[image])), strict=True):
            assert item.mask is not None
            np.testing.assert_array_equal(coco_mask.decode(item.mask), coco.annToMask(annotation))
            assert (list(item.box), item.area, item.crowd) == (
                annotation["bbox"],
                annotation["area"],
                bool(annotation["iscrowd"]),
            )
