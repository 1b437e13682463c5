from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cuts3d_cli.figures.sheet import Bar, Block, Key, Panel, compare, png_bytes, sheet, span_width

RED = np.full((60, 80, 3), (250, 10, 10), np.uint8)


def _red(picture: Image.Image) -> np.ndarray:
    return (np.asarray(picture) == (250, 10, 10)).all(axis=2)


def test_panels_of_a_sheet_are_shown_whole_and_apart() -> None:
    picture = sheet([[Panel(title="a", image=RED), Panel(title="b", image=RED)]], title="t", width=160)
    red = _red(picture)
    assert red.sum() == 2 * 160 * 120
    columns = np.flatnonzero(red.any(axis=0))
    assert len(columns) == 320
    assert np.ptp(columns) + 1 > 320, "there is a gap"
    margin = columns[0]
    assert picture.width - 1 - columns[-1] == margin
    assert (np.asarray(picture)[:, :margin] == 255).all()
    assert (np.asarray(picture)[-5:] == 255).all()


def test_a_panel_of_the_right_width_is_not_resampled() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, span_width(2, width=100), 3), dtype=np.uint8)
    picture = np.asarray(sheet([[Panel(title="", image=noise, columns=2)]], title="", width=100))
    margin = (picture.shape[1] - noise.shape[1]) // 2
    assert np.array_equal(picture[margin : margin + 90, margin:-margin], noise)


def test_a_block_stands_beside_a_large_panel() -> None:
    small = Panel(title="s", image=RED)
    large_panel = Panel(title="large", image=RED, columns=2)
    picture = sheet([[large_panel, Block(rows=[[small, small], [small]])]], title="t", width=120)
    large = span_width(2, width=120)
    assert _red(picture).sum() == 3 * 120 * 90 + large * round(large * 60 / 80)


@pytest.mark.parametrize("title", ["x" * 400, "many words " * 60, "/some/path" * 40])
def test_long_texts_do_not_overflow(title: str) -> None:
    panel = Panel(title=title, image=RED, caption=title, legend=Bar(name="viridis", low=title, high=title))
    other = Panel(title=title, image=RED, legend=Key(entries=[((1, 2, 3), title), ((4, 5, 6), "b")]))
    picture = sheet([[panel, other]], title=title, notes=[title, title], width=160, headings=[title])
    assert picture.width == sheet([[panel, other]], title="", width=160).width
    pixels = np.asarray(picture)
    margin = np.flatnonzero(_red(picture).any(axis=0))[0]
    assert (pixels[:, : margin - 2] == 255).all(), "something is drawn in the left margin"
    assert (pixels[:, -margin + 2 :] == 255).all(), "something is drawn in the right margin"
    assert (pixels[-4:] == 255).all(), "something is cut off below"
    gap = slice(margin + 160 + 1, margin + 160 + span_width(2, width=160) - 320 - 1)
    rows = np.flatnonzero(_red(picture).any(axis=1))
    assert (pixels[rows[0] : rows[-1], gap] == 255).all(), "a panel runs into the next"


def test_more_notes_make_a_taller_sheet() -> None:
    heights = [
        sheet([[Panel(title="a", image=RED)]], title="t", notes=notes, width=160).height
        for notes in ([], ["one"], ["one", "two"], ["one", "", "two"])
    ]
    assert heights[0] < heights[1] < heights[2] == heights[3]


def test_a_colour_bar_shows_the_map_from_low_to_high() -> None:
    blank = np.full((10, 10, 3), 255, np.uint8)
    bar = Bar(name="diverging", low="-1", high="1")
    picture = np.asarray(sheet([[Panel(title="", image=blank, legend=bar)]], title="", width=200)).astype(int)
    blue, red = picture[..., 2] - picture[..., 0] > 60, picture[..., 0] - picture[..., 2] > 60
    assert blue.any()
    assert red.any()
    assert np.nonzero(blue)[1].max() < np.nonzero(red)[1].min()


def test_empty_sheets_and_wrong_headings_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one panel"):
        sheet([], title="t")
    with pytest.raises(ValueError, match="2 headings for 1 rows"):
        sheet([[Panel(title="a", image=RED)]], title="t", headings=["a", "b"])


def test_a_comparison_has_a_row_an_image() -> None:
    rows = [(name, [Panel(title="photo", image=RED), Panel(title="ours", image=RED)]) for name in ("first", "second")]
    assert _red(compare(rows, title="t", width=100)).sum() == 4 * 100 * 75


def test_equal_sheets_are_equal_bytes() -> None:
    first, second = (
        png_bytes(sheet([[Panel(title="a", image=RED, caption="c")]], title="t", notes=["n"])) for _ in range(2)
    )
    assert first == second
    decoded = Image.open(io.BytesIO(first))
    assert decoded.mode == "RGB"
    assert not decoded.info
