from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts3d_cli.cut.masks import decode_rle, encode_rle, mask_iou
from cuts3d_cli.detector.merging import mask_ious, merge_instances
from cuts3d_cli.sidecars.masks import StoredMask


def square(x: int, y: int, side: int = 4, *, score: float | None = None) -> StoredMask:
    mask = np.zeros((16, 20), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return replace(StoredMask.of(encode_rle(mask)), score=score)


def test_a_mask_gives_way_to_a_prediction_that_is_nearly_it():
    same, other = square(2, 2), square(12, 8)
    merged = merge_instances([same, other], [square(2, 3, score=0.9)], min_score=0.7, keep_iou=0.5)
    # 12 of 20 pixels: IoU 0.6.
    assert [item.origin for item in merged.instances] == ["prediction", "previous"]
    assert merged.instances[0].segmentation == square(2, 3).segmentation
    assert merged.instances[1].segmentation == other.segmentation
    assert [item.score for item in merged.instances] == [0.9, None]
    assert (merged.predicted, merged.replaced) == (1, 1)


def test_the_threshold_itself_replaces():
    half = square(2, 2)
    wide = np.zeros((16, 20), dtype=bool)
    wide[2:6, 2:10] = True
    prediction = replace(StoredMask.of(encode_rle(wide)), score=0.8)
    assert mask_ious([half.segmentation], [prediction.segmentation])[0, 0] == 0.5
    assert merge_instances([half], [prediction], min_score=0.7, keep_iou=0.5).replaced == 1
    assert merge_instances([half], [prediction], min_score=0.7, keep_iou=0.51).replaced == 0


def test_unsure_predictions_change_nothing():
    old = [square(2, 2), square(8, 8)]
    merged = merge_instances(old, [square(2, 2, score=0.69)], min_score=0.7, keep_iou=0.5)
    assert [item.segmentation for item in merged.instances] == [item.segmentation for item in old]
    assert merge_instances([], [], min_score=0.7, keep_iou=0.5).instances == []
    alone = merge_instances([], [square(1, 1, score=0.7)], min_score=0.7, keep_iou=0.5)
    assert (alone.predicted, alone.replaced) == (1, 0)


def test_predictions_come_best_first():
    found = [square(0, 0, score=0.71), square(6, 6, score=0.95), square(12, 12, score=0.8)]
    merged = merge_instances([], found, min_score=0.7, keep_iou=0.5)
    assert [item.score for item in merged.instances] == [0.95, 0.8, 0.71]


def test_scores_of_an_earlier_round_are_kept():
    merged = merge_instances([square(1, 1, score=0.75)], [], min_score=0.7, keep_iou=0.5)
    assert (merged.instances[0].score, merged.instances[0].origin) == (0.75, "previous")


place = st.tuples(st.integers(0, 14), st.integers(0, 10), st.integers(1, 6))


@settings(deadline=None, max_examples=60)
@given(st.lists(place, max_size=4), st.lists(place, max_size=4))
def test_ious_are_those_of_the_pixels(first: list[tuple[int, int, int]], second: list[tuple[int, int, int]]):
    rows = [square(x, y, side).segmentation for x, y, side in first]
    columns = [square(x, y, side).segmentation for x, y, side in second]
    ious = mask_ious(rows, columns)
    assert ious.shape == (len(rows), len(columns))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            assert ious[i, j] == pytest.approx(mask_iou(decode_rle(row), decode_rle(column)), abs=1e-12)
