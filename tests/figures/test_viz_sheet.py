from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cuts3d_cli.figures import viz_sheet
from cuts3d_cli.figures.cloud import cloud_view
from cuts3d_cli.figures.overlay import colour_map
from cuts3d_cli.figures.palette import instance_colours
from cuts3d_cli.figures.sheet import Block, Panel, gap_width, png_bytes, sheet, span_width
from cuts3d_cli.figures.text import font, shorten
from cuts3d_cli.figures.viz_sheet import visualise
from cuts3d_cli.segmentation import Cut

DATA = Path(os.environ.get("CUTS3D_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def _view(**changes: Any) -> Cut:
    bipartition = np.zeros((12, 12), bool)
    bipartition[3:9, 2:10] = True
    instance = bipartition.copy()
    instance[:, 6:] = False
    vector = np.where(bipartition, 1.0, -0.2)
    view = Cut(
        eigenvector=vector,
        bipartition=bipartition,
        instance=instance,
        source=(5, 4),
        sink=(0, 11),
        outcome="kept",
        mask=0,
    )
    return replace(view, **changes)


def _arguments(size: tuple[int, int] = (96, 128), **changes: Any) -> dict[str, Any]:
    height, width = size
    rng = np.random.default_rng(0)
    mask = np.zeros(size, bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    arguments: dict[str, Any] = {
        "image": rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        "depth": np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1)),
        "importance": np.linspace(0.45, 1, 144).reshape(12, 12),
        "cuts": [_view(), _view(outcome="dropped: area 0.4 % ≤ 1 %", mask=None)],
        "masks": [mask],
        "labels": None,
        "title": "photo.jpg",
        "notes": ["a note"],
        "width": 160,
    }
    return {**arguments, **changes}


def test_it_draws_the_same_bytes_twice() -> None:
    first, second = (png_bytes(visualise(**_arguments())) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": None, "importance": None},
        {"importance": None},
        {"depth": None},
        {"masks": [], "cuts": [_view(mask=None)]},
        {"cuts": []},
        {"masks": [], "cuts": [], "depth": None, "importance": None, "notes": []},
        {"labels": ["1: 0.93"]},
        {"depth": np.full((96, 128), np.nan)},
        {"depth": np.full((96, 128), 0.5)},
        {"cuts": [_view(eigenvector=None)]},
        {"cuts": [_view(eigenvector=np.zeros((12, 12)))]},
        {"cuts": [_view(eigenvector=np.full((12, 12), np.nan))]},
        {"cuts": [_view(instance=None, source=None, sink=None, mask=None)]},
        {"cuts": [_view(instance=np.zeros((12, 12), bool))] * 7},
    ],
)
def test_whatever_is_missing_there_is_a_picture(changes: dict[str, Any]) -> None:
    picture = visualise(**_arguments(**changes))
    assert picture.mode == "RGB"
    assert picture.width == visualise(**_arguments()).width


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_cuts_never_widen_the_sheet(count: int) -> None:
    assert visualise(**_arguments(cuts=[_view()] * count)).width == visualise(**_arguments(cuts=[])).width


def test_four_cuts_without_eigenvectors_and_four_confidences_fill_a_row() -> None:
    masks, maps = _arguments()["masks"] * 4, [np.ones((12, 12))] * 4
    one, four, five = (
        visualise(
            **_arguments(
                cuts=[_view(eigenvector=None)] * count,
                masks=masks,
                confidences=maps[:4] if count else [],
                scores=[1.0] * 4,
            )
        ).height
        for count in (1, 4, 5)
    )
    assert one == four < five


@pytest.mark.parametrize("size", [(20, 2000), (2000, 20), (16, 16), (300, 200)])
def test_odd_shapes_are_framed(size: tuple[int, int]) -> None:
    picture = visualise(**_arguments(size=size, title="long " * 200))
    assert picture.width == visualise(**_arguments()).width
    assert picture.height < 2500


