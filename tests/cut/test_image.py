from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence

from cuts3d_cli.config import PAPER, PseudoConfig
from cuts3d_cli.cut import ncut
from cuts3d_cli.cut.image import CutTask, RefinementTask, cut_image, refine_image
from cuts3d_cli.cut.masks import decode_rle, mask_iou
from cuts3d_cli.cut.types import Candidate, Extraction
from cuts3d_cli.errors import SampleError, UsageError
from tests.support.clouds import GRID, touching_blobs, two_class_features

PLAIN = replace(PAPER.pseudo, sharpen=False, crf=False, tau_ncut=0.5, tau_knn=0.2, knn=8, min_area=0.0, crf_size=120)
SIZE = (90, 60)
"""Height and width of the photo: not square, so that an exchange of the two is seen."""


def task(config: PseudoConfig = PLAIN, **changes: Any) -> CutTask:
    """Two touching blobs that look alike, at 0.2 and 0.6 before a background at 1."""
    left, right = touching_blobs()
    depth = np.where(left, 0.2, np.where(right, 0.6, 1.0)).astype(np.float32)
    defaults: dict[str, Any] = {
        "image": picture(left | right, config.crf_size),
        "size": SIZE,
        "features": two_class_features(left | right).astype(np.float16),
        "depth": depth,
        "config": config,
    }
    return CutTask(**(defaults | changes))


