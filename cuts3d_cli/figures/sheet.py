"""Contact sheets: rows of titled panels on white, as one picture. Not in the paper."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cuts3d_cli.figures.overlay import ColourMap, colour_map
from cuts3d_cli.figures.palette import RGB
from cuts3d_cli.figures.text import FAINT, INK, draw_lines, font, line_height, shorten, text_width, wrap

PAPER: RGB = (255, 255, 255)
_RULE: RGB = (214, 217, 222)
_CAPTION_LINES = 3


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A colour bar below a panel.

    Attributes:
        name: of the colour map.
        low: text at the left end.
        high: text at the right end.
    """

    name: ColourMap
    low: str
    high: str


@dataclass(frozen=True, kw_only=True)
class Key:
    """A legend below a panel: coloured squares with names.

    Attributes:
        entries: (colour, name) pairs.
    """

    entries: Sequence[tuple[RGB, str]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A picture with a title above, and a legend and a caption below.

    Attributes:
        title: one line, shortened in its middle where it is too long.
        image: (h, w, 3) uint8, RGB, resized to the panel's width; one of that width is drawn as it is.
        caption: up to three lines; None for no caption.
        columns: number of columns that the panel spans, with the gaps between them.
        legend: colour bar or key between the image and the caption; None for no legend.
    """

    title: str
    image: NDArray[np.uint8]
    caption: str | None = None
    columns: int = 1
    legend: Bar | Key | None = None


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows of panels within one row of the sheet, for instance beside a large panel."""

    rows: Sequence[Sequence[Panel]]

    @property
    def columns(self) -> int:
        """Number of columns of the widest row."""
        return max((sum(panel.columns for panel in row) for row in self.rows), default=0)


Item = Panel | Block


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels. `nominal` is the width of a common panel; all sizes but the columns' follow from it."""

    column: int
    nominal: int

    @property
    def gap(self) -> int:
        return max(self.nominal // 16, 8)

    @property
    def margin(self) -> int:
        return max(self.nominal // 9, 14)

    @property
    def heading(self) -> int:
        return max(round(self.nominal / 13), 15)

    @property
    def title(self) -> int:
        return max(round(self.nominal / 18), 12)

    @property
    def caption(self) -> int:
        return max(round(self.nominal / 22.5), 11)

    def span(self, columns: int) -> int:
        return columns * self.column + (columns - 1) * self.gap


def span_width(columns: int, *, width: int, nominal: int | None = None) -> int:
    """Return the width of a panel over several columns in a sheet of this `width` and `nominal`, pixels."""
    return _Style(width, nominal or width).span(columns)


def gap_width(nominal: int) -> int:
    """Return the gap between two columns of a sheet, pixels."""
    return _Style(nominal, nominal).gap


def sheet(
    panels: Sequence[Sequence[Item]],
    *,
    title: str,
    notes: Sequence[str] = (),
    width: int = 320,
    nominal: int | None = None,
    headings: Sequence[str] | None = None,
) -> Image.Image:
    """Lay out panels on a white sheet.

    Args:
        panels: rows of panels or blocks, from the top.
        title: above all rows, wrapped.
        notes: below all rows, wrapped, one paragraph each.
        width: of one column, pixels.
        nominal: width of a common panel, pixels, from which the sizes of text and gaps follow; None for one column.
        headings: one line above each row; "" for none.

    Returns:
        An RGB picture, just large enough.

    Raises:
        ValueError: there is no panel, or the headings do not fit the rows.
    """
    # Check the arguments, and wrap the texts.
    columns = max((sum(item.columns for item in row) for row in panels), default=0)
    if columns == 0:
        raise ValueError("a sheet needs at least one panel")
    if headings is not None and len(headings) != len(panels):
        raise ValueError(f"{len(headings)} headings for {len(panels)} rows")
    style = _Style(width, nominal or width)
    inner = style.span(columns)
    title_lines = wrap(title, font(style.heading), width=inner)
    note_lines = [wrap(note, font(style.caption), width=inner) for note in notes]
    note_lines = [lines for lines in note_lines if lines]

    # Add up the height.
    height = style.margin
    height += len(title_lines) * line_height(font(style.heading)) + (style.gap if title_lines else 0)
    for index, row in enumerate(panels):
        height += _heading_height(headings[index] if headings else "", style)
        height += _row_height(row, style) + (style.gap if index + 1 < len(panels) else 0)
    if note_lines:
        height += style.gap + 1 + style.gap // 2
        height += sum(len(lines) for lines in note_lines) * line_height(font(style.caption))
        height += (len(note_lines) - 1) * (style.caption // 4)
    canvas = Image.new("RGB", (inner + 2 * style.margin, height + style.margin), PAPER)
    draw = ImageDraw.Draw(canvas)

    # Draw from the top down, in the same order.
    left, y = style.margin, style.margin
    if title_lines:
        y = draw_lines(draw, (left, y), title_lines, font(style.heading), bold=True) + style.gap
    for index, row in enumerate(panels):
        if headings and headings[index]:
            line = shorten(headings[index], font(style.title + 2), width=inner)
            draw_lines(draw, (left, y), [line], font(style.title + 2), bold=True)
        y += _heading_height(headings[index] if headings else "", style)
        _draw_row(canvas, row, (left, y), style)
        y += _row_height(row, style) + (style.gap if index + 1 < len(panels) else 0)
    if note_lines:
        y += style.gap
        draw.line((left, y, left + inner - 1, y), fill=_RULE)
        y += 1 + style.gap // 2
        for lines in note_lines:
            y = draw_lines(draw, (left, y), lines, font(style.caption), colour=FAINT) + style.caption // 4
    return canvas


def compare(
    rows: Sequence[tuple[str, Sequence[Panel]]], *, title: str, notes: Sequence[str] = (), width: int = 320
) -> Image.Image:
    """Lay out a sheet with one image per row and one method per column.

    Args:
        rows: (heading, panels) pairs.
        title: above all rows.
        notes: below all rows.
        width: of one column, pixels.

    Returns:
        An RGB picture.
    """
    return sheet(
        [list(panels) for _, panels in rows],
        title=title,
        notes=notes,
        width=width,
        headings=[heading for heading, _ in rows],
    )


def png_bytes(image: Image.Image) -> bytes:
    """Encode a picture as PNG without metadata: equal pixels give equal bytes."""
    return _encoded(image, "PNG", compress_level=6)


def jpeg_bytes(image: Image.Image) -> bytes:
    """Encode a picture as JPEG without metadata, fine enough for its letters."""
    return _encoded(image, "JPEG", quality=92, subsampling=0)


ENCODERS: Mapping[str, Callable[[Image.Image], bytes]] = {".png": png_bytes, ".jpg": jpeg_bytes, ".jpeg": jpeg_bytes}
"""The ending of a picture's file, in small letters -> what encodes it."""


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    plain = Image.fromarray(np.asarray(image.convert("RGB")))
    plain.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _heading_height(heading: str, style: _Style) -> int:
    return line_height(font(style.title + 2)) + style.gap // 3 if heading else 0


def _row_height(row: Sequence[Item], style: _Style) -> int:
    return max((_item_height(item, style) for item in row), default=0)


def _item_height(item: Item, style: _Style) -> int:
    if isinstance(item, Block):
        return sum(_row_height(row, style) for row in item.rows) + (len(item.rows) - 1) * style.gap
    total = line_height(font(style.title)) if item.title else 0
    total += _image_height(item, style)
    if item.legend is not None:
        total += style.gap // 3 + _legend_height(item, style)
    lines = _caption_lines(item, style)
    if lines:
        total += style.gap // 4 + len(lines) * line_height(font(style.caption))
    return total


def _image_height(panel: Panel, style: _Style) -> int:
    height, width = panel.image.shape[:2]
    return max(round(height * style.span(panel.columns) / width), 1)


def _caption_lines(panel: Panel, style: _Style) -> list[str]:
    width = style.span(panel.columns)
    return wrap(panel.caption or "", font(style.caption), width=width, lines=_CAPTION_LINES)


def _draw_row(canvas: Image.Image, row: Sequence[Item], position: tuple[int, int], style: _Style) -> None:
    left, top = position
    for item in row:
        if isinstance(item, Block):
            y = top
            for inner in item.rows:
                _draw_row(canvas, inner, (left, y), style)
                y += _row_height(inner, style) + style.gap
        else:
            _draw_panel(canvas, item, (left, top), style)
        left += style.span(item.columns) + style.gap


def _draw_panel(canvas: Image.Image, panel: Panel, position: tuple[int, int], style: _Style) -> None:
    draw = ImageDraw.Draw(canvas)
    left, y = position
    width = style.span(panel.columns)
    if panel.title:
        face = font(style.title)
        draw_lines(draw, (left, y), [shorten(panel.title, face, width=width)], face)
        y += line_height(face)
    size = (width, _image_height(panel, style))
    image = Image.fromarray(panel.image)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    canvas.paste(image, (left, y))
    y += size[1]
    if panel.legend is not None:
        y += style.gap // 3
        if isinstance(panel.legend, Bar):
            _draw_bar(canvas, panel.legend, (left, y), width, style)
        else:
            _draw_key(draw, panel.legend, (left, y), width, style)
        y += _legend_height(panel, style)
    lines = _caption_lines(panel, style)
    if lines:
        draw_lines(draw, (left, y + style.gap // 4), lines, font(style.caption), colour=FAINT)


def _legend_height(panel: Panel, style: _Style) -> int:
    line = line_height(font(style.caption))
    if isinstance(panel.legend, Key):
        return line * len(_key_rows(panel.legend, style.span(panel.columns), style))
    return line


def _draw_bar(canvas: Image.Image, bar: Bar, position: tuple[int, int], width: int, style: _Style) -> None:
    draw = ImageDraw.Draw(canvas)
    face = font(style.caption)
    left, top = position
    low, high = (shorten(text, face, width=width * 2 // 5) for text in (bar.low, bar.high))
    start = left + text_width(low, face) + style.caption // 2
    end = left + width - text_width(high, face) - style.caption // 2
    draw.text((left, top), low, font=face, fill=FAINT)
    draw.text((left + width - text_width(high, face), top), high, font=face, fill=FAINT)
    ramp = np.repeat(np.linspace(0, 1, max(end - start, 1))[None], max(style.caption // 2, 4), axis=0)
    middle = top + (line_height(face) - ramp.shape[0]) // 2
    canvas.paste(Image.fromarray(colour_map(ramp, name=bar.name, lo=0, hi=1)), (start, middle))


def _key_rows(key: Key, width: int, style: _Style) -> list[list[tuple[int, RGB, str]]]:
    """Return the entries with their offsets from the left, broken into lines."""
    face = font(style.caption)
    square = style.caption
    apart = round(0.75 * square)
    rows: list[list[tuple[int, RGB, str]]] = [[]]
    x = 0
    for colour, name in key.entries:
        name = shorten(name, face, width=max(width - 2 * square, square))
        taken = square + square // 2 + text_width(name, face)
        if rows[-1] and x + taken > width:
            rows.append([])
            x = 0
        rows[-1].append((x, colour, name))
        x += taken + apart
    return rows


def _draw_key(draw: ImageDraw.ImageDraw, key: Key, position: tuple[int, int], width: int, style: _Style) -> None:
    face = font(style.caption)
    square = style.caption
    left, top = position
    for row in _key_rows(key, width, style):
        for x, colour, name in row:
            middle = top + (line_height(face) - square) // 2
            box = (left + x, middle, left + x + square - 1, middle + square - 1)
            draw.rectangle(box, fill=colour, outline=INK)
            draw.text((left + x + square + square // 2, top), name, font=face, fill=FAINT)
        top += line_height(face)
