"""The picture of `cuts3d viz`: inputs, every iteration of the cut, and the masks. Not in the paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.figures.cloud import cloud_view
from cuts3d_cli.figures.overlay import Marker, colour_map, mark_points, overlay_masks, upsample_grid
from cuts3d_cli.figures.palette import RGB, instance_colours
from cuts3d_cli.figures.sheet import Bar, Block, Item, Key, Panel, gap_width, sheet, span_width
from cuts3d_cli.segmentation import Cut
from cuts3d_cli.wording import be, counted

SOURCE_COLOUR: RGB = (220, 38, 38)
SINK_COLOUR: RGB = (37, 99, 235)
SEMANTIC_COLOUR: RGB = (255, 255, 255)
_SEMANTIC_ALPHA = 0.8
"""So much that the white of the key is white in the picture too, though the photo below it is dark."""
_DROPPED_COLOUR: RGB = (30, 30, 30)
_LETTERBOX: RGB = (238, 239, 241)
_COLUMNS = 12
"""Narrow columns of a sheet: four common panels, or six small ones, side by side."""
_SMALL, _COMMON, _LARGE = 2, 3, 6
_MANY = 8
"""More cuts are drawn small and without their eigenvectors, more confidence maps as one: a sheet fits a screen."""
_MOST = 36
"""Of many cuts so many are drawn at most."""
_PALE_GRAY: RGB = (110, 110, 110)
_TALLEST = 1.4
_SHORTEST_SIDE = 24


def visualise(
    *,
    image: NDArray[np.uint8],
    depth: NDArray[np.floating[Any]] | None,
    importance: NDArray[np.floating[Any]] | None,
    cuts: Sequence[Cut],
    masks: Sequence[NDArray[np.bool_]],
    labels: Sequence[str] | None,
    title: str,
    notes: Sequence[str] = (),
    confidences: Sequence[NDArray[np.floating[Any]]] = (),
    scores: Sequence[float] = (),
    width: int = 320,
) -> Image.Image:
    """Draw how an image was cut.

    Patch maps are upsampled to the image; all panels have its aspect ratio, but very long images are framed. Of more
    than 8 cuts only those that gave a mask are drawn, without eigenvectors, and the confidence of more than 8 masks
    is drawn in one panel, so that the picture still fits a screen; the notes say what is left out.

    Args:
        image: (h, w, 3) uint8, RGB.
        depth: (h, w) float in [0, 1], larger is farther, NaN where unknown; None leaves out the 3D panels.
        importance: (H, W) float, Spatial Importance (paper: Eq. 3); None leaves it out.
        cuts: in order.
        masks: (h, w) bool each, the final masks.
        labels: one short text per mask; None numbers them from 1.
        title: above all panels.
        notes: below all panels.
        confidences: (H, W) float in [0, 1] each, the Spatial Confidence of each mask (paper: Eq. 4), NaN where nothing
            was cut; empty leaves them out.
        scores: the mean of each map over its mask.
        width: of a common panel, pixels, four of which fill a row; at least 160.

    Returns:
        An RGB picture.

    Raises:
        ValueError: shapes, the width, or the index of a mask do not fit.
    """
    # Check the arguments.
    for name, item in [("depth", depth), *((f"mask {i}", mask) for i, mask in enumerate(masks))]:
        if item is not None and item.shape != image.shape[:2]:
            raise ValueError(f"{name} is {item.shape}, the image {image.shape[:2]}")
    for view in cuts:
        if view.mask is not None and not 0 <= view.mask < len(masks):
            raise ValueError(f"an iteration refers to mask {view.mask}, there are {len(masks)}")
    if len(scores) != len(confidences) or len(confidences) not in (0, len(masks)):
        raise ValueError(f"{len(confidences)} confidence maps and {len(scores)} scores for {len(masks)} masks")
    if width < 160:
        raise ValueError(f"width is {width}: it must be at least 160")

    # Scale everything to the sizes of common and of large panels.
    column = (width - (_COMMON - 1) * gap_width(width)) // _COMMON

    def frame(columns: int) -> _Frame:
        return _Frame(image.shape[:2], span_width(columns, width=column, nominal=width), columns)

    small, large = frame(_COMMON), frame(_LARGE)
    colours = instance_colours(len(masks))

    # The result, beside the inputs; the largest mask is drawn first, so that it hides no other one.
    names = list(labels) if labels is not None else [str(i + 1) for i in range(len(masks))]
    order = sorted(range(len(masks)), key=lambda place: -int(masks[place].sum()))
    final = Panel(
        title=f"Instances: {len(masks) or 'none'}",
        caption="Every colour is one instance; what belongs to none is paler." if masks else None,
        image=large.pad(
            overlay_masks(
                large.photo(image),
                [large.mask(masks[place]) for place in order],
                labels=[names[place] for place in order],
                colours=[colours[place] for place in order],
                outline=3,
                dim=0.35,
                alpha=0.55,
            )
        ),
        columns=_LARGE,
    )
    rows: list[list[Item]] = []
    if depth is None:
        photo = Panel(title="Image", image=large.pad(large.photo(image)), columns=_LARGE)
        rows.append([photo, final])
        if importance is not None:
            rows.append([_importance_panel(importance, small)])
    else:
        inputs = [
            Panel(title="Image", image=small.pad(small.photo(image)), columns=_COMMON),
            Panel(
                title="Depth",
                image=small.pad(colour_map(small.numbers(depth), name="inferno_r", lo=0, hi=1)),
                legend=Bar(name="inferno_r", low="near", high="far"),
                caption=None if np.isfinite(depth).all() else "Hatched: not measured.",
                columns=_COMMON,
            ),
        ]
        cloud = Panel(
            title="Point cloud, from the side",
            image=cloud_view(
                small.photo(image),
                small.numbers(depth),
                [small.mask(masks[place]) for place in order],
                size=(max(small.outer[0], width // 2), small.outer[1]),
                colours=[colours[place] for place in order],
            ),
            columns=_COMMON,
        )
        second = [cloud] if importance is None else [_importance_panel(importance, small), cloud]
        rows.append([final, Block(rows=[inputs, second])])

    # The confidence of each mask; of many in one panel.
    panels: list[Item] = []
    beside_each = _COLUMNS // _COMMON
    if len(confidences) > _MANY:
        panels = [_all_confidences(image, masks, confidences, scores, order, frame=large)]
    else:
        panels = [
            _confidence_panel(f"Confidence of {name}: {score:.3f}", values, small, explained=place % beside_each == 0)
            for place, (name, score, values) in enumerate(zip(names, scores, confidences, strict=False))
        ]

    # The iterations: many small, beside the confidence; else two or three in a row beside their eigenvectors, or four.
    if len(cuts) > _MANY:
        many, further = _many_cuts(cuts, image, frame(_SMALL), colours)
        if len(confidences) > _MANY:
            beside = _LARGE // _SMALL
            rows.append([panels.pop(), Block(rows=[many[:beside], many[beside : 2 * beside]])])
            many = many[2 * beside :]
        rows += _in_rows(many, columns=_SMALL)
        notes = [*notes, *further]
    else:
        seen = any(view.eigenvector is not None for view in cuts)
        beside = (2 if len(cuts) in (1, 2, 4) else 3) if seen else _COLUMNS // _COMMON
        cell = frame(_COLUMNS // (2 * beside) if seen else _COMMON)
        for start in range(0, len(cuts), beside):
            line: list[Item] = []
            for place, view in enumerate(cuts[start : start + beside], start=start + 1):
                number = view.number or place
                line += _eigenvector_panels(number, view, cell)
                line.append(_cut_panel(number, view, image, cell, colours))
            rows.append(line)
    rows += _in_rows(panels, columns=_COMMON)
    return sheet(rows, title=title, notes=notes, width=column, nominal=width)


def _in_rows(panels: Sequence[Item], *, columns: int) -> list[list[Item]]:
    """Put panels of so many columns into rows."""
    step = _COLUMNS // columns
    return [list(panels[start : start + step]) for start in range(0, len(panels), step)]


def _many_cuts(
    cuts: Sequence[Cut], image: NDArray[np.uint8], frame: _Frame, colours: Sequence[RGB]
) -> tuple[list[Panel], list[str]]:
    """Return a panel each of the cuts that gave a mask, or of all if none did, and notes on the others."""
    numbered = [(view.number or place, view) for place, view in enumerate(cuts, start=1)]
    chosen = [(number, view) for number, view in numbered if view.mask is not None] or numbered
    drawn = chosen[:_MOST]
    panels = [
        _cut_panel(number, view, image, frame, colours, titled=False, explained=place == 0)
        for place, (number, view) in enumerate(drawn)
    ]
    notes = []
    if dropped := len(cuts) - len(chosen):
        reasons = Counter(view.outcome.partition(":")[2].strip() or view.outcome for view in cuts if view.mask is None)
        most = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(3))
        more = ", ..." if len(reasons) > 3 else ""
        notes.append(f"{counted(dropped, 'cut')} gave no mask and {be(dropped)} not drawn: {most}{more}")
    if len(chosen) > len(drawn):
        further = len(chosen) - len(drawn)
        notes.append(f"{counted(further, 'more cut')} {be(further)} not drawn")
    if any(view.eigenvector is not None for _, view in drawn):
        notes.append(f"eigenvectors are drawn of up to {_MANY} cuts")
    return panels, notes


def _all_confidences(
    image: NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]],
    confidences: Sequence[NDArray[np.floating[Any]]],
    scores: Sequence[float],
    order: Sequence[int],
    *,
    frame: _Frame,
) -> Panel:
    """Return one panel of the Spatial Confidence of many masks, each within itself, with its mean."""
    gray = np.full((*frame.inner, 3), _PALE_GRAY) * 0.5 + frame.photo(image).mean(axis=2, keepdims=True) * 0.5
    picture = gray.astype(np.uint8)
    inner = [frame.mask(masks[place]) for place in order]
    for place, mask in zip(order, inner, strict=True):
        values = np.asarray(upsample_grid(confidences[place], frame.inner))
        shown = mask & np.isfinite(values)
        picture[shown] = colour_map(values, name="viridis", lo=0.0, hi=1.0)[shown]
    labels = [f"{scores[place]:.2f}" for place in order]
    white: list[RGB] = [(255, 255, 255)] * len(order)
    return Panel(
        title="Spatial Confidence, with the mean of each instance",
        image=frame.pad(overlay_masks(picture, inner, labels=labels, colours=white, alpha=0.0, outline=1)),
        legend=Bar(name="viridis", low="0", high="1"),
        columns=_LARGE,
    )


def _importance_panel(importance: NDArray[np.floating[Any]], frame: _Frame) -> Panel:
    """Return the panel of Spatial Importance."""
    low, high = float(np.nanmin(importance)), float(np.nanmax(importance))
    return Panel(
        title="Spatial Importance",
        image=frame.pad(colour_map(upsample_grid(importance, frame.inner), name="viridis", lo=low, hi=high)),
        legend=Bar(name="viridis", low=f"{low:.2f}", high=f"{high:.2f}"),
        columns=frame.columns,
    )


def _confidence_panel(title: str, confidence: NDArray[np.floating[Any]], frame: _Frame, *, explained: bool) -> Panel:
    """Return the panel of a mask's Spatial Confidence; explained is what is hatched."""
    return Panel(
        title=title,
        image=frame.pad(colour_map(upsample_grid(confidence, frame.inner), name="viridis", lo=0.0, hi=1.0)),
        legend=Bar(name="viridis", low="0", high="1"),
        caption="Hatched: outside the semantic mask." if explained and not np.isfinite(confidence).all() else None,
        columns=_COMMON,
    )


