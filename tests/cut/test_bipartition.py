import numpy as np
import pytest

from cuts3d_cli.cut.bipartition import bipartition, connected_component


def test_the_side_of_the_largest_entry_is_foreground():
    vector = np.array([[-0.1, -0.1, -0.1], [-0.1, 1.0, 0.8], [-0.1, -0.1, -0.1]])
    split = bipartition(vector.reshape(-1), (3, 3))
    assert split.mask.astype(int).tolist() == [[0, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert split.seed == 4


def test_the_sign_does_not_matter_for_the_side():
    vector = np.array([[0.1, 0.1, 0.1], [0.1, -1.0, -0.8], [0.1, 0.1, 0.1]])
    split = bipartition(vector.reshape(-1), (3, 3))
    assert split.mask.astype(int).tolist() == [[0, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert split.seed == 4


def test_a_side_with_three_corners_is_background():
    vector = np.array([[1.0, 0.9, 0.9], [0.9, -0.5, 0.9], [0.9, 0.9, -0.4]])
    split = bipartition(vector.reshape(-1), (3, 3))
    assert split.mask.astype(int).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert split.seed == 4  # farthest out on the other side


def test_two_corners_are_allowed():
    vector = np.array([[1.0, 0.9, -0.2], [0.9, -0.2, -0.2], [0.9, -0.2, -0.2]])
    assert bipartition(vector.reshape(-1), (3, 3)).mask.sum() == 4


def test_removed_nodes_take_part_in_nothing():
    vector = np.array([[1.0, 0.2, -0.1], [0.9, 0.1, -0.1]])
    removed = np.array([[True, False, False], [True, False, False]])
    split = bipartition(vector.reshape(-1), (2, 3), removed=removed)
    assert split.mask.astype(int).tolist() == [[0, 1, 0], [0, 1, 0]]  # mean over the rest is 0.025
    assert split.seed == 1


def test_nothing_to_split():
    assert bipartition(np.ones(4), (2, 2)) is None
    assert bipartition(np.arange(4.0) / 3, (2, 2), removed=np.ones((2, 2), dtype=bool)) is None


def test_component_is_four_connected():
    mask = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]], dtype=bool)
    assert connected_component(mask, 4).astype(int).tolist() == [[0, 0, 1], [0, 1, 1], [0, 0, 0]]
    assert connected_component(mask, 0).sum() == 1
    with pytest.raises(ValueError, match="outside"):
        connected_component(mask, 1)
