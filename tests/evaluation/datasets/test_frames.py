from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from cuts3d_cli.cut.masks import decode_rle, encode_rle, rle_box
from cuts3d_cli.evaluation.datasets.files import photo_head
from cuts3d_cli.evaluation.datasets.frames import Frame, PhotoHead, frames_of
from cuts3d_cli.evaluation.metrics import Instance

STORED, UPRIGHT = (40, 20), (20, 40)
"""(width, height) of a photo as the sensor saw it, and turned."""
TURNED = PhotoHead(size=UPRIGHT, orientation=6)
SHORT = {"bbox": [1, 1, 5, 5]}
"""Fits both ways."""
WIDE, TALL = {"bbox": [1, 1, 35, 5]}, {"bbox": [1, 1, 5, 35]}


def frame_of(declared: tuple[int, int] | None, head: PhotoHead, *annotations: Any) -> Frame | None:
    return frames_of({1: declared}, {1: head}, {1: annotations})[1]


def encoded(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", STORED).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_head_of_a_photo_tells_its_upright_size(orientation: int):
    head = photo_head(encoded(orientation))
    assert head == PhotoHead(size=UPRIGHT if orientation > 4 else STORED, orientation=orientation)


@pytest.mark.parametrize("data", [b"", b"no photo", encoded(6)[:30]])
def test_a_damaged_head_tells_nothing(data: bytes):
    assert photo_head(data) == PhotoHead(size=None)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_and_boxes_are_turned_as_the_photo_is(orientation: int):
    mask = np.zeros((20, 40), dtype=bool)
    mask[3:9, 25:38] = True
    mask[3, 25] = False
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(buffer))) > 0
    if orientation < 5:  # the size is the same, and nothing tells that the annotations are in another frame
        expected = mask
    frame = Frame(size=STORED, orientation=orientation)
    item = frame.turned(Instance.of_mask(encode_rle(mask)))
    assert item.mask is not None
    np.testing.assert_array_equal(decode_rle(item.mask), expected)
    assert list(item.box) == rle_box(item.mask)
    assert frame.upright_size() == (expected.shape[1], expected.shape[0])


def test_what_fits_needs_no_thought():
    assert frame_of(UPRIGHT, PhotoHead(size=UPRIGHT, orientation=6), WIDE) == Frame(size=UPRIGHT)
    assert frame_of(UPRIGHT, PhotoHead(size=None)) == Frame(size=UPRIGHT)
    assert frame_of(None, PhotoHead(size=UPRIGHT)) == Frame(size=UPRIGHT)
    assert frame_of(None, PhotoHead(size=None)) is None
    assert frame_of((41, 20), TURNED) is None


POLYGON = {"segmentation": [[1, 1, 5, 1, 5, 38]]}
CODE = {"segmentation": {"size": [40, 20], "counts": []}}


@pytest.mark.parametrize(
    ("annotations", "frame"),
    [
        # The tool ignores EXIF: coordinates are the sensor's.
        ([WIDE], Frame(size=STORED, orientation=6)),
        ([SHORT], Frame(size=STORED, orientation=6)),
        ([], Frame(size=STORED, orientation=6)),
        # The tool shows the photo upright, and writes down the size of what is stored.
        ([TALL], Frame(size=UPRIGHT)),
        ([SHORT, TALL], Frame(size=UPRIGHT)),
        ([POLYGON], Frame(size=UPRIGHT)),
        ([CODE], Frame(size=UPRIGHT)),
        # Neither.
        ([WIDE, TALL], None),
        ([{"bbox": "x"}, None, {"segmentation": [None, "y", [1]]}], Frame(size=STORED, orientation=6)),
    ],
)
def test_annotations_tell_the_frame_of_a_photo_that_exif_turns(annotations: list[Any], frame: Frame | None):
    assert frame_of(STORED, TURNED, *annotations) == frame


@pytest.mark.parametrize(
    ("annotation", "frame"), [(TALL, Frame(size=UPRIGHT)), (SHORT, Frame(size=UPRIGHT)), (WIDE, None)]
)
def test_without_exif_width_and_height_are_a_mistake(annotation: Any, frame: Frame | None):
    assert frame_of(STORED, PhotoHead(size=UPRIGHT), annotation) == frame


def test_images_that_fit_both_ways_go_with_the_others():
    heads = dict.fromkeys(range(4), TURNED)
    annotations = {0: [SHORT], 1: [TALL], 2: [TALL], 3: [WIDE]}
    frames = frames_of(dict.fromkeys(range(4), STORED), heads, annotations)
    turned = Frame(size=STORED, orientation=6)
    assert frames == {0: Frame(size=UPRIGHT), 1: Frame(size=UPRIGHT), 2: Frame(size=UPRIGHT), 3: turned}
