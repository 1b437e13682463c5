"""Depth maps: directions, holes, and what is stored."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cuts3d_cli.depth.maps import fill_holes, normalise
from cuts3d_cli.errors import SampleError
from cuts3d_cli.sidecars.depth import decode_depth_png, encode_depth_png
from cuts3d_cli.sidecars.photos import decode_sensor_npy, decode_sensor_png

NAN = float("nan")


def png(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", **options)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


class TestNormalise:
    def test_distance_keeps_its_direction(self) -> None:
        result = normalise(np.array([[2.0, 4.0], [3.0, 6.0]]), direction="distance", unit="metre")
        np.testing.assert_allclose(result.depth, [[0.0, 0.5], [0.25, 1.0]])
        assert (result.minimum, result.maximum) == (2.0, 6.0)
        assert result.depth.dtype == np.float32
        assert result.conversion == "depth = (distance - min) / (max - min)"

    def test_relative_disparity_is_flipped(self) -> None:
        result = normalise(np.array([[10.0, 20.0, 12.5]]), direction="disparity", unit="relative")
        np.testing.assert_allclose(result.depth, [[1.0, 0.0, 0.75]])
        assert (result.minimum, result.maximum) == (10.0, 20.0)
        assert result.conversion == "depth = 1 - (disparity - min) / (max - min)"

    def test_metric_disparity_is_inverted(self) -> None:
        result = normalise(np.array([[1.0, 0.5, 0.25]]), direction="disparity", unit="metre")  # 1 m, 2 m, 4 m
        np.testing.assert_allclose(result.depth, [[0.0, 1 / 3, 1.0]], rtol=1e-6)
        assert (result.minimum, result.maximum) == (0.25, 1.0)
        assert "1 / disparity" in result.conversion

    def test_metric_disparity_of_zero_or_less_is_missing(self) -> None:
        result = normalise(np.array([[0.0, -1.0, 1.0, 0.5, 5e-324]]), direction="disparity", unit="metre")
        np.testing.assert_array_equal(result.depth, np.float32([[NAN, NAN, 0.0, 1.0, NAN]]))

    def test_what_is_not_finite_is_missing(self) -> None:
        raw = np.array([[NAN, 1.0, np.inf], [3.0, -np.inf, 2.0]], dtype=np.float32)
        result = normalise(raw, direction="distance", unit="relative")
        np.testing.assert_array_equal(result.depth, np.float32([[NAN, 0.0, NAN], [1.0, NAN, 0.5]]))
        assert (result.minimum, result.maximum) == (1.0, 3.0)

    def test_zero_is_missing_only_for_sensors(self) -> None:
        raw = np.array([[0.0, 1.0, 2.0]])
        sensor = normalise(raw, direction="distance", unit="metre", zero_is_missing=True)
        np.testing.assert_array_equal(sensor.depth, np.float32([[NAN, 0.0, 1.0]]))
        network = normalise(raw, direction="distance", unit="metre")
        np.testing.assert_array_equal(network.depth, np.float32([[0.0, 0.5, 1.0]]))

    @pytest.mark.parametrize("direction", ["distance", "disparity"])
    @pytest.mark.parametrize("unit", ["metre", "relative"])
    def test_constant_map_is_zero_everywhere(self, direction: str, unit: str) -> None:
        result = normalise(np.array([[7.0, NAN], [7.0, 7.0]]), direction=direction, unit=unit)  # type: ignore[arg-type]
        np.testing.assert_array_equal(result.depth, np.float32([[0.0, NAN], [0.0, 0.0]]))
        assert (result.minimum, result.maximum) == (7.0, 7.0)

    @pytest.mark.parametrize("raw", [np.full((2, 3), NAN), np.full((2, 3), np.inf), np.zeros((0, 4))])
    def test_no_valid_pixel(self, raw: np.ndarray) -> None:
        with pytest.raises(SampleError, match="the depth map has no valid pixel"):
            normalise(raw, direction="distance", unit="metre")

    def test_all_zero_sensor_map_has_no_valid_pixel(self) -> None:
        with pytest.raises(SampleError, match="the depth map has no valid pixel"):
            normalise(np.zeros((2, 2)), direction="distance", unit="metre", zero_is_missing=True)

    def test_range_is_the_unit_interval_even_for_extreme_values(self) -> None:
        raw = np.array([[-3.4e38, 3.4e38, 0.0]], dtype=np.float32)
        depth = normalise(raw, direction="distance", unit="relative").depth
        np.testing.assert_allclose(depth, [[0.0, 1.0, 0.5]])

    def test_raw_map_is_left_alone(self) -> None:
        raw = np.array([[1.0, 2.0]], dtype=np.float32)
        normalise(raw, direction="disparity", unit="metre")
        np.testing.assert_array_equal(raw, [[1.0, 2.0]])


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


class TestSensor:
    def test_png_in_millimetres(self) -> None:
        metres = decode_sensor_png(png(np.array([[0, 1500, 65535]], np.uint16)), scale=0.001)
        np.testing.assert_allclose(metres, np.float32([[NAN, 1.5, 65.535]]))
        assert metres.dtype == np.float32

    def test_png_of_8_bits_is_refused(self) -> None:
        with pytest.raises(SampleError, match="256 levels are too few"):
            decode_sensor_png(png(np.zeros((4, 4), np.uint8)), scale=1.0)

    @pytest.mark.parametrize("scale", [0.0, -1.0, NAN, float("inf")])
    def test_scale_is_a_positive_number(self, scale: float) -> None:
        with pytest.raises(ValueError, match="scale"):
            decode_sensor_png(png(np.ones((4, 4), np.uint16)), scale=scale)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_npy(self, dtype: type) -> None:
        metres = decode_sensor_npy(npy(np.array([[0.0, 1.5], [NAN, np.inf], [-1.0, 2.0]], dtype)))
        np.testing.assert_array_equal(metres, np.float32([[NAN, 1.5], [NAN, NAN], [NAN, 2.0]]))
        assert metres.dtype == np.float32

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "not a whole .npy file"),
            (b"\x93NUMPY nonsense", "not a whole .npy file"),
            (npy(np.ones((8, 8)))[:-8], "not a whole .npy file"),
            (npy(np.array([[{"a": 1}]], dtype=object)), "not a whole .npy file"),
            (npy(np.ones((2, 2, 1))), r"shape \(2, 2, 1\)"),
            (npy(np.ones((2, 2), np.uint16)), "uint16, not floats in metres"),
        ],
        ids=["empty", "nonsense", "truncated", "pickle", "three dimensions", "integers"],
    )
    def test_npy_refused(self, data: bytes, reason: str) -> None:
        with pytest.raises(SampleError, match=reason) as caught:
            decode_sensor_npy(data)
        assert "\n" not in str(caught.value)


class TestFillHoles:
    def test_nearest_valid_pixel(self) -> None:
        depth = np.float32([[1.0, NAN, NAN, NAN, 5.0], [1.0, NAN, NAN, NAN, 5.0]])
        filled = fill_holes(depth)
        np.testing.assert_array_equal(filled[:, [0, 1, 3, 4]], [[1.0, 1.0, 5.0, 5.0]] * 2)
        assert np.isin(filled[:, 2], [1.0, 5.0]).all()  # A tie.
        np.testing.assert_array_equal(filled, fill_holes(depth))

    def test_euclidean_not_along_rows(self) -> None:
        depth = np.full((5, 5), NAN, dtype=np.float32)
        depth[0, 0], depth[2, 4] = 1.0, 2.0
        assert fill_holes(depth)[0, 3] == 2.0  # sqrt(5) from (2, 4), 3 from (0, 0).

    def test_no_hole_gives_a_copy(self) -> None:
        depth = np.float32([[1.0, 2.0]])
        filled = fill_holes(depth)
        np.testing.assert_array_equal(filled, depth)
        filled[0, 0] = 9.0
        assert depth[0, 0] == 1.0

    def test_valid_pixels_keep_their_value_and_dtype(self) -> None:
        rng = np.random.default_rng(2)
        depth = rng.random((30, 40), dtype=np.float32)
        depth[rng.random(depth.shape) < 0.7] = np.nan
        filled = fill_holes(depth)
        assert filled.dtype == np.float32
        assert np.isfinite(filled).all()
        valid = np.isfinite(depth)
        np.testing.assert_array_equal(filled[valid], depth[valid])
        assert set(filled[~valid]) <= set(depth[valid])

    def test_nothing_to_fill_from(self) -> None:
        with pytest.raises(SampleError, match="the depth map has no valid pixel"):
            fill_holes(np.full((3, 3), NAN, dtype=np.float32))