def _eigenvector_panels(number: int, view: Cut, frame: _Frame) -> list[Panel]:
    """Return the panel of the eigenvector of an iteration, with 0 in the middle of the colours; none if not known."""
    if view.eigenvector is None:
        return []
    finite = np.abs(view.eigenvector[np.isfinite(view.eigenvector)])
    limit = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    picture = colour_map(upsample_grid(view.eigenvector, frame.inner), name="diverging", lo=-limit, hi=limit)
    return [
        Panel(
            title=f"{number}. Eigenvector",
            image=frame.pad(picture),
            legend=Bar(name="diverging", low=_number(-limit), high=_number(limit)),
            columns=frame.columns,
        )
    ]


def _cut_panel(
    number: int,
    view: Cut,
    image: NDArray[np.uint8],
    frame: _Frame,
    colours: Sequence[RGB],
    *,
    titled: bool = True,
    explained: bool = True,
) -> Panel:
    """Return the panel of the masks of an iteration with source and sink.

    Args:
        number: of the iteration, from 1.
        view: the iteration.
        image: (h, w, 3) uint8, RGB.
        frame: size of the panel.
        colours: of the instances.
        titled: the title tells the outcome.
        explained: add the key of the colours.
    """
    # The semantic mask and the instance, on the image in pale gray.
    colour = colours[view.mask] if view.mask is not None else _DROPPED_COLOUR
    picture = frame.photo(image)
    gray = picture.mean(axis=2, keepdims=True)
    picture = np.rint(0.55 * (0.35 * picture + 0.65 * gray)).astype(np.uint8)
    semantic = upsample_grid(view.bipartition, frame.inner)
    picture = overlay_masks(picture, [semantic], colours=[SEMANTIC_COLOUR], alpha=_SEMANTIC_ALPHA, outline=1)
    entries: list[tuple[RGB, str]] = [(SEMANTIC_COLOUR, "semantic")]
    if view.instance is not None and view.instance.any():
        instance = upsample_grid(view.instance, frame.inner)
        picture = overlay_masks(picture, [instance], colours=[colour], alpha=0.75, outline=2)
        entries.append((colour, "instance"))

    # Source and sink, at the centres of their patches.
    marks = []
    for place, label, tone, shape in (
        (view.source, "s", SOURCE_COLOUR, "circle"),
        (view.sink, "t", SINK_COLOUR, "square"),
    ):
        if place is not None:
            marks.append(
                Marker(
                    row=(place[0] + 0.5) * frame.inner[0] / view.bipartition.shape[0],
                    column=(place[1] + 0.5) * frame.inner[1] / view.bipartition.shape[1],
                    label=label,
                    colour=tone,
                    shape="circle" if shape == "circle" else "square",
                )
            )
            entries.append((tone, "source" if label == "s" else "sink"))
    head, _, reason = view.outcome.partition(":")
    return Panel(
        title=f"{number}. Cut: {head.strip()}" if titled else f"{number}. Cut",
        caption=reason.strip(),
        columns=frame.columns,
        image=frame.pad(mark_points(picture, marks, radius=max(round(0.035 * min(frame.inner)), 8))),
        legend=Key(entries=entries) if explained else None,
    )


