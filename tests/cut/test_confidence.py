from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts3d_cli.cut.confidence import Thresholds, confidence_counts, mean_confidence, spatial_confidence
from tests.support.clouds import local_cut, surface, touching_blobs

SOURCE, SINK = 5 * 12 + 3, 0
OPTIONS = {"k": 16}


def count(
    depth: np.ndarray, mask: np.ndarray, *, source: int, low: float = 0.15, high: float = 0.4, cuts: int = 6
) -> np.ndarray:
    thresholds = [Thresholds(tau_knn=tau) for tau in np.linspace(low, high, cuts)]
    return confidence_counts(
        surface(depth), mask, source=source, sink=SINK, thresholds=thresholds, capacity="gaussian", **OPTIONS
    )


def counts(step: float, *, low: float = 0.15, high: float = 0.4, cuts: int = 6) -> np.ndarray:
    left, right = touching_blobs()
    depth = np.where(left, 0.2, np.where(right, 0.2 + step, 0.95))
    return count(depth, left | right, source=SOURCE, low=low, high=high, cuts=cuts)


def test_a_clear_border_is_certain():
    left, _ = touching_blobs()
    np.testing.assert_array_equal(counts(0.6), np.where(left, 6, 0))


def test_no_border_is_certain_too():
    left, right = touching_blobs()
    np.testing.assert_array_equal(counts(0.0), np.where(left | right, 6, 0))


def test_an_unclear_border_by_hand():
    # Thresholds 0.15, 0.2, ..., 0.4. Neighbours across the step lie hypot(1/11, 0.3) = 0.3135 apart: linked for 2 of 6.
    left, right = touching_blobs()
    found = counts(0.3)
    np.testing.assert_array_equal(found, np.where(left, 6, np.where(right, 2, 0)))
    confidence = spatial_confidence(found, levels=6, floor=0.5)
    assert set(np.unique(confidence)) == {np.float32(0.5), np.float32(1.0)}  # 2/6 is under the floor
    assert mean_confidence(confidence, left) == 1.0
    assert mean_confidence(confidence, left | right) == pytest.approx(0.75)


def test_it_equals_so_many_single_cuts():
    generator = np.random.default_rng(0)
    left, right = touching_blobs()
    depth = np.clip(np.where(left, 0.2, np.where(right, 0.5, 0.9)) + generator.normal(0, 0.05, left.shape), 0, 1)
    found = count(depth, left | right, source=SOURCE, cuts=4)
    single = [
        local_cut(depth, left | right, source=SOURCE, sink=SINK, tau_knn=tau, **OPTIONS)
        for tau in np.linspace(0.15, 0.4, 4)
    ]
    np.testing.assert_array_equal(found, np.sum(single, axis=0))


def test_values_are_those_of_the_paper():
    values = spatial_confidence(np.arange(7, dtype=np.uint8), levels=6, floor=0.5)
    np.testing.assert_allclose(values, [0.5, 0.5, 0.5, 0.5, 4 / 6, 5 / 6, 1.0])


def test_the_number_of_cuts_fits_a_byte():
    with pytest.raises(ValueError, match="do not fit"):
        counts(0.3, cuts=256)


def test_an_empty_mask_has_no_confidence():
    assert mean_confidence(np.ones((2, 2), dtype=np.float32), np.zeros((2, 2), dtype=bool)) == 0.0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_cuts_nest_where_the_sink_is_out_of_reach(seed: int):
    """A lower threshold leaves less of the graph: as long as no flow reaches the sink, it reaches no further."""
    generator = np.random.default_rng(seed)
    left, right = touching_blobs()
    mask = left | right
    depth = np.where(mask, generator.uniform(0.0, 0.5, mask.shape), 0.95)
    source = int(generator.choice(np.flatnonzero(mask)))
    cuts = [
        local_cut(depth, mask, source=source, sink=SINK, tau_knn=tau, **OPTIONS)
        for tau in np.linspace(0.15, 0.4, 6)  # the background level, 1, stays farther than this from all of the mask
    ]
    for smaller, larger in pairwise(cuts):
        assert not (smaller & ~larger).any()
    counts = count(depth, mask, source=source)
    for level, found in enumerate(reversed(cuts), start=1):
        np.testing.assert_array_equal(counts >= level, found)
