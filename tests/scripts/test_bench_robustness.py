"""The benchmark of robustness: what is done to depth, and its tables on tiny photos with made features."""

from __future__ import annotations

import numpy as np
import pytest

from bench import robustness
from bench.quality import Variant
from bench.robustness import CONDITIONS
from tests.scripts.test_bench import MadeFeatures
from tests.support.benchmarks import photo_of

SIZE = (60, 80)


def changed(name: str, metres: np.ndarray, *, seed: int = 0) -> np.ndarray:
    before = metres.copy()
    found = CONDITIONS[name](metres, np.random.default_rng(seed))
    np.testing.assert_array_equal(metres, before)
    np.testing.assert_array_equal(found, CONDITIONS[name](metres, np.random.default_rng(seed)))
    assert (found.shape, found.dtype) == (metres.shape, np.float32)
    return found


def step() -> np.ndarray:
    """An edge from 1 m to 2 m in the middle, and a corner without measurement."""
    metres = np.ones(SIZE, dtype=np.float32)
    metres[:, 40:] = 2.0
    metres[:10, :10] = np.nan
    return metres


def test_depth_is_made_worse_as_its_name_says():
    metres = step()
    missing = np.isnan(metres)
    np.testing.assert_array_equal(changed("as measured", metres), metres)
    np.testing.assert_allclose(changed("times 1.7", metres), 1.7 * metres, rtol=1e-6)
    noisy = changed("2 % noise", metres)
    np.testing.assert_array_equal(np.isnan(noisy), missing)
    assert np.log(noisy / metres)[~missing].std() == pytest.approx(0.02, rel=0.1)
    blurred = changed("blurred", metres)
    np.testing.assert_array_equal(np.isnan(blurred), missing)
    assert 1.0 < blurred[30, 39] < blurred[30, 40] < 2.0
    np.testing.assert_allclose(blurred[30, [15, 70]], [1.0, 2.0])
    holed = changed("with holes", metres)
    assert np.isnan(holed).sum() > missing.sum()
    np.testing.assert_array_equal(holed[~np.isnan(holed)], metres[~np.isnan(holed)])


def test_an_estimate_has_no_holes_and_drifts_where_things_are_far_apart():
    metres = np.ones((480, 640), dtype=np.float32)
    metres[:50, :50] = np.nan
    found = changed("as a network estimates it", metres)
    assert np.isfinite(found).all()
    assert 0.02 < np.log(found).std() < 0.3
    assert np.abs(np.diff(np.log(found))).max() < 0.005  # from pixel to pixel nearly nothing
    smeared = changed("as a network estimates it", np.repeat(np.repeat(step(), 8, axis=0), 8, axis=1))
    assert (np.abs(np.diff(np.log(smeared[240]))) > 0.02).sum() > 3  # the edge runs over several pixels


def test_no_measurement_is_left_out_of_all_pixels():
    metres = np.full(SIZE, np.nan, dtype=np.float32)
    metres[30, 40] = 1.0
    for seed in range(20):
        assert np.isfinite(changed("with holes", metres, seed=seed)).any()


def test_tables_of_two_boxes_that_touch(monkeypatch: pytest.MonkeyPatch):
    plain, auto = {"crf": False, "tau_knn": "auto"}, {"confidence": {"tau_knn_min": "auto"}}
    variants = {
        "maskcut": Variant(changes={"pseudo": {"method": "maskcut", "crf": False}}),
        "+ sharpening": Variant(changes={"pseudo": plain, **auto}),
        "best": Variant(preset="best", changes={"pseudo": plain, **auto}),
        "objects, N = 3": Variant(preset="objects", table_top=False, changes={"pseudo": {"crf": False}}),
        "objects": Variant(preset="objects", table_top=False, changes={"pseudo": {"crf": False, "instances": "all"}}),
    }
    monkeypatch.setattr(robustness, "VARIANTS", variants)
    conditions = {name: CONDITIONS[name] for name in ("as measured", "times 1.7")}
    report = robustness.robustness([photo_of(0), photo_of(1)], features=MadeFeatures(), conditions=conditions)
    costs, ranks, rows = (table.rows for table in report.tables)
    assert [row["variant"] for row in costs] == ["objects, N = 3", "objects"]
    assert (costs[0]["x eigenproblems"], costs[0]["x seconds"]) == (1.0, 1.0)
    assert costs[1]["most eigenproblems"] >= costs[1]["eigenproblems"] >= 1
    assert [row["variant"] for row in ranks] == ["+ sharpening", "best", "objects"]
    # Depth plays no part in MaskCut; a scale changes nothing in perspective.
    assert [(row["depth"], row["variant"]) for row in rows] == [
        ("any", "maskcut"),
        *((condition, name) for condition in conditions for name in ("+ sharpening", "best", "objects")),
    ]
    figures = {(row["depth"], row["variant"]): row for row in rows}
    assert figures["as measured", "+ sharpening"]["recall@0.5"] == 1.0
    assert figures["any", "maskcut"]["recall@0.5"] <= 0.5
    same = [{**figures[condition, "objects"], "depth": None} for condition in conditions]
    assert same[0] == same[1]


def test_equal_scores_have_no_rank():
    assert robustness._correlation([0.5, 0.5], [0.1, 0.9]) is None
    assert robustness._correlation([0.5, 0.6, 0.9], [0.1, 0.3, 0.9]) == pytest.approx(1.0)
    assert robustness._correlation([0.9, 0.6, 0.5], [0.1, 0.3, 0.9]) == pytest.approx(-1.0)
