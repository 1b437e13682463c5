import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuts3d_cli.cut.background import border_contact


def test_contact_by_hand():
    mask = np.zeros((10, 10), dtype=bool)
    mask[6:, :] = True  # a floor: 10 along the bottom, 4 on either side
    assert border_contact(mask) == pytest.approx(18 / (2 * math.sqrt(math.pi * 40)))


def test_an_object_inside_has_none():
    mask = np.zeros((10, 10), dtype=bool)
    mask[3:6, 3:6] = True
    assert border_contact(mask) == 0.0


@given(st.integers(0, 2**16))
def test_it_is_the_same_turned_and_mirrored(seed: int):
    mask = np.random.default_rng(seed).random((7, 7)) < 0.4
    mask[3, 3] = True
    expected = pytest.approx(border_contact(mask))
    assert border_contact(mask[::-1]) == expected
    assert border_contact(mask.T) == expected
    assert border_contact(np.rot90(mask)) == expected
