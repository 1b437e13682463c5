from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.evaluation.metrics import Instance, Prediction, evaluate, judge
from cuts3d_cli.evaluation.metrics.judging import Judgement


def square(left: int, top: int, side: int) -> np.ndarray:
    mask = np.zeros((20, 30), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def predicted(*masks: np.ndarray) -> list[Prediction]:
    return [Prediction.of_mask(encode_rle(mask)) for mask in masks]


def true(*masks: np.ndarray, crowd: bool = False) -> list[Instance]:
    return [Instance.of_mask(encode_rle(mask), crowd=crowd) for mask in masks]


def test_verdicts_stand_in_the_order_of_what_was_given():
    # The second prediction finds the first instance whole, the third one the second by 2/3; the first finds nothing.
    wide = square(10, 0, 6)
    half = wide.copy()
    half[4:] = False
    found = judge(
        predicted(square(20, 10, 3), square(0, 0, 4), half),
        true(square(0, 0, 4), wide, square(0, 12, 5)),
        kind="segm",
    )
    assert found.partners == [None, 0, 1]
    assert found.found == [True, True, False]
    assert found.best == pytest.approx([1, 2 / 3, 0])
    assert (found.true, found.false, found.missed) == (2, 1, 1)
    assert found.quality == pytest.approx((1 + 2 / 3) / (2 + 1 / 2 + 1 / 2))


def test_what_lies_in_a_crowd_region_is_neither_right_nor_wrong():
    found = judge(predicted(square(0, 0, 4)), true(square(0, 0, 10), crowd=True), kind="segm")
    assert (found.ignored, found.found) == ([True], [False])
    assert math.isnan(found.best[0])
    assert (found.true, found.false, found.missed, found.quality) == (0, 0, 0, None)


@pytest.mark.parametrize(
    ("predictions", "instances", "quality"),
    [([], [], None), ([square(0, 0, 4)], [], 0.0), ([], [square(0, 0, 4)], 0.0)],
)
def test_images_of_which_one_side_is_empty(predictions: list, instances: list, quality: float | None):
    found = judge(predicted(*predictions), true(*instances), kind="segm")
    assert found.quality == quality
    assert (found.true, found.false, found.missed) == (0, len(predictions), len(instances))


def test_boxes_are_compared_where_there_are_no_masks():
    found: Judgement = judge(
        [Prediction(box=(0, 0, 10, 10)), Prediction(box=(50, 50, 4, 4))],
        [Instance(box=(0, 0, 10, 8), area=80)],
        kind="bbox",
    )
    assert (found.partners, found.quality) == ([0, None], pytest.approx(0.8 / 1.5))


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_counts_are_those_of_the_evaluation(predictions: int, instances: int, seed: int):
    random = np.random.default_rng(seed)
    squares = [
        square(int(left), int(top), int(side)) for left, top, side in random.integers([0, 0, 1], [4, 4, 5], (10, 3))
    ]
    ours = predicted(*squares[:predictions])
    theirs = true(*squares[5 : 5 + instances]) + true(*squares[9:], crowd=True)
    found = judge(ours, theirs, kind="segm")
    figures = evaluate({1: ours}, {1: theirs}).mask
    assert figures is not None
    assert (found.true, sum(found.ignored)) == (figures.matched, figures.ignored)
    best = [value for value in found.best if not math.isnan(value)]
    assert (math.fsum(best) / len(best) if best else None) == figures.mean_best_iou
