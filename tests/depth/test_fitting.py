"""Depth maps beside their photos: aspect ratio, EXIF orientation, and what the edges tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.depth.fitting import MapRules, TurnedMapError, as_map, fit_map, remarks
from cuts3d_cli.depth.orientation import edge_agreement, is_surely_better
from cuts3d_cli.errors import SampleError, SettingError
from cuts3d_cli.images import Upright, turned_upright

STORED = MapRules(orientation="stored")
UPRIGHT = MapRules(orientation="upright")


def scene(width: int = 160, height: int = 120) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Boxes of several colours and distances before a wall, lying as a person sees them; no two sides are alike."""
    generator = np.random.default_rng(3)
    image = np.full((height, width, 3), (40, 90, 160), np.float64)
    depth = np.full((height, width), 4000, np.uint16)
    boxes = [(8, 30, 10, 50, 1200), (40, 90, 20, 60, 1900), (60, 110, 70, 100, 900), (10, 50, 80, 110, 2600)]
    for number, (top, bottom, left, right, distance) in enumerate(boxes):
        depth[top:bottom, left:right] = distance
        image[top:bottom, left:right] = (200 - 40 * number, 60 + 40 * number, 40)
    return np.clip(image + generator.normal(0, 6, image.shape), 0, 255).astype(np.uint8), depth


