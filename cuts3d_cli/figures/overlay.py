"""Overlays on images: masks, colour maps, patch grids and points. Not in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cuts3d_cli.figures.palette import RGB, instance_colours, text_on
from cuts3d_cli.figures.text import font, printable

ColourMap = Literal["inferno", "inferno_r", "viridis", "magma", "turbo", "gray", "diverging"]

_CV2_MAPS = {
    "inferno": cv2.COLORMAP_INFERNO,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "magma": cv2.COLORMAP_MAGMA,
    "turbo": cv2.COLORMAP_TURBO,
}
_DIVERGING_STOPS = ((5, 48, 97), (67, 147, 195), (247, 247, 247), (214, 96, 77), (103, 0, 31))
_HATCH: tuple[RGB, RGB] = ((205, 205, 205), (168, 168, 168))
_HATCH_PERIOD = 8


def overlay_masks(
    image: NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]],
    *,
    alpha: float = 0.5,
    outline: int = 2,
    labels: Sequence[str] | None = None,
    colours: Sequence[RGB] | None = None,
    dim: float = 0.0,
) -> NDArray[np.uint8]:
    """Draw masks over a photo: filled, with a sharp outline inside the mask's border.

    Args:
        image: (h, w, 3) uint8, RGB.
        masks: (h, w) bool each; a later one covers an earlier one.
        alpha: weight of the colour in the filling, 0 to 1.
        outline: width of the outline, pixels; 0 for none.
        labels: one short text per mask, drawn where the visible part of the mask is widest; None or "" for none.
        colours: one per mask; None takes `instance_colours`.
        dim: how far pixels outside all masks are moved towards pale gray, 0 to 1.

    Returns:
        (h, w, 3) uint8, a new array.

    Raises:
        ValueError: the number or the shape of an argument does not fit.
    """
    # Check the arguments.
    _check_image(image)
    if labels is not None and len(labels) != len(masks):
        raise ValueError(f"{len(labels)} labels for {len(masks)} masks")
    if colours is None:
        colours = instance_colours(len(masks))
    if len(colours) < len(masks):
        raise ValueError(f"{len(colours)} colours for {len(masks)} masks")
    for index, mask in enumerate(masks):
        if mask.shape != image.shape[:2] or mask.dtype != np.bool_:
            raise ValueError(f"mask {index} is {mask.dtype} {mask.shape}, the image is {image.shape[:2]}")

    # Find the mask that each pixel shows.
    result = image.astype(np.float32)
    owner = np.full(image.shape[:2], -1, dtype=np.intp)
    for index, mask in enumerate(masks):
        owner[mask] = index
    # Dim what lies outside, then fill and outline the masks.
    outside = owner < 0
    if dim > 0:
        gray = result[outside].mean(axis=1, keepdims=True) * 0.5 + 110
        result[outside] = result[outside] * (1 - dim) + gray * dim
    for index, (mask, colour) in enumerate(zip(masks, colours, strict=False)):
        visible = owner == index
        result[visible] = result[visible] * (1 - alpha) + np.asarray(colour, np.float32) * alpha
        if outline > 0:
            edge = visible & ~_eroded(mask, outline)
            result[edge] = colour
    # Put the labels on top.
    drawn = np.clip(np.rint(result), 0, 255).astype(np.uint8)
    if labels is None:
        return drawn
    canvas = Image.fromarray(drawn)
    for index, label in enumerate(labels):
        if label and (owner == index).any():
            _tag(canvas, printable(label), _widest(owner == index), colours[index])
    return np.asarray(canvas)


def matched_colours(
    masks: Sequence[NDArray[np.bool_]], reference: Sequence[NDArray[np.bool_]], *, least_iou: float = 0.5
) -> list[RGB]:
    """Choose colours for masks beside a reference, so that matching instances have the same colour.

    Args:
        masks: (h, w) bool each.
        reference: (h, w) bool each, drawn with `instance_colours`.
        least_iou: a mask takes the colour of a reference instance from this IoU on; the best pairs are matched first.

    Returns:
        One colour per mask; unmatched masks get colours that no reference instance has.
    """
    palette = instance_colours(len(reference) + len(masks))
    pairs = []
    for i, mask in enumerate(masks):
        for j, other in enumerate(reference):
            union = int((mask | other).sum())
            iou = int((mask & other).sum()) / union if union else 0.0
            if iou >= least_iou and union:
                pairs.append((-iou, i, j))
    partner: dict[int, int] = {}
    for _, i, j in sorted(pairs):
        if i not in partner and j not in partner.values():
            partner[i] = j
    spare = iter(palette[len(reference) :])
    return [palette[partner[i]] if i in partner else next(spare) for i in range(len(masks))]


def colour_map(
    values: NDArray[np.floating[Any]], *, name: ColourMap, lo: float | None = None, hi: float | None = None
) -> NDArray[np.uint8]:
    """Map numbers to colours.

    Args:
        values: (h, w) float, NaN where there is no value.
        name: "diverging" is blue - white - red; "_r" is reversed.
        lo: the value of the first colour; None for the smallest finite value.
        hi: the value of the last colour; None for the largest finite value.

    Returns:
        (h, w, 3) uint8, RGB. Values outside [lo, hi] get the nearest end's colour, NaN a gray hatching. If lo = hi or
        no value is finite, all values get the middle colour.

    Raises:
        ValueError: `values` is not 2D.
    """
    if values.ndim != 2:
        raise ValueError(f"values must be 2D, they are {values.shape}")
    numbers = values.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    if lo is None:
        lo = float(finite.min()) if finite.size else 0.0
    if hi is None:
        hi = float(finite.max()) if finite.size else 0.0
    known = ~np.isnan(numbers)
    share = np.full(numbers.shape, 0.5)
    if hi != lo:
        share[known] = np.clip((numbers[known] - lo) / (hi - lo), 0, 1)
    colours = _table(name)[np.rint(share * 255).astype(np.uint8)]
    diagonal = np.add.outer(np.arange(values.shape[0]), np.arange(values.shape[1]))
    stripe = diagonal % _HATCH_PERIOD < _HATCH_PERIOD // 2
    hatch = np.where(stripe[:, :, None], np.array(_HATCH[0], np.uint8), np.array(_HATCH[1], np.uint8))
    return np.where(known[:, :, None], colours, hatch).astype(np.uint8)


def upsample_grid(grid: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Upsample a patch grid to an image by nearest neighbour.

    Args:
        grid: (H, W) or (H, W, C), any dtype.
        size: height and width (h, w), pixels.

    Returns:
        (h, w) or (h, w, C), same dtype: each pixel has the value of the patch that its centre lies in.
    """
    rows = ((np.arange(size[0]) + 0.5) * grid.shape[0] / size[0]).astype(np.intp)
    columns = ((np.arange(size[1]) + 0.5) * grid.shape[1] / size[1]).astype(np.intp)
    return grid[rows[:, None], columns[None, :]]


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A point to mark.

    Attributes:
        row: pixels from the top, with fractions.
        column: pixels from the left, with fractions.
        label: a letter or two inside the mark; "" for none.
        colour: of the mark.
        shape: of the mark.
    """

    row: float
    column: float
    label: str
    colour: RGB
    shape: Literal["circle", "square"] = "circle"


def mark_points(image: NDArray[np.uint8], points: Sequence[Marker], *, radius: int | None = None) -> NDArray[np.uint8]:
    """Draw marks with a white and a dark rim, so that they stand out on any background.

    Args:
        image: (h, w, 3) uint8, RGB.
        points: the marks; those near the border are moved inside.
        radius: of a mark, pixels; None for 3 % of the image's mean side.

    Returns:
        (h, w, 3) uint8, a new array.
    """
    _check_image(image)
    height, width = image.shape[:2]
    canvas = Image.fromarray(image)
    size = radius if radius is not None else max(round(0.03 * (height + width) / 2), 5)
    for point in points:
        column = float(np.clip(point.column, size + 2, max(width - size - 2, size + 2)))
        row = float(np.clip(point.row, size + 2, max(height - size - 2, size + 2)))
        _mark(canvas, (column, row), size, point)
    return np.asarray(canvas)


def _mark(canvas: Image.Image, centre: tuple[float, float], radius: int, point: Marker) -> None:
    """Paste one mark, drawn at four times its size for smooth edges."""
    zoom = 4
    half = radius + 3
    left, top = int(centre[0]) - half, int(centre[1]) - half
    stamp = Image.new("RGBA", (2 * half * zoom, 2 * half * zoom))
    draw = ImageDraw.Draw(stamp)
    x, y = (centre[0] - left) * zoom, (centre[1] - top) * zoom
    for grown, colour in ((2.0, (20, 20, 20)), (1.0, (255, 255, 255)), (-0.75, point.colour)):
        reach = (radius + grown) * zoom
        box = (x - reach, y - reach, x + reach, y + reach)
        if point.shape == "circle":
            draw.ellipse(box, fill=(*colour, 255))
        else:
            draw.rectangle(box, fill=(*colour, 255))
    if point.label:
        face = font(max(round(1.5 * radius * zoom), 4))
        draw.text((x, y), printable(point.label), font=face, fill=(*text_on(point.colour), 255), anchor="mm")
    stamp = stamp.resize((2 * half, 2 * half), Image.Resampling.BOX)
    canvas.paste(stamp, (left, top), stamp)


def _tag(canvas: Image.Image, label: str, at: tuple[int, int], colour: RGB) -> None:
    """Draw a label on a plate of the instance's colour, centred on (row, column) but inside the image."""
    face = font(max(round(0.042 * (canvas.width + canvas.height) / 2), 11))
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = draw.textbbox((0, 0), label, font=face)
    pad = max(round(0.25 * (bottom - top)), 2)
    width, height = round(right - left) + 2 * pad, round(bottom - top) + 2 * pad
    x = min(max(at[1] - width // 2, 0), max(canvas.width - width, 0))
    y = min(max(at[0] - height // 2, 0), max(canvas.height - height, 0))
    plate = (x, y, x + width - 1, y + height - 1)
    draw.rounded_rectangle(plate, radius=pad, fill=colour, outline=(20, 20, 20))
    draw.text((x + pad - left, y + pad - top), label, font=face, fill=text_on(colour))


def _widest(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the (row, column) that lies farthest inside a mask."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), mask.shape)
    return int(row), int(column)


def _eroded(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Erode a mask by `width` pixels; the image's border counts as outside."""
    padded = np.pad(mask.astype(np.uint8), width)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    return cv2.erode(padded, kernel)[width:-width, width:-width].astype(bool)


def _table(name: ColourMap) -> NDArray[np.uint8]:
    """Return the 256 colours of a colour map, (256, 3) uint8, RGB."""
    if name.endswith("_r"):
        return _table(name[: -len("_r")])[::-1]  # type: ignore[arg-type]
    ramp = np.arange(256, dtype=np.uint8)
    if name == "gray":
        return np.repeat(ramp[:, None], 3, axis=1)
    if name == "diverging":
        stops = np.asarray(_DIVERGING_STOPS, np.float64)
        positions = np.linspace(0, 255, len(stops))
        channels = [np.interp(np.arange(256), positions, stops[:, channel]) for channel in range(3)]
        return np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    if name not in _CV2_MAPS:
        raise ValueError(f"unknown colour map {name!r}")
    return np.asarray(cv2.applyColorMap(ramp[:, None], _CV2_MAPS[name])[:, 0, ::-1])


def _check_image(image: NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected a uint8 (h, w, 3) image, got {image.dtype} {image.shape}")