def test_the_mask_is_drawn_in_its_colour() -> None:
    def plain(picture: Image.Image) -> int:
        return int((np.asarray(picture) == instance_colours(1)[0]).all(axis=2).sum())

    with_mask, without = visualise(**_arguments(cuts=[])), visualise(**_arguments(cuts=[], masks=[]))
    assert plain(with_mask) > 100
    assert plain(without) == 0


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (-0.00491, "-0.0049"), (-0.000476, "-4.8e-4"), (3.1e-6, "3.1e-6"), (0.0, "0")]
)
def test_numbers_beside_a_colour_bar_are_short_and_whole(value: float, text: str) -> None:
    assert viz_sheet._number(value) == text
    narrow = span_width(2, width=(320 - 2 * gap_width(320)) // 3, nominal=320)
    face = font(max(round(320 / 22.5), 11))
    assert shorten(text, face, width=narrow * 2 // 5) == text


def test_the_semantic_mask_is_as_white_as_its_key() -> None:
    black = np.zeros((96, 128, 3), np.uint8)
    view = _view(instance=None, source=None, sink=None, eigenvector=None, mask=None)
    seen = np.asarray(visualise(**_arguments(image=black, depth=None, importance=None, cuts=[view], masks=[])))
    assert (seen == 204).all(axis=2).sum() > 500, "on black the white covers four fifths"


def test_a_large_mask_hides_no_small_one() -> None:
    small, large = np.zeros((96, 128), bool), np.zeros((96, 128), bool)
    small[30:60, 40:80] = True
    large[10:90, 10:110] = True
    first = instance_colours(1)[0]
    seen = np.asarray(visualise(**_arguments(masks=[small, large], cuts=[], depth=None, importance=None)))
    assert (seen == first).all(axis=2).sum() > 100


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="depth is"):
        visualise(**_arguments(depth=np.zeros((3, 3))))
    with pytest.raises(ValueError, match="mask 0"):
        visualise(**_arguments(masks=[np.zeros((3, 3), bool)]))
    with pytest.raises(ValueError, match="refers to mask 0, there are 0"):
        visualise(**_arguments(masks=[]))
    with pytest.raises(ValueError, match="width is 50"):
        visualise(**_arguments(width=50))


def test_nearer_points_hide_farther_ones_in_the_cloud() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, :] = (0, 0, 200)
    image[10:30, 10:30] = (200, 0, 0)
    depth = np.ones((40, 40))
    depth[10:30, 10:30] = 0.0
    red = (0.45 * np.array([200, 0, 0]) + 0.55 * np.array([0, 255, 0])).astype(np.uint8)
    seen = cloud_view(image, depth, [depth == 0], size=(200, 200), colours=[(0, 255, 0)])
    rows, columns = np.nonzero((seen == red).all(axis=2))
    assert len(rows) > 1000
    # The near square is seen as a parallelogram without a hole: nothing farther is painted over it.
    for row in np.unique(rows):
        here = np.sort(columns[rows == row])
        assert np.ptp(here) + 1 == len(here)


def test_the_cloud_leaves_out_unknown_depth() -> None:
    image = np.full((20, 20, 3), 9, np.uint8)
    assert not (cloud_view(image, np.full((20, 20), np.nan), [], size=(50, 60)) == 9).all(axis=2).any()
    assert cloud_view(image, np.zeros((20, 20)), [], size=(50, 60)).shape == (50, 60, 3)


def test_a_real_photo_with_holes_in_its_depth() -> None:
    folder = DATA / "mosd"
    if not folder.is_dir():
        pytest.skip("needs the evaluation photos (CUTS3D_TEST_DATA)")
    photo = sorted((folder / "images").iterdir())[0]
    raw = np.asarray(Image.open(folder / "depth" / f"{photo.stem}.png")).astype(np.float32)
    raw[raw == 0] = np.nan
    depth = (raw - np.nanmin(raw)) / (np.nanmax(raw) - np.nanmin(raw))
    image = np.asarray(Image.open(photo).convert("RGB"))
    picture = visualise(**_arguments(image=image, depth=depth, masks=[], cuts=[_view(mask=None)], width=320))
    assert picture.width > 1300


