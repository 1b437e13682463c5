"""Photos: which files are opened and by what, their orientation, and their pixels."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from cuts3d_cli.cli.inspect import describe
from cuts3d_cli.errors import Cuts3dError, DatasetError, SampleError
from cuts3d_cli.evaluation.datasets.files import photo_head
from cuts3d_cli.images import decode_image, decode_upright, exif_orientation, turned_upright, upright_rgb
from cuts3d_cli.inspection.viz import read_photo
from cuts3d_cli.sidecars.depth_files import read_depth_file
from cuts3d_cli.stages.listing import list_source
from tests.support.photos import packed

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 32 24
%%EndComments
0 0 moveto 32 24 lineto stroke
%%EOF
"""


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def oriented(orientation: int, *, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(PIXELS), kind, exif=exif)


def with_exif(exif: bytes) -> bytes:
    return encoded(Image.fromarray(PIXELS), exif=exif)


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_arrays_are_turned_as_photos_are(self, orientation: int) -> None:
        found = decode_upright(oriented(orientation))
        assert found.orientation == orientation
        np.testing.assert_array_equal(np.asarray(found.image), turned_upright(PIXELS, orientation))

    @pytest.mark.parametrize("orientation", [0, 9, 77])
    def test_unknown_ones_turn_nothing(self, orientation: int) -> None:
        assert decode_upright(oriented(orientation)).orientation == 1

    def test_a_photo_is_turned_once(self) -> None:
        image = decode_upright(oriented(6)).image
        assert upright_rgb(image).orientation == 1
        assert upright_rgb(image).image.size == (24, 32)

    def test_pixels_as_they_are_stored(self) -> None:
        np.testing.assert_array_equal(np.asarray(decode_image(oriented(6), upright=False)), PIXELS)

    @pytest.mark.parametrize("head", [b"Exif\0\0", b""], ids=["with the mark", "without"])
    def test_it_is_read_from_exif_that_does_not_parse(self, head: bytes) -> None:
        # The second entry says that its text is four gigabytes away; the directory ends before the third.
        broken = entry(0x010F, 2, 2**31, struct.pack("<I", 2**32 - 1))
        directory = struct.pack("<H", 3) + entry(0x0112, 3, 1, struct.pack("<H", 6)) + broken
        found = decode_upright(with_exif(head + b"II*\0" + struct.pack("<I", 8) + directory))
        assert (found.orientation, found.image.size) == (6, (24, 32))

    @pytest.mark.parametrize(
        "exif",
        [b"Exif\0\0", b"Exif\0\0II", b"Exif\0\0XX*\0\x08\0\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"junk" * 9],
        ids=["empty", "cut off", "no order", "lost", "junk"],
    )
    def test_a_photo_without_readable_exif_is_still_a_photo(self, exif: bytes) -> None:
        found = decode_upright(with_exif(exif))
        assert found.orientation == 1
        np.testing.assert_array_equal(np.asarray(found.image), PIXELS)

    def test_where_pillow_gives_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(self: Image.Image) -> Image.Exif:
            raise SyntaxError("not a TIFF file (header b'' not valid)")

        monkeypatch.setattr(Image.Image, "getexif", fail)
        image = Image.fromarray(PIXELS)
        image.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, 8, 0)
        assert exif_orientation(image) == 8


