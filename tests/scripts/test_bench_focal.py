"""The benchmark of focal lengths: views of a photo by hand, and its table on tiny photos with made features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench import focal
from bench.focal import View
from bench.quality import Variant
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.evaluation.datasets.annotations import read_annotation
from tests.scripts.test_bench import MadeFeatures
from tests.support.benchmarks import photo_of


def masks(photo: focal.Photo) -> list[np.ndarray]:
    found = [read_annotation(dict(item), size=photo.size[::-1]).instance.mask for item in photo.instances]
    return [decode_rle(code) for code in found if code is not None]


def test_a_photo_as_it_is_is_itself():
    photo = photo_of(0)
    assert View().of(photo) is photo


def test_a_mirrored_view_has_all_of_it_mirrored():
    photo = photo_of(0)
    view = View(mirrored=True).of(photo)
    np.testing.assert_array_equal(np.asarray(view.image), np.asarray(photo.image)[:, ::-1])
    assert photo.metres is not None
    np.testing.assert_array_equal(view.metres, photo.metres[:, ::-1])
    for here, there in zip(masks(view), masks(photo), strict=True):
        np.testing.assert_array_equal(here, there[:, ::-1])


def test_a_zoomed_view_keeps_its_size_and_leaves_out_what_is_hardly_seen():
    photo = photo_of(0)
    view = View(zoom=2.0).of(photo)
    assert view.size == photo.size
    assert view.metres is not None
    assert photo.metres is not None
    assert view.metres.shape == photo.metres.shape
    seen = [mask.sum() for mask in masks(view)]
    whole = [mask.sum() for mask in masks(photo)]
    assert len(seen) == len(whole) == 2
    for item, large, small in zip(view.instances, seen, whole, strict=True):
        assert large <= 4 * small
        assert bool(item["iscrowd"]) == (large / 4 < focal.LEAST_SEEN * small)
    # Zoomed by far, the middle between two boxes shows little of either.
    assert all(item["iscrowd"] for item in View(zoom=5.0).of(photo).instances)


def test_the_table_has_the_default_beside_the_true_one(monkeypatch: pytest.MonkeyPatch):
    plain = Variant(preset="objects", table_top=False, changes={"pseudo": {"crf": False}})
    monkeypatch.setattr(focal, "VARIANTS", {"objects": plain})
    photos = [photo_of(0), photo_of(1)]
    report = focal.focal({"mosd": photos}, features=MadeFeatures(), depths=("as measured", "with holes"))
    rows = report.tables[0].rows
    assert [(row["depth"], row["focal"]) for row in rows[:4]] == [
        ("as measured", "default"),
        ("as measured", "true"),
        ("with holes", "default"),
        ("with holes", "true"),
    ]
    assert [row["photos"] for row in rows] == [2] * 4 + [12] * 4 + [8] * 2
    assert all(row["recall@0.5"] > 0 for row in rows[:4])


def test_the_true_one_is_that_of_the_set_times_the_zoom(monkeypatch: pytest.MonkeyPatch):
    used = []

    def cuts_of_photos(photos, config, **_):
        used.append(config.pseudo.focal)
        return []

    monkeypatch.setattr(focal, "cuts_of_photos", cuts_of_photos)
    monkeypatch.setattr(focal, "figures_of", lambda cuts: {})
    monkeypatch.setattr(focal, "VIEWS", {"all": [View(), View(zoom=2.0)]})
    focal.focal({"ycbv": [replace(photo_of(0), name="ycbv/0")]}, features=MadeFeatures(), depths=("as measured",))
    assert used == [0.9, 0.9, pytest.approx(1.667, abs=1e-3), pytest.approx(3.334, abs=1e-3)]
