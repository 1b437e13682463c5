from dataclasses import replace

import numpy as np
import pytest

from cuts3d_cli.cut.cloud import perspective_cloud
from cuts3d_cli.cut.cuts3d import MOST_SMALL, PATIENCE, PLANE_REASON, CutS3D, check_tau_knn
from cuts3d_cli.cut.iterations import advance, begin, extract
from cuts3d_cli.cut.ncut import Eigenpair
from cuts3d_cli.cut.perspective import Perspective
from cuts3d_cli.cut.types import Extraction
from cuts3d_cli.errors import SampleError, UsageError
from tests.support.clouds import GRID, cut_settings, touching_blobs, two_class_features


def cut(features: np.ndarray, depth: np.ndarray | None, **changes: object) -> Extraction:
    return extract(features, depth, method=CutS3D(), settings=cut_settings(**changes))


def scene(near: float = 0.2, far: float = 0.6):
    left, right = touching_blobs()
    depth = np.where(left, near, np.where(right, far, 0.9))
    return two_class_features(left | right), depth, left, right


def masks_of(extraction) -> list[np.ndarray]:
    return [item.mask for item in extraction.candidates if item.dropped is None]


@pytest.mark.parametrize("sharpen", [False, True])
@pytest.mark.parametrize("eigensolver", ["lanczos", "dense"])
def test_touching_blobs_at_two_depths_become_two_instances(sharpen: bool, eigensolver: str):
    features, depth, left, right = scene()
    found = cut(features, depth, sharpen=sharpen, eigensolver=eigensolver)
    first, second = masks_of(found)[:2]
    np.testing.assert_array_equal(first, left)
    np.testing.assert_array_equal(second, right)
    assert found.stopped == "the cut predicts the rest of the image"


def test_several_sources_bridge_what_the_core_covers():
    # Both blobs have the same features, so the same entries: the core of the first cut is all of both.
    features, depth, left, right = scene()
    found = cut(features, depth, source="core", instances=1)
    (item,) = found.candidates
    np.testing.assert_array_equal(item.core, left | right)
    np.testing.assert_array_equal(item.mask, left | right)
    assert item.core.reshape(-1)[item.source]
    assert item.sink is not None
    assert not item.core.reshape(-1)[item.sink]


def test_the_core_does_not_jump_to_an_object_elsewhere():
    first, second = np.zeros((2, *GRID), dtype=bool)
    first[2:5, 2:5] = second[7:10, 7:10] = True
    depth = np.where(first | second, 0.3, 0.9)
    found = cut(two_class_features(first | second), depth, source="core")
    for item, blob in zip(found.candidates, (first, second), strict=True):
        np.testing.assert_array_equal(item.core, blob)
        np.testing.assert_array_equal(item.mask, blob)
    plain = cut(two_class_features(first | second), depth)
    assert [item.core for item in plain.candidates] == [None, None]


def test_at_one_depth_they_stay_one():
    features, depth, left, right = scene(near=0.4, far=0.4)
    found = masks_of(cut(features, depth))
    np.testing.assert_array_equal(found[0], left | right)


def test_in_2d_they_stay_one():
    features, depth, left, right = scene()
    found = masks_of(cut(features, depth, cut="component"))
    np.testing.assert_array_equal(found[0], left | right)
    no_depth = masks_of(cut(features, None, cut="component"))
    np.testing.assert_array_equal(no_depth[0], left | right)


def test_the_rest_stops_the_loop():
    blob = np.zeros(GRID, dtype=bool)
    blob[4:8, 4:8] = True
    depth = np.where(blob, 0.2, 0.9)
    found = cut(two_class_features(blob), depth, instances=10)
    assert [item.mask.sum() for item in found.candidates] == [16]
    assert found.stopped == "the cut predicts the rest of the image"


def test_removed_nodes_never_return():
    generator = np.random.default_rng(5)
    for seed in range(5):
        features = np.random.default_rng(seed).normal(size=(4, *GRID)).astype(np.float32)
        depth = generator.random(GRID)
        for separation in ("local", "component"):
            found = cut(
                features,
                depth,
                instances=6,
                tau_ncut=0.3,
                cut=separation,
                rest_iou=1.0,
                sharpen=True,
            )
            removed = np.zeros(GRID, dtype=bool)
            for item in found.candidates:
                assert not (item.bipartition & removed).any()
                assert not (item.mask & removed).any()
                assert not removed.reshape(-1)[item.source]
                assert item.sink is None or not removed.reshape(-1)[item.sink]
                removed |= item.mask


