"""Text in pictures: fonts, line breaks, shortening. Not in the paper."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import ImageDraw, ImageFont

from cuts3d_cli.figures.palette import RGB

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

INK: RGB = (24, 26, 30)
FAINT: RGB = (96, 101, 110)
ELLIPSIS = "..."
_SPELT = {
    "\u2264": "<=", "\u2265": ">=", "\u00d7": "x", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2192": "->",
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u03bb": "lambda", "\u03c4": "tau",
    "\u03c3": "sigma", "\u03b2": "beta", "\u00df": "ss", "\u00f8": "o", "\u00d8": "O", "\u00e6": "ae",
}  # fmt: skip
"""Replacements for characters that the font lacks; it has ASCII only."""


@lru_cache(maxsize=32)
def font(size: int) -> Font:
    """Return Pillow's own font at `size` pixels to the em."""
    return ImageFont.load_default(size=size)


def printable(text: str) -> str:
    """Return text in characters that the font has: accents are dropped, unknown characters become "?"."""
    spelt = "".join(_SPELT.get(letter, letter) for letter in text).expandtabs(4)
    plain = [letter for letter in unicodedata.normalize("NFKD", spelt) if not unicodedata.combining(letter)]
    return "".join(letter if letter == "\n" or " " <= letter <= "~" else "?" for letter in plain)


def text_width(text: str, face: Font) -> int:
    """Return the width of a line of text, pixels."""
    return -int(-face.getlength(text) // 1)


def line_height(face: Font) -> int:
    """Return the distance from one line to the next, pixels."""
    box = face.getbbox("Agjpqy|")
    return round((box[3] - box[1]) * 1.22)


def shorten(text: str, face: Font, *, width: int) -> str:
    """Shorten a line in its middle to at most `width` pixels.

    Args:
        text: one line.
        face: its font.
        width: limit in pixels, at least the width of the ellipsis.

    Returns:
        The text, or its two ends with an ellipsis between them.
    """
    text = printable(text)
    if text_width(text, face) <= width:
        return text
    best, low, high = ELLIPSIS, 1, len(text) - 1
    while low <= high:  # bisection over the number of letters that are kept
        kept = (low + high) // 2
        tail = kept // 2
        short = text[: kept - tail].rstrip() + ELLIPSIS + (text[-tail:].lstrip() if tail else "")
        if text_width(short, face) <= width:
            best, low = short, kept + 1
        else:
            high = kept - 1
    return best


def wrap(text: str, face: Font, *, width: int, lines: int | None = None) -> list[str]:
    """Break text into lines of at most `width` pixels; words longer than a line are broken, too.

    Args:
        text: newlines start new lines.
        face: its font.
        width: limit in pixels.
        lines: limit of the number of lines, where the last one is shortened; None for no limit.

    Returns:
        The lines, as `printable` spells them; none for blank text.
    """
    text = printable(text)
    if not text.strip():
        return []
    result: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            together = f"{line} {word}" if line else word
            if text_width(together, face) <= width:
                line = together
                continue
            if line:
                result.append(line)
            *full, line = _break_word(word, face, width)
            result += full
        result.append(line)
    if lines is not None and len(result) > lines:
        rest = " ".join(result[lines - 1 :])
        result = [*result[: lines - 1], shorten(rest, face, width=width)]
    return result


def _break_word(word: str, face: Font, width: int) -> list[str]:
    """Break a word into pieces of at most `width` pixels, or one letter."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and text_width(pieces[-1] + letter, face) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def draw_lines(
    draw: ImageDraw.ImageDraw,
    position: tuple[int, int],
    lines: list[str],
    face: Font,
    *,
    colour: RGB = INK,
    bold: bool = False,
) -> int:
    """Draw lines below each other.

    Args:
        draw: of the picture.
        position: left and top of the first line, pixels.
        lines: the text.
        face: its font.
        colour: of the letters.
        bold: thicken the letters (the font has one weight).

    Returns:
        The row below the last line, pixels.
    """
    left, top = position
    for line in lines:
        draw.text((left, top), line, font=face, fill=colour)
        if bold:
            draw.text((left + 0.6, top), line, font=face, fill=colour)
        top += line_height(face)
    return top