def before(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Values as they lie before EXIF turns them."""
    return turned_upright(values, {6: 8, 8: 6}.get(orientation, orientation))


def photo(orientation: int, pixels: NDArray[np.uint8]) -> Upright:
    return Upright(Image.fromarray(pixels), orientation)


@pytest.mark.parametrize("side", [(160, 120), (120, 120)], ids=["oblong", "square"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_edges_tell_how_a_map_lies(orientation: int, side: tuple[int, int]) -> None:
    pixels, depth = scene(*side)
    stored = fit_map(before(depth, orientation), photo(orientation, pixels), rules=MapRules())
    assert stored.turn == "turned"
    np.testing.assert_array_equal(stored.values, depth)
    upright = fit_map(depth, photo(orientation, pixels), rules=MapRules())
    assert upright.turn == "none"
    np.testing.assert_array_equal(upright.values, depth)


def test_a_photo_that_is_stored_upright_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cuts3d_cli.depth.fitting.edge_agreement", None)
    pixels, depth = scene()
    for rules in (MapRules(), STORED, UPRIGHT):
        assert fit_map(depth[::-1], photo(1, pixels), rules=rules).turn == "none"


def test_where_the_edges_do_not_tell_the_map_is_taken_as_upright_and_it_is_said() -> None:
    pixels, depth = scene()
    flat = np.full_like(pixels, 90)
    fitted = fit_map(depth, photo(3, flat), rules=MapRules())
    assert fitted.turn == "unsure"
    np.testing.assert_array_equal(fitted.values, depth)
    said = [str(line) for line in remarks(fitted, rules=MapRules())]
    assert any("EXIF turns the photo" in line and "depth_orientation='stored' turns it along" in line for line in said)


def test_what_was_asked_for_is_done_without_a_look_at_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cuts3d_cli.depth.fitting.edge_agreement", None)
    pixels, depth = scene()
    np.testing.assert_array_equal(fit_map(depth[::-1, ::-1], photo(3, pixels), rules=STORED).values, depth)
    np.testing.assert_array_equal(fit_map(depth[::-1], photo(3, pixels), rules=UPRIGHT).values, depth[::-1])
    missing = fit_map(np.where(depth == 900, 0, depth)[::-1, ::-1], photo(3, pixels), rules=STORED).missing
    np.testing.assert_array_equal(missing.pixels, depth == 900)


@pytest.mark.parametrize("rules", [MapRules(), UPRIGHT], ids=["auto", "upright"])
def test_a_map_that_fits_before_the_turn_alone_names_exif(rules: MapRules) -> None:
    pixels, depth = scene()
    flat = photo(6, np.full_like(pixels, 90))
    with pytest.raises(
        TurnedMapError, match=r"is 120x160, the upright photo 160x120: .* before its EXIF orientation 6"
    ):
        fit_map(before(depth, 6), flat, rules=rules)


@pytest.mark.parametrize(
    ("orientation", "rules", "reason"),
    [
        (1, MapRules(), "they differ in aspect ratio"),
        (3, MapRules(), "they differ in aspect ratio"),
        (1, STORED, "they differ in aspect ratio"),
        (3, UPRIGHT, "they differ in aspect ratio"),
    ],
)
def test_another_aspect_ratio(orientation: int, rules: MapRules, reason: str) -> None:
    pixels, depth = scene()
    with pytest.raises(SampleError, match=f"is 160x90, the upright photo 160x120: {reason}") as caught:
        fit_map(depth[:90], photo(orientation, pixels), rules=rules)
    assert not isinstance(caught.value, TurnedMapError)


def test_a_map_that_fits_after_the_turn_alone() -> None:
    pixels, depth = scene()
    with pytest.raises(SampleError, match="only after its EXIF orientation 6 has turned it"):
        fit_map(depth, photo(6, pixels), rules=STORED)


def test_values_are_named() -> None:
    pixels, depth = scene()
    marked = np.where(depth == 900, 65535, depth).astype(np.uint16)
    rules = MapRules()
    fitted = fit_map(marked, photo(1, pixels), rules=rules)
    said = [str(line) for line in remarks(fitted, rules=rules)]
    assert said[0] == "the depth map: 65535 is taken as 'not measured'; if it is a distance, give depth_invalid='0'"
    share = "76.9 % of the measured pixels have its largest value, 4000"
    assert said[1] == f"the depth map: {share}; if that means 'not measured', give depth_invalid='4000'"
    named = MapRules(invalid=(65535.0,))
    assert remarks(fit_map(marked, photo(1, pixels), rules=named), rules=named) == []
    np.testing.assert_array_equal(np.isnan(fitted.measured(scale=0.001)), depth == 900)


def test_rules_of_settings() -> None:
    assert MapRules.of(invalid="auto", orientation="auto") == MapRules()
    assert MapRules.of(invalid="7,8", orientation="stored") == MapRules(invalid=(7.0, 8.0), orientation="stored")
    with pytest.raises(SettingError, match=r"pack\.depth_orientation is 'left': choose one of auto, upright, stored"):
        MapRules.of(invalid="auto", orientation="left", section="pack.")


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (1, 4, 6)])
def test_an_axis_of_one_channel_goes(shape: tuple[int, ...]) -> None:
    assert as_map(np.ones(shape)).shape == (4, 6)


@pytest.mark.parametrize(
    "values", [np.ones(4), np.ones((2, 4, 6)), np.ones((0, 4)), np.ones((2, 2), complex), np.array([["a"]])]
)
def test_what_is_no_map(values: NDArray[Any]) -> None:
    with pytest.raises(SampleError, match=r"is an array of .*: give \(h, w\) of numbers"):
        as_map(values)


def test_maps_without_edges_agree_with_nothing() -> None:
    pixels, depth = scene()
    assert edge_agreement(pixels, np.full((120, 160), np.nan)) == 0.0
    assert not is_surely_better(edge_agreement(pixels, np.full((120, 160), 2.0)), 0.0)
    assert not is_surely_better(edge_agreement(np.full_like(pixels, 9), depth.astype(np.float32)), 0.0)


def test_edges_of_real_photos_never_tell_the_wrong_way(test_data: Path) -> None:
    decided = 0
    for path in sorted((test_data / "mosd/images").iterdir())[:4]:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        raw = np.asarray(Image.open(test_data / "mosd/depth" / f"{path.stem}.png")).astype(np.float32)
        depth = np.where(raw > 0, raw, np.nan)
        right, wrong = edge_agreement(pixels, depth), edge_agreement(pixels, depth[::-1, ::-1])
        assert not is_surely_better(wrong, right)
        decided += is_surely_better(right, wrong)
    assert decided
