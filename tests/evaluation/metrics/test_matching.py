from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuts3d_cli.evaluation.metrics.matching import match_greedily, match_instances

NO_CROWDS = np.zeros((2, 0))


def test_the_pair_of_largest_iou_comes_first():
    # The first prediction could have either; the second only the first instance.
    assert match_greedily(np.array([[0.9, 0.6], [0.8, 0.1]]), threshold=0.5) == [(0, 0)]
    assert match_greedily(np.array([[0.7, 0.6], [0.8, 0.1]]), threshold=0.5) == [(1, 0), (0, 1)]


def test_an_iou_at_the_threshold_is_a_match_and_one_under_it_is_none():
    assert match_greedily(np.array([[0.5]]), threshold=0.5) == [(0, 0)]
    assert match_greedily(np.array([[np.nextafter(0.5, 0)]]), threshold=0.5) == []


def test_of_equal_ious_the_first_row_and_then_the_first_column_is_taken():
    assert match_greedily(np.full((2, 2), 0.7), threshold=0.5) == [(0, 0), (1, 1)]
    assert match_greedily(np.full((3, 1), 0.7), threshold=0.5) == [(0, 0)]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_without_predictions_or_instances_nothing_matches(shape: tuple[int, int]):
    assert match_greedily(np.zeros(shape), threshold=0.5) == []
    found = match_instances(np.zeros(shape), np.zeros((shape[0], 0)))
    assert (found.matched, found.ignored, found.best.tolist()) == (0, frozenset(), [0.0] * shape[1])


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_matches_are_one_to_one_and_leave_no_pair_over(rows: int, columns: int, seed: int):
    ious = np.random.default_rng(seed).integers(0, 5, (rows, columns)) / 4
    matches = match_greedily(ious, threshold=0.5)
    taken_rows, taken_columns = [row for row, _ in matches], [column for _, column in matches]
    assert len(set(taken_rows)) == len(matches) == len(set(taken_columns))
    values = [ious[match] for match in matches]
    assert values == sorted(values, reverse=True)
    assert all(value >= 0.5 for value in values)
    left = np.delete(np.delete(ious, taken_rows, axis=0), taken_columns, axis=1)
    assert not (left >= 0.5).any()


def test_best_ious_may_share_a_prediction_and_need_no_match():
    found = match_instances(np.array([[0.4, 0.3], [0.1, 0.0]]), NO_CROWDS)
    assert (found.matched, found.best.tolist()) == (0, [0.4, 0.3])


def test_what_lies_in_one_crowd_region_by_half_is_ignored_unless_it_matches():
    ious = np.array([[0.9], [0.0], [0.0], [0.0]])
    in_crowds = np.array([[1.0, 0.0], [0.5, 0.0], [0.49, 0.49], [0.0, 1.0]])
    found = match_instances(ious, in_crowds)
    assert (found.matched, found.ignored) == (1, {1, 3})