def test_a_removed_node_does_not_come_back_through_an_exponent_of_zero():
    # With beta 1 every exponent is 0 and every positive similarity becomes 1; what is removed must stay removed.
    left, right = touching_blobs()
    features = two_class_features(left | right)
    depth = np.where(left, 0.2, np.where(right, 0.6, 0.9))
    found = masks_of(cut(features, depth, sharpen=True, beta=1.0))
    np.testing.assert_array_equal(found[0], left)
    np.testing.assert_array_equal(found[1], right)


def test_small_instances_are_dropped_but_removed():
    features, depth, _, right = scene()
    found = cut(features, depth, min_area=16 / 144)
    assert [item.dropped for item in found.candidates[:2]] == ["too small", "too small"]  # at most, so equal counts
    np.testing.assert_array_equal(found.candidates[1].mask, right)


def test_further_cuts_make_up_for_dropped_ones():
    features, depth, left, right = scene()
    small = np.zeros(GRID, dtype=bool)
    small[9:11, 9:11] = True  # a third object, alone, of 4 patches
    features = two_class_features(left | right | small)
    depth = np.where(small, 0.4, depth)
    changes = {"instances": 2, "min_area": 4 / 144}
    for retries, expected in ((0, 2), (1, 3), (5, 3)):
        found = cut(features, depth, **changes, retries=retries)
        kept = [item.dropped is None for item in found.candidates]
        # Whatever the order in which the three are found: never more than two masks, never more cuts than allowed.
        assert sum(kept) <= 2
        assert len(kept) <= expected
    assert sum(kept) == 2


def test_a_constant_depth_map_cuts_in_2d():
    features, _, left, right = scene()
    found = masks_of(cut(features, np.zeros(GRID), sharpen=True))
    np.testing.assert_array_equal(found[0], left | right)


def test_an_image_of_one_colour_has_nothing_to_cut():
    features = np.ones((3, *GRID), dtype=np.float32)
    found = cut(features, np.full(GRID, 0.5), sharpen=True)
    assert list(found.candidates) == []
    assert found.stopped == "the semantic graph has no structure to cut"


def test_a_mirrored_image_gives_mirrored_masks():
    left, right = touching_blobs()
    features = two_class_features(left | right, noise=0.02)
    depth = np.where(left, 0.2, np.where(right, 0.6, 0.9))
    plain = masks_of(cut(features, depth, sharpen=True))
    mirrored = masks_of(cut(features[:, :, ::-1], depth[:, ::-1], sharpen=True))
    assert {mask.tobytes() for mask in plain} == {np.ascontiguousarray(mask[:, ::-1]).tobytes() for mask in mirrored}


def test_a_threshold_under_the_grid_is_refused():
    with pytest.raises(UsageError, match=r"diagonal spacing of the 12x12 grid, 0\.1286"):
        check_tau_knn(0.115, GRID)
    features, depth, _, _ = scene()
    with pytest.raises(UsageError, match="take every object apart"):
        cut(features, depth, tau_knn=0.1)


def test_bad_input():
    features, depth, _, _ = scene()
    with pytest.raises(ValueError, match="need a depth map"):
        cut(features, None)
    with pytest.raises(ValueError, match="depth must be"):
        cut(features, depth[:-1])
    with pytest.raises(ValueError, match="depth must be"):
        cut(features, np.full(GRID, np.nan))
    with pytest.raises(SampleError):
        cut(np.full((3, *GRID), np.nan), depth)


def test_all_instances_are_found_without_a_number():
    blobs = np.zeros((4, *GRID), dtype=bool)
    for blob, (row, column) in zip(blobs, ((1, 1), (1, 8), (8, 1), (8, 8)), strict=True):
        blob[row : row + 3, column : column + 3] = True
    depth = np.where(blobs.any(axis=0), 0.2, 0.9)
    features = two_class_features(blobs.any(axis=0))
    three = cut(features, depth, instances=3)
    every = cut(features, depth, instances="all")
    assert len(masks_of(three)) == 3
    assert {mask.tobytes() for mask in masks_of(every)} == {blob.tobytes() for blob in blobs}
    assert every.stopped == "the cut predicts the rest of the image"