class TestKindsOfFiles:
    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "the image file is empty"),
            (encoded(Image.fromarray(PIXELS), "GIF"), "GIF files are not read: convert it to JPEG, PNG or WebP"),
            (encoded(Image.fromarray(PIXELS), "BMP"), "BMP files are not read"),
            (encoded(Image.fromarray(PIXELS), "TIFF"), "TIFF files are not read"),
            (encoded(Image.fromarray(PIXELS), "JPEG2000"), "JPEG 2000 files are not read"),
            (encoded(Image.fromarray(PIXELS), "PPM"), "PNM files are not read"),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC files are not read"),
            (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF files are not read"),
            (EPS, "PostScript files are not read"),
            (b"\n<!DOCTYPE html><html>404</html>", "it is a web page (HTML): download the file itself"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
                "it is a Git LFS pointer in place of the file: run `git lfs pull`",
            ),
            (
                b"\0\x05\x16\x07\0\x02\0\0Mac OS X",
                "it is an AppleDouble file, which macOS writes beside the photo: delete it",
            ),
            (b"hello" * 9, "this is not an image of a known format"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_is_not_read_is_called_by_its_name(self, data: bytes, reason: str) -> None:
        with pytest.raises(SampleError) as caught:
            decode_image(data)
        assert str(caught.value).startswith(reason)

    @pytest.mark.parametrize(
        "image",
        [
            Image.fromarray(PIXELS).convert("P"),
            Image.fromarray(PIXELS).convert("RGBA"),
            Image.fromarray(PIXELS).convert("LA"),
            Image.fromarray(PIXELS).convert("1"),
            Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257),
        ],
        ids=lambda image: image.mode,
    )
    def test_pngs_of_all_modes(self, image: Image.Image) -> None:
        found = decode_image(encoded(image))
        assert (found.mode, found.size) == ("RGB", (32, 24))

    def test_a_palette_with_transparency(self) -> None:
        image = Image.fromarray(PIXELS).convert("P")
        assert decode_image(encoded(image, transparency=0)).mode == "RGB"

    def test_jpegs_in_cmyk_and_of_several_pictures(self) -> None:
        photo = Image.fromarray(PIXELS)
        assert decode_image(encoded(photo.convert("CMYK"), "JPEG")).mode == "RGB"
        several = encoded(photo, "MPO", save_all=True, append_images=[photo.transpose(Image.Transpose.ROTATE_180)])
        np.testing.assert_array_equal(
            np.asarray(decode_image(several)), np.asarray(decode_image(encoded(photo, "JPEG")))
        )

    @pytest.mark.parametrize("kind", ["WEBP", "PNG"])
    def test_of_an_animation_the_first_image_is_taken(self, kind: str) -> None:
        first, second = Image.new("RGB", (32, 24), "red"), Image.new("RGB", (32, 24), "blue")
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(first, kind, save_all=True, append_images=[second], **options)
        assert decode_image(data).getpixel((5, 5)) == (255, 0, 0)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a stand-in for Ghostscript writes when it is started."""
    mark, program = tmp_path / "started", tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho started >> '{mark}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return mark


def test_the_stand_in_for_ghostscript_works(started: Path) -> None:
    with suppress(OSError), Image.open(io.BytesIO(EPS)) as image:
        image.load()  # it makes no picture
    assert started.exists()


OPENERS: dict[str, Callable[[Path], object]] = {
    "a photo": lambda path: decode_image(path.read_bytes()),
    "a photo to draw": lambda path: read_photo(path, max_pixels=10**6),
    "a depth map": lambda path: read_depth_file(path.read_bytes()),
}


@pytest.mark.parametrize("place", OPENERS)
def test_no_photo_starts_a_program(place: str, started: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(EPS)
    with pytest.raises((SampleError, DatasetError, Cuts3dError)):
        OPENERS[place](path)
    assert not started.exists()


def test_nor_does_looking_at_the_head_of_one(started: Path) -> None:
    assert photo_head(EPS).size is None
    assert not started.exists()


def test_nor_does_packing_or_showing_one(started: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(EPS)
    (photos / "b").write_bytes(EPS)
    assert [photo.problem for photo in list_source(photos, images=None).photos] == [
        None,
        "PostScript files are not read: convert it to JPEG, PNG or WebP",
    ]
    assert packed(photos, tmp_path / "out").count("failed") == 2
    assert "damaged" in describe("jpg", EPS)
    assert not started.exists()


def with_entries(entries: dict[int, object], *, size: tuple[int, int] = (40, 30), orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769).update(entries)
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({0xA405: 26}, 26.0),
        ({0xA405: 26, 0xA002: 4000, 0xA003: 3000}, 26.0),
        ({0xA405: 26, 0xA002: 3000, 0xA003: 4000}, 26.0),  # of the upright image
        ({0xA405: 26, 0xA002: 4000, 0xA003: 2250}, None),  # cropped since
        ({0xA405: 26, 0xA002: 0, 0xA003: 0}, 26.0),
        ({0xA405: 0}, None),
        ({0xA405: "26 mm"}, None),
        ({0xA405: b"\xff\xff"}, None),
        ({0x920A: 4.2}, None),
        ({}, None),
    ],
)
def test_the_focal_length_in_exif_data(entries: dict[int, object], expected: float | None):
    for orientation in (1, 6):
        photo = decode_upright(with_entries(entries, orientation=orientation))
        assert (photo.focal_35mm, photo.orientation) == (expected, orientation)


def test_damaged_exif_data_give_no_focal_length_and_break_no_photo():
    whole = with_entries({0xA405: 26})
    start = whole.index(b"Exif\0\0") + 6
    end = start - 8 + int.from_bytes(whole[start - 8 : start - 6], "big")
    damaged, lengths = 0, set()
    for place in range(start, end):
        for value in (0x00, 0xFF):
            data = whole[:place] + bytes([value]) + whole[place + 1 :]
            lengths.add(decode_upright(data).focal_35mm)
            damaged += data != whole
    assert damaged > 2 * (end - start) * 0.6
    assert {26.0, None} <= lengths