def _number(value: float) -> str:
    """Write a number with two digits, short enough for the end of a colour bar: "-0.0049", "-4.8e-4"."""
    if value and abs(value) < 1e-3:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits}e{int(exponent)}"
    return f"{value:.2g}"


class _Frame:
    """The size at which a panel shows the image: `inner`, centred in a frame of size `outer`, both (height, width)."""

    def __init__(self, size: tuple[int, ...], width: int, columns: int) -> None:
        self.columns = columns
        scale = min(width / size[1], _TALLEST * width / size[0])
        self.inner = (
            min(max(round(size[0] * scale), _SHORTEST_SIDE), round(_TALLEST * width)),
            min(max(round(size[1] * scale), _SHORTEST_SIDE), width),
        )
        self.outer = (self.inner[0], width)

    def photo(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize a photo, (h, w, 3), to (*inner, 3)."""
        size = (self.inner[1], self.inner[0])
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Resize a mask, (h, w) bool, to `inner`: true where at least half of the pixel is covered."""
        size = (self.inner[1], self.inner[0])
        covered = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
        return np.asarray(covered) >= 128

    def numbers(self, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Resize a map, (h, w), to `inner` by nearest neighbour: NaN stays NaN and steps stay sharp."""
        return np.asarray(upsample_grid(values, self.inner))

    def pad(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Put a picture, (*inner, 3), into its frame, (*outer, 3)."""
        left = (self.outer[1] - self.inner[1]) // 2
        framed = np.full((*self.outer, 3), _LETTERBOX, dtype=np.uint8)
        framed[:, left : left + self.inner[1]] = picture
        return framed
