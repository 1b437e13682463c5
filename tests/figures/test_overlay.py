from __future__ import annotations

import numpy as np
import pytest

from cuts3d_cli.figures.overlay import Marker, colour_map, mark_points, matched_colours, overlay_masks, upsample_grid
from cuts3d_cli.figures.palette import instance_colours

GRAY = np.full((40, 60, 3), 100, np.uint8)


def _box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_colour_lies_exactly_where_the_mask_is() -> None:
    mask = _box(10, 20, 30, 50)
    drawn = overlay_masks(GRAY, [mask], alpha=0.5, outline=2, colours=[(200, 0, 50)])
    changed = (drawn != GRAY).any(axis=2)
    assert np.array_equal(changed, mask)
    assert drawn[20, 35].tolist() == [150, 50, 75]  # half of 100 and half of the colour
    inner = _box(12, 22, 28, 48)
    assert (drawn[mask & ~inner] == (200, 0, 50)).all(), (
        "the outline is two pixels, inside the mask, in the plain colour"
    )
    assert (drawn[inner] == (150, 50, 75)).all(), "the filling is even: no soft edges"


def test_an_outline_runs_along_the_border_of_the_image_too() -> None:
    drawn = overlay_masks(GRAY, [np.ones((40, 60), bool)], outline=1, alpha=0.0, colours=[(255, 0, 0)])
    red = (drawn == (255, 0, 0)).all(axis=2)
    assert np.array_equal(red, ~_box(1, 1, 39, 59))


def test_later_masks_lie_over_earlier_ones() -> None:
    drawn = overlay_masks(GRAY, [_box(0, 0, 40, 30), _box(0, 20, 40, 60)], alpha=1.0, outline=0)
    first, second = instance_colours(2)
    assert (drawn[:, :20] == first).all()
    assert (drawn[:, 20:] == second).all()


def test_no_masks_no_change() -> None:
    drawn = overlay_masks(GRAY, [])
    assert np.array_equal(drawn, GRAY)
    assert drawn is not GRAY


def test_the_input_is_left_alone_and_the_ground_is_dimmed() -> None:
    photo = np.zeros((40, 60, 3), np.uint8)
    drawn = overlay_masks(photo, [_box(10, 10, 20, 20)], alpha=0.0, outline=0, dim=0.5)
    assert not photo.any()
    assert (drawn[15, 15] == 0).all()
    assert drawn[0, 0].tolist() == [55, 55, 55]


@pytest.mark.parametrize("mask", [_box(0, 0, 12, 15), _box(28, 45, 40, 60), _box(15, 20, 30, 40)])
def test_labels_are_drawn_inside_the_image_on_their_mask(mask: np.ndarray) -> None:
    plain = overlay_masks(GRAY, [mask])
    labelled = overlay_masks(GRAY, [mask], labels=["1"])
    rows, columns = np.nonzero((plain != labelled).any(axis=2))
    assert len(rows) > 20
    where = np.nonzero(mask)
    assert where[0].min() - 8 <= rows.mean() <= where[0].max() + 8
    assert where[1].min() - 8 <= columns.mean() <= where[1].max() + 8


def test_labels_longer_than_the_image_do_not_fail() -> None:
    assert overlay_masks(GRAY, [_box(0, 0, 2, 2)], labels=["a very long label indeed é"]).shape == GRAY.shape


def test_an_empty_mask_gets_no_label() -> None:
    assert np.array_equal(overlay_masks(GRAY, [np.zeros((40, 60), bool)], labels=["1"]), GRAY)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="mask 0"):
        overlay_masks(GRAY, [np.ones((3, 3), bool)])
    with pytest.raises(ValueError, match="mask 0"):
        overlay_masks(GRAY, [np.ones((40, 60), np.uint8)])
    with pytest.raises(ValueError, match="2 labels"):
        overlay_masks(GRAY, [_box(0, 0, 2, 2)], labels=["1", "2"])
    with pytest.raises(ValueError, match="float64"):
        overlay_masks(GRAY / 255, [])  # type: ignore[arg-type]


def test_masks_take_the_colours_of_what_they_found() -> None:
    reference = [_box(0, 0, 10, 10), _box(0, 20, 10, 30)]
    masks = [_box(30, 30, 40, 40), _box(0, 20, 10, 29), _box(0, 20, 10, 28), _box(0, 0, 10, 10)]
    palette = instance_colours(6)
    assert matched_colours(masks, reference) == [palette[2], palette[1], palette[3], palette[0]]
    assert matched_colours([], reference) == []


