from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

from cuts3d_cli.figures.text import draw_lines, font, line_height, printable, shorten, text_width, wrap

FACE = font(14)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("area ≤ 1 %", "area <= 1 %"),
        ("46×46", "46x46"),
        ("café Ångström", "cafe Angstrom"),
        ("苹果.jpg", "??.jpg"),
        ("a\tb", "a   b"),
    ],
)
def test_only_letters_that_the_font_has(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_short_text_stays() -> None:
    assert shorten("photo.jpg", FACE, width=200) == "photo.jpg"
    assert wrap("two words", FACE, width=200) == ["two words"]


@pytest.mark.parametrize("width", [30, 60, 120])
def test_long_text_keeps_both_ends(width: int) -> None:
    short = shorten("abcdefghijklmnopqrstuvwxyz" * 4, FACE, width=width)
    assert text_width(short, FACE) <= width
    assert short.startswith("a")
    assert "..." in short


@pytest.mark.parametrize(
    "text", ["some words of a sentence " * 9, "/a/path/without/any/space" * 9, "mixed " + "x" * 300 + " end"]
)
@pytest.mark.parametrize("width", [40, 150])
def test_wrapped_lines_fit_and_lose_nothing(text: str, width: int) -> None:
    lines = wrap(text, FACE, width=width)
    assert all(text_width(line, FACE) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_wrapping_keeps_line_breaks_and_stops_at_the_limit() -> None:
    assert wrap("a\nb", FACE, width=100) == ["a", "b"]
    assert wrap("  ", FACE, width=100) == []
    lines = wrap("word " * 100, FACE, width=100, lines=3)
    assert len(lines) == 3
    assert "..." in lines[-1]
    assert text_width(lines[-1], FACE) <= 100


def test_lines_are_drawn_below_each_other() -> None:
    canvas = Image.new("RGB", (100, 60), (255, 255, 255))
    end = draw_lines(ImageDraw.Draw(canvas), (5, 4), ["one", "two"], FACE, colour=(0, 0, 0))
    assert end == 4 + 2 * line_height(FACE)
    assert canvas.getbbox() is not None
    assert min(canvas.crop((0, 4, 100, 4 + line_height(FACE))).convert("L").tobytes()) < 80
    assert min(canvas.crop((0, 4 + line_height(FACE), 100, end)).convert("L").tobytes()) < 80
