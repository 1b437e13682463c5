"""Bar charts as SVG, for pages, whose style gives them colours and fonts by their classes. Not in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH = 320
_HEIGHT, _TOP, _BOTTOM = 150, 16, 26
_SIDE = 8
_ROW, _VALUE = 18, 62
_LEAST_LABEL, _MOST_LABEL = 60, 170
_LETTER = 7.0
"""About the width of a letter of the page's small font, pixels."""


def histogram_svg(counts: Sequence[int], ticks: Sequence[str], *, label: str) -> str:
    """Draw a histogram.

    Args:
        counts: of each bin, from the left.
        ticks: a text below each edge of the bins, one more than bins; "" for none. Or one text below each bin.
        label: what a screen reader says of the picture.

    Returns:
        An `svg` element, which says the figures of a bin where the mouse points at it.

    Raises:
        ValueError: there is no bin, or the ticks do not fit.
    """
    if not counts or len(ticks) - len(counts) not in (0, 1):
        raise ValueError(f"{len(ticks)} ticks for {len(counts)} bins")
    at_edges = len(ticks) > len(counts)
    step = (WIDTH - 2 * _SIDE) / len(counts)
    floor = _HEIGHT - _BOTTOM
    most = max(counts)
    parts = []
    for place, count in enumerate(counts):
        left = _SIDE + place * step
        height = (floor - _TOP) * count / most if most else 0.0
        # Bins with little in them stay visible.
        height = max(height, 1.5) if count else 0.0
        between = f"{ticks[place]} to {ticks[place + 1]}" if at_edges else ticks[place]
        parts.append(
            f'<g><title>{escape(between)}: {count}</title><rect class="hit" x="{left:.1f}" y="{_TOP}"'
            f' width="{step:.1f}" height="{floor - _TOP}"/><rect class="bar" x="{left + 0.5:.1f}"'
            f' y="{floor - height:.1f}" width="{max(step - 1, 0.5):.1f}" height="{height:.1f}"/></g>'
        )
    parts.append(f'<line class="axis" x1="{_SIDE}" x2="{WIDTH - _SIDE}" y1="{floor}" y2="{floor}"/>')
    # Leave out texts that would run into each other.
    room = -1.0
    for place, text in enumerate(ticks):
        centre = _SIDE + (place if at_edges else place + 0.5) * step
        half = len(text) * _LETTER / 2
        centre = min(max(centre, half), WIDTH - half)
        if text and centre - half > room:
            parts.append(f'<text x="{centre:.1f}" y="{_HEIGHT - 9}" text-anchor="middle">{escape(text)}</text>')
            room = centre + half + 4
    parts.append(f'<text class="faint" x="{_SIDE}" y="11">highest bar: {most}</text>')
    return _svg(parts, height=_HEIGHT, label=label)


def rows_svg(rows: Sequence[tuple[str, float]], *, unit: str, label: str) -> str:
    """Draw a bar a row, each with its name on the left and its value on the right.

    Args:
        rows: name and value, at least 0, each.
        unit: after the values.
        label: what a screen reader says of the picture.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("there is no row")
    most = max(value for _, value in rows)
    label_width = min(max(max(len(name) for name, _ in rows) * _LETTER + 8, _LEAST_LABEL), _MOST_LABEL)
    most_letters = int((label_width - 8) / _LETTER)
    room = WIDTH - label_width - _VALUE
    parts = []
    for place, (name, value) in enumerate(rows):
        top = place * _ROW
        shown = f"{value:.3g} {escape(unit)}"
        width = max(room * value / most, 1.0) if most else 0.0
        short = name if len(name) <= most_letters else name[: most_letters - 1] + "\u2026"
        parts.append(
            f"<g><title>{escape(name)}: {shown}</title>"
            f'<text x="{label_width - 6:.0f}" y="{top + 13}" text-anchor="end">{escape(short)}</text>'
            f'<rect class="bar" x="{label_width:.0f}" y="{top + 3}" width="{width:.1f}" height="{_ROW - 6}"/>'
            f'<text class="faint" x="{label_width + width + 5:.1f}" y="{top + 13}">{shown}</text></g>'
        )
    return _svg(parts, height=_ROW * len(rows) + 4, label=label)


def _svg(parts: Sequence[str], *, height: int, label: str) -> str:
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"