def picture(mask: NDArray[np.bool_], size: int) -> NDArray[np.uint8]:
    big = np.kron(mask, np.ones((size // GRID[0], size // GRID[1]), bool))
    return np.where(big[..., None], np.uint8([200, 60, 40]), np.uint8([40, 90, 160]))


def masks_of(config: PseudoConfig = PLAIN, **changes: Any) -> list[NDArray[np.bool_]]:
    return [item.patch_mask for item in cut_image(task(config, **changes)).instances]


def block(rows: slice, columns: slice) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, dtype=bool)
    mask[rows, columns] = True
    return mask


def test_touching_blobs_at_two_depths_become_two_masks_of_the_photos_size():
    left, right = touching_blobs()
    result = cut_image(task())
    found = sorted(result.instances, key=lambda item: decode_rle(item.segmentation).argmax(axis=1).max())
    np.testing.assert_array_equal(found[0].patch_mask, left)
    np.testing.assert_array_equal(found[1].patch_mask, right)
    # A patch is 90 / 12 = 7.5 pixels high and 60 / 12 = 5 wide.
    expected = [block(slice(30, 60), slice(10, 30)), block(slice(30, 60), slice(30, 50))]
    for item, mask in zip(found, expected, strict=True):
        assert item.segmentation["size"] == [90, 60]
        assert mask_iou(decode_rle(item.segmentation), mask) > 0.9
        assert item.crf_iou is None


def test_at_one_depth_they_are_one_mask():
    left, right = touching_blobs()
    depth = np.where(left | right, 0.2, 1.0).astype(np.float32)
    masks = masks_of(depth=depth)
    np.testing.assert_array_equal(masks[0], left | right)


@pytest.mark.parametrize("change", [{"cut": "component"}, {"method": "maskcut"}])
def test_in_2d_they_are_one_mask_and_depth_is_not_looked_at(change: dict[str, Any]):
    left, right = touching_blobs()
    masks = masks_of(replace(PLAIN, **change, instances=1), depth=None)
    np.testing.assert_array_equal(masks[0], left | right)


def test_features_that_are_not_numbers_are_the_samples_failure():
    with pytest.raises(SampleError, match="NaN"):
        cut_image(task(features=np.full((3, *GRID), np.nan, np.float16)))


def test_a_tau_knn_under_the_grids_spacing_is_a_usage_error():
    with pytest.raises(UsageError, match=r"pseudo\.tau_knn 0.1 .* 12x12 grid, 0.1286"):
        cut_image(task(replace(PLAIN, tau_knn=0.1)))


def test_the_crf_keeps_what_the_image_supports_and_its_iou_is_told():
    result = cut_image(task(replace(PLAIN, crf=True, crf_size=240)))
    assert len(result.instances) == 2
    for item in result.instances:
        assert item.crf_iou is not None
        assert item.crf_iou > 0.5
    again = cut_image(task(replace(PLAIN, crf=True, crf_size=240)))
    assert [item.segmentation for item in again.instances] == [item.segmentation for item in result.instances]
    assert [item.crf_iou for item in again.instances] == [item.crf_iou for item in result.instances]


def test_what_the_crf_changes_too_much_is_dropped_with_its_reason():
    result = cut_image(task(replace(PLAIN, crf=True, crf_size=240, crf_min_iou=1.0)))
    assert result.instances == []
    assert {item["reason"] for item in result.dropped} == {"changed too much by the CRF"}
    assert [item["iteration"] for item in result.dropped] == sorted(item["iteration"] for item in result.dropped)


def test_what_the_crf_changes_too_much_can_be_kept_as_it_was_cut():
    plain = cut_image(task(PLAIN))
    settings = replace(PLAIN, crf=True, crf_size=240, crf_min_iou=1.0, crf_failed="keep")
    kept = cut_image(task(settings))
    assert [item.segmentation for item in kept.instances] == [item.segmentation for item in plain.instances]
    assert not kept.dropped
    assert all(item.crf_iou is not None and item.crf_iou < 1.0 for item in kept.instances)


def test_specks_are_taken_out_of_masks():
    left, _ = touching_blobs()
    common: dict[str, Any] = {"bipartition": left, "source": 50, "sink": None, "vector": np.zeros(GRID)}
    extraction = Extraction(candidates=[Candidate(iteration=0, mask=left, **common)])
    clean = np.kron(left, np.ones((10, 10), dtype=bool))
    speckled = clean.copy()
    speckled[0:8, 100:108] = True  # far away
    for specks, expected in (("off", speckled), (0.05, clean)):
        settings = replace(PLAIN, crf=True, specks=specks)
        job = RefinementTask(image=None, size=(120, 120), extraction=extraction, config=settings, refined=[speckled])
        (item,) = refine_image(job).instances
        np.testing.assert_array_equal(decode_rle(item.segmentation), expected)
        assert item.crf_iou == pytest.approx(clean.sum() / speckled.sum())  # of the CRF alone


def test_small_cuts_are_dropped_with_their_reason():
    result = cut_image(task(replace(PLAIN, min_area=0.2)))
    assert [item["reason"] for item in result.dropped][:2] == ["too small", "too small"]
    assert all(item.patch_mask.mean() > 0.2 for item in result.instances)


def test_a_mask_that_earlier_ones_cover_is_dropped_with_its_reason():
    left, right = touching_blobs()
    common: dict[str, Any] = {"bipartition": left | right, "source": 50, "sink": None, "vector": np.zeros(GRID)}
    overlapping = [Candidate(iteration=n, mask=mask, **common) for n, mask in enumerate([left | right, left])]
    extraction = Extraction(candidates=overlapping)
    result = refine_image(RefinementTask(image=task().image, size=SIZE, extraction=extraction, config=PLAIN))
    assert [item.candidate.iteration for item in result.instances] == [0]
    assert result.dropped == [{"iteration": 1, "reason": "covered by earlier masks"}]


def test_an_eigenproblem_that_lanczos_does_not_solve_is_solved_densely_and_counted(monkeypatch: pytest.MonkeyPatch):
    expected = masks_of()

    def give_up(*_: object, **__: object) -> None:
        raise ArpackNoConvergence("no convergence", np.empty(0), np.empty((0, 0)))

    monkeypatch.setattr(ncut, "eigsh", give_up)
    result = cut_image(task())
    assert result.extraction.fallbacks >= len(result.instances) > 0
    for item, mask in zip(result.instances, expected, strict=True):
        np.testing.assert_array_equal(item.patch_mask, mask)


def test_workers_need_no_torch():
    code = "import sys, cuts3d_cli.cut.image; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"
