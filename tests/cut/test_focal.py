"""The focal length of a photo, and what the point cloud in perspective makes of it: known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cuts3d_cli.cut.cloud import perspective_cloud
from cuts3d_cli.cut.focal import DEFAULT_FOCAL, Focal, in_pixels, seen_by
from cuts3d_cli.cut.perspective import in_perspective
from tests.support.clouds import cut_settings

GRID = (12, 16)
SETTINGS = cut_settings(cloud="perspective", concavity=0.02, tau_knn="auto", planes=0.15, parts=2)
DISTANCE = 1.0 + np.add.outer(np.linspace(0, 0.5, 48), np.linspace(0, 1, 64))


def test_pixels_and_shares():
    focal = in_pixels(320.0, 480.0, size=(480, 640), source="intrinsics")
    assert (focal.x, focal.y, focal.longer) == (0.5, 1.0, 0.5)


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (500, 500)])
def test_square_pixels_give_the_focal_length_of_the_longer_side(size: tuple[int, int]):
    focal = in_pixels(500.0, 500.0, size=size, source="exif")
    assert focal.longer == pytest.approx(500 / max(size))
    longer, seen = seen_by(focal, size=(1, 1), settings=SETTINGS)
    assert longer == focal.longer
    assert seen[0] / seen[1] == pytest.approx(size[0] / size[1])


@pytest.mark.parametrize("fx", [0.0, -1.0, math.nan, math.inf, 4.2, 100.0, 1e6])
def test_what_no_lens_has_is_refused(fx: float):
    with pytest.raises(ValueError, match="has a focal length of"):
        in_pixels(fx, fx, size=(480, 640), source="intrinsics")


def test_the_setting_goes_before_what_is_known_and_this_before_the_default():
    own = in_pixels(1280.0, 1280.0, size=(480, 640), source="intrinsics")
    size = (480, 640)
    assert seen_by(own, size=size, settings=cut_settings(focal=0.7)) == (0.7, size)
    assert seen_by(own, size=size, settings=cut_settings())[0] == 2.0
    assert seen_by(None, size=size, settings=cut_settings()) == (DEFAULT_FOCAL, size)


def points(own: Focal | None, **changes: object) -> np.ndarray:
    view = in_perspective(DISTANCE, grid=GRID, settings=cut_settings(cloud="perspective", **changes), focal=own)
    assert view is not None
    return view.points


def test_a_known_length_gives_the_cloud_of_the_same_setting():
    own = in_pixels(1000.0, 1000.0, size=(480, 640), source="intrinsics")
    np.testing.assert_allclose(points(own), points(None, focal=1000 / 640), rtol=1e-12)
    assert not np.allclose(points(own), points(None))
    np.testing.assert_array_equal(points(own, focal=0.8), points(None, focal=0.8))


def test_a_photo_and_its_camera_enlarged_together_are_the_same():
    small = in_pixels(533.0, 533.0, size=(480, 640), source="intrinsics")
    large = in_pixels(3 * 533.0, 3 * 533.0, size=(3 * 480, 3 * 640), source="intrinsics")
    np.testing.assert_allclose(points(small), points(large), rtol=1e-12)


def test_pixels_that_are_not_square():
    """A photo squeezed to half its width by a scanner shows the scene of the whole one: the cloud is the same."""
    whole = in_pixels(600.0, 600.0, size=(480, 640), source="intrinsics")
    squeezed = in_pixels(300.0, 600.0, size=(480, 320), source="intrinsics")
    kept = cut_settings(cloud="perspective")
    one = in_perspective(DISTANCE, grid=GRID, settings=kept, focal=whole)
    other = in_perspective(DISTANCE[:, ::2], grid=GRID, settings=kept, focal=squeezed)
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one.points[..., :2], other.points[..., :2], rtol=1e-12)


def test_slopes_are_those_of_the_scene():
    """A plane tilted by 45 degrees about the vertical axis has the slope 1 in the middle, with any camera."""
    for fx, fy in ((400.0, 400.0), (900.0, 900.0), (400.0, 600.0)):
        across = (np.arange(640) + 0.5 - 320) / fx
        distance = np.broadcast_to(2.0 / (1.0 - across), (480, 640))
        focal = in_pixels(fx, fy, size=(480, 640), source="intrinsics")
        length, seen = seen_by(focal, size=(480, 640), settings=cut_settings())
        cloud = perspective_cloud(distance, size=seen, focal=length)
        step = cloud[240, 321] - cloud[240, 319]
        assert step[2] / step[0] == pytest.approx(1.0, rel=0.01)
        down = cloud[241, 320] - cloud[239, 320]
        assert down[1] / (2 / fy) == pytest.approx(step[0] / (2 / fx), rel=0.01)


def test_what_a_cloud_was_made_with_goes_along():
    own = in_pixels(1000.0, 1000.0, size=(480, 640), source="exif")
    for settings, expected in ((SETTINGS, own), (cut_settings(cloud="perspective", focal=0.9), None)):
        view = in_perspective(DISTANCE, grid=GRID, settings=settings, focal=own)
        assert view is not None
        assert view.focal == expected
