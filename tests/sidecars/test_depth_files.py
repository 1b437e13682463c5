"""Depth maps in the files of the formats that people have."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.depth.fitting import MapRules, fit_map
from cuts3d_cli.errors import SampleError
from cuts3d_cli.images import Upright
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.depth_files import as_sensor_file, read_depth_file
from cuts3d_cli.sidecars.photos import FACTS, encode, sensor_map

UNITS = np.arange(1000, 1000 + 24 * 32, dtype=np.uint16).reshape(24, 32)
METRES = UNITS.astype(np.float32) / 1000
PHOTO = Image.new("RGB", (32, 24))


def image(array: NDArray[np.generic], kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def npy(array: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(compressed: bool = True, **arrays: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def pfm(array: NDArray[np.float32], *, order: str = "<") -> bytes:
    head = f"Pf\n{array.shape[1]} {array.shape[0]}\n{-1.0 if order == '<' else 1.0}\n".encode()
    return head + np.ascontiguousarray(array[::-1]).astype(f"{order}f4").tobytes()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (image(UNITS, "PNG"), UNITS),
        (image(UNITS, "TIFF"), UNITS),
        (image(UNITS, "TIFF", compression="tiff_lzw"), UNITS),
        (image(UNITS.astype(np.int32), "TIFF"), UNITS.astype(np.int32)),
        (image(METRES, "TIFF"), METRES),
        (image(METRES, "TIFF", compression="tiff_deflate"), METRES),
        (npy(METRES), METRES),
        (npy(METRES[..., None]), METRES),
        (npy(METRES[None].astype(">f8")), METRES),
        (npy(np.asfortranarray(METRES)), METRES),
        (npy(UNITS), UNITS),
        (npz(depth=METRES), METRES),
        (npz(compressed=False, anything=METRES), METRES),
        (npz(mask=UNITS > 0, depth=METRES), METRES),
        (npz(arr_0=UNITS, arr_1=UNITS + 1), UNITS),
        (pfm(METRES), METRES),
        (pfm(METRES, order=">"), METRES),
    ],
    ids=range(17),
)
def test_maps_are_read(data: bytes, expected: NDArray[np.generic]) -> None:
    found = read_depth_file(data)
    np.testing.assert_array_equal(found.values, expected)
    assert found.is_metric == (expected.dtype.kind == "f")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the depth map is empty"),
        (b"hello", "the depth map is a file of an unknown kind: maps are read from 16-bit PNG"),
        (image(UNITS.astype(np.uint8), "PNG"), "256 levels are too few"),
        (image(np.zeros((24, 32, 3), np.uint8), "PNG"), "a depth map has one channel"),
        (image(UNITS.astype(np.uint8), "JPEG"), "the depth map is a JPEG, whose 256 levels are too few"),
        (image(UNITS.astype(np.uint8), "TIFF"), "mode L: a depth map has one channel of 16 or 32 bits"),
        (image(UNITS, "TIFF", save_all=True, append_images=[Image.fromarray(UNITS)]), "has 2 pages: a map is one"),
        (image(UNITS, "TIFF")[:100], "the depth map cannot be decoded"),
        (image(UNITS, "PNG")[:-30], "the depth map cannot be decoded"),
        (b"\x76\x2f\x31\x01\x02\0\0\0", "OpenEXR file, which is not read: convert it to .npy or a 32-bit TIFF"),
        (npy(METRES)[:-8], "not a whole .npy file of numbers"),
        (npy(np.array([{}], dtype=object)), "not a whole .npy file of numbers: it holds Python objects"),
        (npy(np.ones((2, 4, 6))), r"the depth map is an array of float64 of shape \(2, 4, 6\)"),
        (npz(a=METRES, b=METRES), "holds the arrays a, b: name one of them depth"),
        (npz(), "holds no array"),
        (npz(depth=np.array([{}], dtype=object)), "array 'depth' of the depth map is not a whole .npy file of numbers"),
        (npz(depth=METRES)[:200], "not a whole .npz file"),
        (pfm(METRES)[:100], "the depth map cannot be decoded"),
    ],
    ids=range(18),
)
def test_what_is_no_map_is_told(data: bytes, reason: str) -> None:
    with pytest.raises(SampleError, match=reason) as caught:
        read_depth_file(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [image(UNITS, "PNG"), image(UNITS, "TIFF"), npy(METRES), npz(a=METRES), pfm(METRES)])
def test_large_maps_are_refused(data: bytes) -> None:
    with pytest.raises(SampleError, match="has 32x24 pixels, more than 700"):
        read_depth_file(data, max_pixels=700)


def test_an_archive_is_not_unpacked_before_its_size_is_known() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", bytes(10**6))
    with pytest.raises(SampleError, match="has 1000000 bytes, more than"):
        read_depth_file(buffer.getvalue(), max_pixels=1000)


def stored(data: bytes, *, orientation: int = 1, invalid: tuple[float, ...] | None = None) -> dict[str, bytes]:
    """What a base shard holds of a map."""
    found = read_depth_file(data)
    rules = MapRules(invalid=invalid, orientation="stored")
    fitted = fit_map(found.values, Upright(PHOTO, orientation), rules=rules)
    sensor = as_sensor_file(data, found, fitted, scale=0.002, named=invalid is not None)
    return encode(b"", extension="jpg", id=1, source="a.jpg", size=(24, 32), sensor=sensor)


@pytest.mark.parametrize(
    ("data", "member", "metres"),
    [
        (image(UNITS, "PNG"), "sensor.png", UNITS * 0.002),
        (image(UNITS, "TIFF"), "sensor.png", UNITS * 0.002),
        (image(UNITS.astype(np.int32), "TIFF"), "sensor.npy", UNITS * 0.002),
        (npy(METRES), "sensor.npy", METRES),
        (npy(METRES[..., None]), "sensor.npy", METRES),
        (npy(UNITS), "sensor.png", UNITS * 0.002),
        (npz(depth=METRES), "sensor.npy", METRES),
        (pfm(METRES), "sensor.npy", METRES),
    ],
    ids=range(8),
)
def test_a_shard_holds_the_file_where_it_can_and_else_the_same_map(
    data: bytes, member: str, metres: NDArray[np.floating]
) -> None:
    members = stored(data)
    assert sorted(members) == [FACTS, "jpg", member]
    np.testing.assert_allclose(sensor_map(Sample(key="a", members=members)).metres, metres, rtol=1e-6)
    if data.startswith(b"\x89PNG") or (data.startswith(b"\x93NUMPY") and read_depth_file(data).member):
        assert members[member] == data
    turned = sensor_map(Sample(key="a", members=stored(data, orientation=3))).metres
    np.testing.assert_allclose(turned, metres[::-1, ::-1], rtol=1e-6)


def test_a_shard_says_what_is_missing() -> None:
    marked = UNITS.copy()
    marked[:3, :3] = 65535
    for data in (image(marked, "PNG"), image(marked, "TIFF"), npy(marked.astype(np.int32))):
        found = sensor_map(Sample(key="a", members=stored(data)))
        np.testing.assert_array_equal(np.isnan(found.metres), marked == 65535)
        assert b'"missing": [65535.0]' in stored(data)[FACTS]
        # Where the value is a distance, the automatic rule is not asked again.
        kept = sensor_map(Sample(key="a", members=stored(data, invalid=(0.0,))))
        assert not np.isnan(kept.metres).any()
    assert b"missing" not in stored(image(UNITS, "PNG"))[FACTS]