def test_colour_maps_run_from_low_to_high() -> None:
    values = np.array([[0.0, 0.5, 1.0]])
    assert colour_map(values, name="gray").tolist() == [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]]
    ends = colour_map(np.array([[-1.0, 0.0, 1.0]]), name="diverging")
    assert ends[0, 0, 2] > ends[0, 0, 0], "blue below"
    assert ends[0, 2, 0] > ends[0, 2, 2], "red above"
    assert ends[0, 1].min() > 240, "white between"
    ramp = np.linspace(0, 1, 256)[None]
    forward, backward = (colour_map(ramp, name=name) for name in ("inferno", "inferno_r"))
    assert np.array_equal(forward, backward[:, ::-1])
    assert forward[0, 0].sum() < 20, "inferno starts black; its middle is red, so the order is RGB"
    assert forward[0, 128, 0] > forward[0, 128, 2] + 50


def test_values_beyond_the_range_take_its_ends() -> None:
    values = np.array([[-5.0, 0.0, 1.0, 9.0, np.inf, -np.inf]])
    drawn = colour_map(values, name="viridis", lo=0, hi=1)[0]
    assert np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[2], drawn[3])
    assert np.array_equal(drawn[2], drawn[4])
    assert np.array_equal(drawn[0], drawn[5])


def test_nan_is_hatched_in_gray() -> None:
    values = np.full((32, 32), np.nan)
    values[:, 16:] = np.linspace(0, 1, 16)
    drawn = colour_map(values, name="viridis")
    hatched = drawn[:, :16].reshape(-1, 3)
    assert (hatched == hatched[:, :1]).all(), "gray"
    assert len(np.unique(hatched, axis=0)) == 2, "two grays"
    assert np.array_equal(drawn[:, 16:], colour_map(values[:, 16:], name="viridis"))


@pytest.mark.parametrize("values", [np.full((4, 4), 3.0), np.full((4, 4), np.nan), np.zeros((0, 4))])
def test_maps_without_a_range_are_drawn(values: np.ndarray) -> None:
    assert colour_map(values, name="viridis").shape == (*values.shape, 3)


def test_unknown_maps_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="jet"):
        colour_map(np.zeros((2, 2)), name="jet")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2D"):
        colour_map(np.zeros(3), name="gray")


def test_a_grid_is_stretched_to_blocks() -> None:
    grid = np.array([[1, 2], [3, 4]])
    assert upsample_grid(grid, (4, 6)).tolist() == [[1] * 3 + [2] * 3] * 2 + [[3] * 3 + [4] * 3] * 2
    assert upsample_grid(grid, (1, 3)).tolist() == [[3, 4, 4]]
    assert upsample_grid(grid == 1, (2, 2)).dtype == bool
    assert upsample_grid(np.zeros((2, 2, 3)), (5, 7)).shape == (5, 7, 3)


def test_marks_are_drawn_at_their_points_and_moved_inside() -> None:
    photo = np.full((100, 120, 3), 60, np.uint8)
    drawn = mark_points(photo, [Marker(row=50, column=30, label="", colour=(255, 0, 0))], radius=6)
    red = (drawn == (255, 0, 0)).all(axis=2)
    assert red[50, 30]
    rows, columns = np.nonzero(red)
    assert rows.mean() == pytest.approx(49.5, abs=0.6)
    assert columns.mean() == pytest.approx(29.5, abs=0.6)
    assert np.ptp(rows) <= 12
    corner = mark_points(photo, [Marker(row=0, column=500, label="t", colour=(0, 0, 255), shape="square")], radius=6)
    blue = np.nonzero((corner == (0, 0, 255)).all(axis=2))
    assert len(blue[0]) > 60
    assert blue[0].max() < 20
    assert blue[1].min() > 100
    assert (photo == 60).all()


def test_marks_fit_on_images_smaller_than_themselves() -> None:
    assert mark_points(np.zeros((4, 4, 3), np.uint8), [Marker(row=1, column=1, label="s", colour=(1, 2, 3))]).shape == (
        4,
        4,
        3,
    )
