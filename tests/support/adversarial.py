"""A made-up ground truth, and detections that are hard to judge, as a detector gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.masks import Rle, decode_rle, encode_rle, rle_box
from cuts3d_cli.evaluation.benchmark_results import predictions_of
from cuts3d_cli.evaluation.metrics import Instance, Prediction, sort_predictions
from cuts3d_cli.sidecars.detections import Detections as Found

SIZE = (120, 160)
"""(height, width) of the made-up images."""
Truth = Mapping[int, Sequence[Instance]]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a detector found in one photo. Fits `cuts3d_cli.evaluation.journal.Found`."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    masks: Sequence[Rle]
    classes: NDArray[np.int64] | None = None


def seen(masks: Sequence[Rle], scores: Sequence[float], *, shift: Sequence[float] | float = 0.0) -> Seen:
    """Detections whose boxes are those of their masks, moved by a fraction of a pixel."""
    boxes = np.array([rle_box(code) for code in masks], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    moved = boxes + np.broadcast_to(np.asarray(shift, dtype=np.float32).reshape(-1, 1), boxes.shape)
    return Seen(boxes=moved, scores=np.array(scores, dtype=np.float32), masks=list(masks))


def made_up(rng: np.random.Generator) -> dict[int, list[Instance]]:
    """Eight images of rectangles of all sizes, many of which overlap; some crowds; two images with nothing."""
    truth: dict[int, list[Instance]] = {number: [] for number in (3, 5, 8, 13, 21, 34, 55, 89)}
    for number in list(truth)[:6]:
        for _ in range(rng.integers(1, 7)):
            truth[number].append(Instance.of_mask(_rectangle(rng), crowd=bool(rng.random() < 0.2)))
    return truth


def _rectangle(rng: np.random.Generator) -> Rle:
    mask = np.zeros(SIZE, dtype=bool)
    height, width = rng.integers(4, 110, 2)
    top, left = rng.integers(0, SIZE[0] - 8), rng.integers(0, SIZE[1] - 8)
    mask[top : top + height, left : left + width] = True
    return encode_rle(mask)


def _codes(items: Sequence[Instance], *, crowds: bool = False) -> list[Rle]:
    return [item.mask for item in items if item.mask is not None and item.crowd == crowds]


def _size(items: Sequence[Instance]) -> tuple[int, int]:
    height, width = items[0].mask["size"] if items and items[0].mask is not None else SIZE
    return height, width


def usual(items: Sequence[Instance], rng: np.random.Generator) -> Seen:
    """Instances moved about, and some repeated, each with a score of its own."""
    masks = []
    for code in _codes(items):
        for _ in range(rng.integers(0, 4)):
            mask = decode_rle(code)
            reach = int(mask.sum() ** 0.5 * 0.3) + 1
            masks.append(encode_rle(np.roll(mask, rng.integers(-reach, reach + 1, 2), axis=(0, 1))))
    return seen(masks, rng.random(len(masks)).tolist(), shift=rng.normal(0, 0.7, len(masks)).tolist())


def none(items: Sequence[Instance], rng: np.random.Generator) -> Seen:
    return seen([], [])


def duplicates(items: Sequence[Instance], rng: np.random.Generator) -> Seen:
    codes = [code for code in _codes(items) for _ in range(3)]
    return seen(codes, np.linspace(0.9, 0.2, len(codes)).tolist())


def in_crowds(items: Sequence[Instance], rng: np.random.Generator) -> Seen:
    codes = _codes(items, crowds=True) * 3
    return seen(codes, rng.random(len(codes)).tolist())


def giant(items: Sequence[Instance], rng: np.random.Generator) -> Seen:
    """One detection over the whole image, surer than the instances."""
    whole = encode_rle(np.ones(_size(items), dtype=bool))
    codes = _codes(items)
    return seen([whole, *codes], [0.95, *np.linspace(0.9, 0.5, len(codes)).tolist()])


def equal_scores(items: Sequence[Instance], rng: np.random.Generator) -> Seen:
    moved = usual(items, rng)
    return seen(moved.masks, [0.5] * len(moved.masks))


def too_many(items: Sequence[Instance], rng: np.random.Generator) -> Seen:
    """More than the hundred that count, of four scores; empty masks among them."""
    codes = [*_codes(items)[:5], encode_rle(np.zeros(_size(items), dtype=bool)), *usual(items, rng).masks[:8]]
    codes = [codes[place % len(codes)] for place in range(130)]
    return seen(codes, (rng.integers(1, 5, len(codes)) / 4).tolist())


Case = Callable[[Sequence[Instance], np.random.Generator], Seen]
CASES: Sequence[Case] = (usual, none, duplicates, in_crowds, giant, equal_scores, too_many)


def all_crowd(content: dict[str, Any]) -> None:
    """Make every annotation of a COCO JSON a crowd region."""
    for item in content["annotations"]:
        item["iscrowd"] = 1


def half_without(content: dict[str, Any]) -> None:
    """Leave every other image of a COCO JSON without annotations."""
    empty = {image["id"] for image in content["images"][::2]}
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] not in empty]


TRUTHS = (all_crowd, half_without)


def detections(case: Case, truth: Truth, *, seed: int = 7) -> dict[int, Seen]:
    """Detections of each image, in the order in which those of equal score are judged."""
    rng = np.random.default_rng(seed)
    return {number: in_order(case(truth[number], rng)) for number in sorted(truth)}


def in_order(plain: Found) -> Seen:
    """Detections of one image in the order in which they are judged."""
    predictions = predictions_of(plain, masks=True)
    order = [_place(predictions, item) for item in sort_predictions(predictions)]
    return Seen(boxes=plain.boxes[order], scores=plain.scores[order], masks=[plain.masks[place] for place in order])


def _place(items: Sequence[Prediction], wanted: Prediction) -> int:
    return next(place for place, item in enumerate(items) if item is wanted)