def test_all_instances_stop_when_nothing_but_background_is_left():
    generator = np.random.default_rng(0)
    features = generator.normal(0, 1, (8, *GRID)).astype(np.float32)
    found = cut(features, np.zeros(GRID), instances="all", min_area=0.9, tau_knn="auto", concavity="off")
    assert not masks_of(found)
    assert found.stopped is not None
    assert found.eigenproblems <= PATIENCE["solve"]


def test_a_mask_along_the_border_is_background():
    floor = np.zeros(GRID, dtype=bool)
    floor[8:] = True
    depth = np.where(floor, 0.2, 0.9)
    features = two_class_features(floor)
    (kept,) = cut(features, depth, instances=1).candidates
    (dropped,) = cut(features, depth, instances=1, border=0.25).candidates
    assert kept.dropped is None
    assert dropped.dropped == "background: it lies along the border of the photo"
    np.testing.assert_array_equal(dropped.mask, kept.mask)


def test_the_threshold_of_the_grid_separates_what_a_fixed_one_does_not():
    # Neighbours are 1/11 apart, and the step is 0.1: over 1.05 times the spacing of the grid, under a threshold of 0.2.
    features, depth, left, right = scene(near=0.2, far=0.3)
    np.testing.assert_array_equal(masks_of(cut(features, depth, tau_knn=0.2))[0], left | right)
    np.testing.assert_array_equal(masks_of(cut(features, depth, tau_knn="auto"))[0], left)


def test_background_planes_take_no_part_in_the_cut():
    left, right = touching_blobs()
    depth = np.where(left | right, 0.2, 0.8).astype(np.float32)
    settings = cut_settings(cloud="perspective", planes=0.15)
    rules = CutS3D().rules(
        depth,
        grid=GRID,
        settings=settings,
        view=Perspective(points=perspective_cloud(depth + 1.0, size=GRID, focal=0.9), planes=~left),
    )
    (found,) = rules.cut(pair_of(np.where(left | right, 1.0, -0.1)), ())
    np.testing.assert_array_equal(found.mask, left)
    (found,) = rules.cut(pair_of(np.where(right, 1.0, -0.1)), ())
    assert found.dropped == PLANE_REASON
    np.testing.assert_array_equal(found.mask, right)  # out of the graph, or the next cut would find it again


def test_a_mask_whose_depth_was_not_measured_is_dropped():
    left, right = touching_blobs()
    depth = np.where(left, 0.2, np.where(right, 0.4, 0.8)).astype(np.float32)
    share = np.where(left, 0.25, 1.0)
    share[4, 2:6] = 1.0  # of 16 patches 4 are whole: 7/16 in all
    view = Perspective(points=perspective_cloud(depth + 1.0, size=GRID, focal=0.9), measured=share)
    vector = np.where(left, 1.0, np.where(right, 0.9, -0.1))
    for least, dropped in ((7 / 16, None), (0.45, "no depth: too little of it was measured")):
        settings = cut_settings(cloud="perspective", tau_knn="auto", measured=least)
        (found,) = CutS3D().rules(depth, grid=GRID, settings=settings, view=view).cut(pair_of(vector), ())
        np.testing.assert_array_equal(found.mask, left)  # out of the graph, or the next cut would find it again
        assert found.dropped == dropped


