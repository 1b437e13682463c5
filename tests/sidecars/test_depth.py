"""Depth maps as they are stored."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cuts3d_cli.errors import SampleError
from cuts3d_cli.sidecars.depth import decode_depth_png, encode_depth_png

NAN = float("nan")


def png(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", **options)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


class TestStoredMap:
    def test_levels(self) -> None:
        data = encode_depth_png(np.float32([[0.0, 1.0, NAN, 0.5]]))
        levels = np.asarray(Image.open(io.BytesIO(data)))
        assert levels.dtype == np.uint16
        np.testing.assert_array_equal(levels, [[1, 65535, 0, 32768]])

    def test_round_trip(self) -> None:
        depth = np.random.default_rng(0).random((61, 47), dtype=np.float32)
        depth[5:9, 3:30] = np.nan
        depth[0, :2] = 0.0, 1.0
        again = decode_depth_png(encode_depth_png(depth))
        assert again.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(again), np.isnan(depth))
        assert np.nanmax(np.abs(again.astype(np.float64) - depth)) <= 1 / 65534 / 2 + 2**-24
        assert again[0, 0] == 0.0
        assert again[0, 1] == 1.0

    def test_storing_twice_changes_nothing(self) -> None:
        depth = np.random.default_rng(1).random((20, 30), dtype=np.float32)
        once = encode_depth_png(depth)
        assert encode_depth_png(depth) == once
        assert encode_depth_png(decode_depth_png(once)) == once

    @pytest.mark.parametrize("depth", [[[-0.01]], [[1.01]], [[np.inf]], [0.5]])
    def test_only_normalised_maps_are_stored(self, depth: list) -> None:
        with pytest.raises(ValueError, match=r"in \[0, 1\]"):
            encode_depth_png(np.float32(depth))

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "is empty"),
            (b"not a png at all, but long enough to hold a header", "not a PNG"),
            (png(np.zeros((4, 4), np.uint8)), "8-bit gray PNG, not 16-bit gray: 256 levels"),
            (png(np.zeros((4, 4, 3), np.uint8)), "8-bit RGB PNG, not 16-bit gray: a depth map has one channel"),
            (png(np.zeros((4, 4, 4), np.uint8)), "RGB with alpha"),
            (png(np.arange(4096, dtype=np.uint16).reshape(64, 64))[:100], "cannot be decoded"),
        ],
        ids=["empty", "text", "8 bits", "RGB", "RGBA", "truncated"],
    )
    def test_refused(self, data: bytes, reason: str) -> None:
        with pytest.raises(SampleError, match=reason) as caught:
            decode_depth_png(data)
        assert "\n" not in str(caught.value)
