"""Depth maps: directions, and what is stored."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cuts3d_cli.depth.maps import normalise
from cuts3d_cli.errors import SampleError

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