def _many(count: int, *, dropped: int = 0, **changes: Any) -> dict[str, Any]:
    """Arguments for as many masks, one cut each, after cuts that gave none."""
    cuts = [_view(mask=None, outcome="dropped: too small")] * dropped
    return _arguments(
        cuts=[*cuts, *(_view(mask=place) for place in range(count))],
        masks=_arguments()["masks"] * count,
        confidences=[np.ones((12, 12))] * count,
        scores=[0.25] * count,
        **changes,
    )


@pytest.fixture
def laid_out(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], list[str]]]:
    """The titles and the notes of the sheets that are drawn."""
    titles: list[str] = []
    notes: list[str] = []

    def recorded(rows: Any, **options: Any) -> Image.Image:
        items = [item for row in rows for item in row]
        inner = [panel for item in items if isinstance(item, Block) for row in item.rows for panel in row]
        titles[:] = [item.title for item in (*items, *inner) if isinstance(item, Panel)]
        notes[:] = options["notes"]
        return sheet(rows, **options)

    monkeypatch.setattr(viz_sheet, "sheet", recorded)
    return titles, notes


def test_cuts_keep_the_numbers_that_the_notes_name(laid_out: tuple[list[str], list[str]]) -> None:
    for cuts in ([_view(number=2), _view(number=5)], [_view(number=number) for number in (2, 5, *range(7, 15))]):
        visualise(**_arguments(cuts=cuts))
        numbers = {int(title.split(".")[0]) for title in laid_out[0] if title[0].isdigit()}
        assert numbers == {view.number for view in cuts}


def test_a_sheet_of_many_masks_fits_a_screen(laid_out: tuple[list[str], list[str]]) -> None:
    titles, notes = laid_out
    for count in (9, 20, 36, 60):
        picture = visualise(**_many(count, dropped=40, width=320))
        assert picture.width == visualise(**_arguments(width=320)).width
        assert picture.height < 1.7 * picture.width, count
        visualise(**_many(count, dropped=40))
        drawn = min(count, 36)
        assert sum(title.endswith(" Cut") for title in titles) == drawn
        assert "41. Cut" in titles
        assert sum("Confidence" in title for title in titles) == 1
        assert "40 cuts gave no mask and are not drawn: 40 too small" in notes
        assert ("24 more cuts are not drawn" in notes) == (count == 60)
        assert "eigenvectors are drawn of up to 8 cuts" in notes
    visualise(**_many(8))
    assert sum("Eigenvector" in title for title in titles) == 8
    assert sum("Confidence of" in title for title in titles) == 8
    assert notes == ["a note"]
    # Where no cut gave a mask, they are drawn all the same.
    visualise(**_arguments(masks=[], cuts=[_view(mask=None, outcome="dropped: too small")] * 9))
    assert sum(title.endswith(" Cut") for title in titles) == 9


def test_of_many_masks_each_shows_its_own_confidence() -> None:
    arguments = _many(9)
    halves = np.zeros((2, 96, 128), bool)
    halves[0, :, :64] = halves[1, :, 64:] = True
    arguments["masks"] = [*halves, *(np.zeros((96, 128), bool) for _ in range(7))]
    arguments["confidences"] = [np.zeros((12, 12)), np.ones((12, 12)), *[np.full((12, 12), np.nan)] * 7]
    seen = np.asarray(visualise(**{**arguments, "depth": None, "importance": None}))
    ends = colour_map(np.array([[0.0, 1.0]]), name="viridis", lo=0, hi=1)[0]
    low, high = ((seen == end).all(axis=2) for end in ends)
    assert low.sum() > 5000
    assert high.sum() > 5000
    assert np.nonzero(low)[1].mean() < np.nonzero(high)[1].mean()
