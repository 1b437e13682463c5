"""The frame that annotations are in: the size that their file gives, the photo's, or that of the photo before EXIF.

A camera stores what its sensor sees and notes in EXIF how the photo is to be turned. Some annotation tools show the
photo upright and write down the width and height of what is stored; others ignore the note and have all coordinates in
the sensor's frame; scripts mix up rows and columns. All three give a width and height that are swapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cuts3d_cli.cut.masks import decode_rle, encode_rle
from cuts3d_cli.evaluation.metrics import Box, Instance
from cuts3d_cli.images import SWAPS_SIDES, turned_upright
from cuts3d_cli.json_reading import is_number
from cuts3d_cli.wording import be, counted, listed

Size = tuple[int, int]
"""(width, height), pixels."""
UPRIGHT = 1
"""The EXIF orientation of a photo that is stored as it is to be seen."""


@dataclass(frozen=True, kw_only=True)
class PhotoHead:
    """What the head of a photo says.

    Attributes:
        size: (width, height) of the upright photo, pixels; None where it is not known.
        orientation: of EXIF, 1 to 8.
    """

    size: Size | None
    orientation: int = UPRIGHT


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The frame of an image's annotations.

    Attributes:
        size: (width, height) that the coordinates are in, pixels.
        orientation: of EXIF, by which they are to be turned; 1 where they are upright.
    """

    size: Size
    orientation: int = UPRIGHT

    def upright_size(self) -> Size:
        """Return (width, height) of the image once it is turned."""
        return (self.size[1], self.size[0]) if self.orientation in SWAPS_SIDES else self.size

    def turned(self, item: Instance) -> Instance:
        """Return an instance as it is in the upright photo."""
        if self.orientation not in SWAPS_SIDES:
            return item
        mask = item.mask
        if mask is not None:
            mask = encode_rle(turned_upright(decode_rle(mask), self.orientation))
        return Instance(box=_turned(item.box, self), area=item.area, crowd=item.crowd, mask=mask)


Fit = Literal["upright", "stored", "either", "neither"]
"""Whether annotations fit a photo as it is to be seen, or as it is stored."""


def fit_of(annotations: Sequence[Any], *, upright: Size) -> Fit:
    """Tell which of two frames, with width and height swapped, the annotations of an image fit.

    Args:
        annotations: of the JSON, as they are.
        upright: (width, height) of the photo as it is to be seen, pixels.

    Returns:
        The frame, by the edges of boxes and polygons and the sizes of run-length codes.
    """
    stored = (upright[1], upright[0])
    fits = {"upright": True, "stored": True}
    for name, size in (("upright", upright), ("stored", stored)):
        for annotation in annotations:
            if isinstance(annotation, dict) and not _fits(annotation, size):
                fits[name] = False
                break
    if fits["upright"] and fits["stored"]:
        return "either"
    return "upright" if fits["upright"] else "stored" if fits["stored"] else "neither"


def frames_of(
    declared: Mapping[int, Size | None], heads: Mapping[int, PhotoHead], annotations: Mapping[int, Sequence[Any]]
) -> dict[int, Frame | None]:
    """Find the frame of each image's annotations.

    Where width and height are swapped, and annotations fit both ways, the image goes with the majority of those that
    fit one way only; without any, with the width and height that the file gives.

    Args:
        declared: image id -> (width, height) in the JSON; None where it gives none.
        heads: image id -> what its photo says.
        annotations: image id -> annotations of the JSON, as they are.

    Returns:
        Image id -> frame; None where photo and annotations are of different sizes, or no size is known.
    """
    # Most images need no thought.
    frames: dict[int, Frame | None] = {}
    swapped: dict[int, Fit] = {}
    for number, head in heads.items():
        size = declared[number]
        if size is None or head.size is None or size == head.size:
            known = size or head.size
            frames[number] = None if known is None else Frame(size=known)
        elif size == (head.size[1], head.size[0]):
            swapped[number] = fit_of(annotations[number], upright=head.size)
        else:
            frames[number] = None
    # The others go by their annotations, or by the majority.
    fits = list(swapped.values())
    mostly_upright = fits.count("upright") > fits.count("stored")
    for number, fit in swapped.items():
        head = heads[number]
        assert head.size is not None, "only a known size can be swapped"
        can_turn = head.orientation in SWAPS_SIDES
        if fit == "upright" or (fit == "either" and (mostly_upright or not can_turn)):
            frames[number] = Frame(size=head.size)
        elif fit in ("stored", "either") and can_turn:
            frames[number] = Frame(size=(head.size[1], head.size[0]), orientation=head.orientation)
        else:
            frames[number] = None
    return frames


def about_frames(
    path: Path, files: Mapping[int, str], declared: Mapping[int, Size | None], frames: Mapping[int, Frame]
) -> list[str]:
    """Return warnings about images whose width and height are swapped in the file.

    Args:
        path: of the JSON.
        files: image id -> file name.
        declared: image id -> (width, height) in the JSON; None where it gives none.
        frames: image id -> frame of its annotations.
    """
    turned = [files[number] for number, frame in frames.items() if frame.orientation != UPRIGHT]
    swapped = [
        files[number]
        for number, frame in frames.items()
        if frame.orientation == UPRIGHT and declared[number] not in (None, frame.size)
    ]
    lines = []
    if turned:
        lines.append(
            f"{path}: {counted(len(turned), 'photo')} {be(len(turned))} turned by their EXIF orientation and their"
            f" annotations are not, so that these are turned along: {listed(turned)}"
        )
    if swapped:
        lines.append(
            f"{path}: width and height of {counted(len(swapped), 'image')} are swapped, and their annotations are"
            f" taken for those of the upright photo: {listed(swapped)}"
        )
    return lines


def _fits(annotation: Mapping[str, Any], size: Size) -> bool:
    """Tell whether an annotation lies within a frame, but for a pixel."""
    width, height = size
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict) and segmentation.get("size") not in (None, [height, width]):
        return False
    return all(x <= width + 1 and y <= height + 1 for x, y in _corners(annotation))


def _corners(annotation: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    """Yield the far corner of an annotation's box, and the points of its polygons."""
    box, segmentation = annotation.get("bbox"), annotation.get("segmentation")
    if isinstance(box, list) and len(box) == 4 and all(is_number(value) for value in box):
        yield box[0] + box[2], box[1] + box[3]
    for polygon in segmentation if isinstance(segmentation, list) else []:
        values = polygon if isinstance(polygon, list) else []
        if all(is_number(value) for value in values):
            yield from zip(values[0::2], values[1::2], strict=False)


def _turned(box: Box, frame: Frame) -> Box:
    """Return a box as it is in the upright photo."""
    x, y, width, height = box
    right, bottom = frame.size[0] - (x + width), frame.size[1] - (y + height)
    left, top = {5: (y, x), 6: (bottom, x), 7: (bottom, right), 8: (y, right)}[frame.orientation]
    return left, top, height, width
