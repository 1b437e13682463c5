from __future__ import annotations

import itertools

import numpy as np
import pytest

from cuts3d_cli.figures.palette import instance_colours, relative_luminance, text_on


def test_colours_keep_their_place_and_never_repeat() -> None:
    many = instance_colours(40)
    assert len(set(many)) == 40
    for count in (0, 1, 7, 8, 20):
        assert instance_colours(count) == many[:count]
    assert all(0 <= channel <= 255 for colour in many for channel in colour)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        instance_colours(-1)


def _deuteranopia(colour: tuple[int, int, int]) -> np.ndarray:
    """Machado, Oliveira and Fernandes 2009, severity 1, on linear light."""
    matrix = np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    )
    linear = matrix @ ((np.array(colour) / 255) ** 2.2)
    return 255 * np.clip(linear, 0, 1) ** (1 / 2.2)


def test_the_first_colours_are_told_apart_with_and_without_green() -> None:
    colours = instance_colours(7)
    for first, second in itertools.combinations(colours, 2):
        assert np.abs(np.subtract(first, second)).max() >= 40
        assert np.abs(_deuteranopia(first) - _deuteranopia(second)).max() >= 20


def test_text_is_readable_on_every_colour() -> None:
    for colour in [*instance_colours(30), (0, 0, 0), (255, 255, 255)]:
        bright, dark = sorted((relative_luminance(colour), relative_luminance(text_on(colour))), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_luminance_of_the_ends() -> None:
    assert relative_luminance((255, 255, 255)) == pytest.approx(1)
    assert relative_luminance((0, 0, 0)) == 0