def test_what_has_no_depth_is_no_sign_that_only_background_is_left():
    blobs = np.zeros((PATIENCE["continue"] + 1, *GRID), dtype=bool)
    for number, blob in enumerate(blobs):
        blob[1 + 6 * (number // 2) : 4 + 6 * (number // 2), 1 + 6 * (number % 2) : 4 + 6 * (number % 2)] = True
    depth = np.where(blobs.any(axis=0), 0.2, 0.8).astype(np.float32)
    view = Perspective(
        points=perspective_cloud(depth + 1.0, size=GRID, focal=0.9), measured=np.where(blobs[-1], 1.0, 0.0)
    )
    settings = cut_settings(cloud="perspective", tau_knn="auto", measured=0.5, instances="all", after_small="continue")
    rules = CutS3D().rules(depth, grid=GRID, settings=settings, view=view)
    extraction = begin(rules)
    for blob in blobs:
        assert not extraction.finished
        extraction = advance(extraction, pair_of(np.where(blob, 1.0, -0.1)), rules)
    assert [item.dropped is None for item in extraction.candidates] == [False, False, False, True]


def test_a_mask_that_is_two_surfaces_on_the_finer_grid_gives_two_instances():
    left, right = touching_blobs()
    both = left | right
    depth = np.full(GRID, 0.5, dtype=np.float32)
    fine = np.repeat(np.repeat(np.where(left, 1.0, 1.1), 2, axis=0), 2, axis=1)
    view = Perspective(
        points=perspective_cloud(depth + 0.5, size=GRID, focal=0.9),
        fine=perspective_cloud(fine, size=(24, 24), focal=0.9),
    )
    settings = cut_settings(cloud="perspective", parts=2, source="core", instances="all")
    vector = np.where(both, 1.0, -0.1)
    first, second = CutS3D().rules(depth, grid=GRID, settings=settings, view=view).cut(pair_of(vector), ())
    np.testing.assert_array_equal(first.mask, left)
    np.testing.assert_array_equal(second.mask, right)
    assert (first.iteration, second.iteration) == (0, 1)
    for part in (first, second):
        np.testing.assert_array_equal(part.bipartition, both)
        assert part.mask.reshape(-1)[part.source]
        assert part.core is not None
        assert not (part.core & ~part.mask).any()

    # No more instances than are asked for.
    one = replace(settings, instances=1)
    assert len(CutS3D().rules(depth, grid=GRID, settings=one, view=view).cut(pair_of(vector), ())) == 1


def specks_and_a_blob(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return single patches that stand alone, a blob, and an eigenvector in whose order they come."""
    specks, blob = np.zeros((2, *GRID), dtype=bool)
    specks[np.arange(count) // 4 * 3, np.arange(count) % 4 * 3] = True
    blob[8:11, 7:11] = True
    vector = np.full(GRID, -0.1)
    vector[specks] = 1.0 - 0.01 * np.arange(count)
    vector[blob] = 0.5
    return specks, blob, vector


def test_a_cut_that_is_too_small_is_passed_over_in_the_same_semantic_mask():
    specks, blob, vector = specks_and_a_blob(3)
    depth = np.where(blob, 0.2, np.where(specks, 0.5, 0.9))
    settings = cut_settings(min_area=4 / 144, after_small="continue")
    # One eigenproblem after the other: the first speck alone.
    solve = CutS3D().rules(depth, grid=GRID, settings=replace(settings, after_small="solve"))
    (first,) = solve.cut(pair_of(vector), ())
    assert (first.mask.sum(), first.dropped) == (1, "too small")
    # All three in one find, then what they stood before.
    passed, found = CutS3D().rules(depth, grid=GRID, settings=settings).cut(pair_of(vector), ())
    assert passed.dropped == "too small"
    np.testing.assert_array_equal(passed.mask, specks)
    assert found.dropped is None
    np.testing.assert_array_equal(found.mask, blob)
    np.testing.assert_array_equal(found.bipartition, blob)  # nothing that was removed
    assert (passed.iteration, found.iteration) == (0, 1)


def test_a_semantic_mask_of_noise_is_given_up():
    specks, blob, vector = specks_and_a_blob(MOST_SMALL + 2)
    depth = np.where(blob, 0.2, np.where(specks, 0.5, 0.9))
    settings = cut_settings(min_area=4 / 144, after_small="continue")
    (passed,) = CutS3D().rules(depth, grid=GRID, settings=settings).cut(pair_of(vector), ())
    assert passed.mask.sum() == MOST_SMALL
    assert not (passed.mask & ~specks).any()
    # Where nothing else is in it, all of it goes.
    (passed,) = CutS3D().rules(depth, grid=GRID, settings=settings).cut(pair_of(np.where(blob, -0.1, vector)), ())
    assert passed.mask.sum() == MOST_SMALL


@pytest.mark.parametrize("after_small", ["solve", "continue"])
def test_patience_counts_eigenproblems(after_small: str):
    # Each eigenvector shows one more patch that stands alone: no instance, ever.
    rules = CutS3D().rules(
        np.zeros(GRID), grid=GRID, settings=cut_settings(min_area=4 / 144, instances="all", after_small=after_small)
    )
    extraction, patience = begin(rules), PATIENCE[after_small]
    for number in range(patience):
        assert not extraction.finished
        vector = np.full(GRID, -0.1)
        vector[number, 2 * (number % 5)] = 1.0
        extraction = advance(extraction, pair_of(vector), rules)
    assert extraction.stopped == f"the last {patience} eigenproblems gave no instance"
    assert extraction.eigenproblems == patience


def pair_of(vector: np.ndarray) -> Eigenpair:
    return Eigenpair(vector=vector.reshape(-1).astype(np.float64), value=0.5, solver="dense")
