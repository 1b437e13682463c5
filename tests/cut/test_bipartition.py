import numpy as np
import pytest

from cuts3d_cli.cut.bipartition import bipartition, connected_component, core


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


def test_the_core_by_hand():
    vector = np.array([[1.0, 0.9, 0.5, -0.3], [0.8, 0.4, 0.95, -0.3], [-0.3, -0.3, -0.3, -0.3]])
    split = bipartition(vector.reshape(-1), (3, 4))
    assert split.mask.sum() == 6
    # 2 of 6 are 1.0 and 0.95, which do not touch; 4 of 6 go down to 0.8, and 0.95 is still apart.
    for share, expected in (
        (0.0, [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),
        (0.3, [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),
        (4 / 6, [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]),
        (1.0, [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]),
    ):
        assert core(split, share=share).astype(int).tolist() == expected, share


def test_the_core_lies_on_the_foregrounds_side_whatever_the_sign():
    # Three corners of the largest entries: the foreground is the other side, its outermost entries the lowest.
    vector = np.array([[1.0, 0.9, 0.9], [0.9, -0.5, -0.4], [0.9, 0.9, 0.8]])
    split = bipartition(vector.reshape(-1), (3, 3))
    np.testing.assert_array_equal(split.outward, -vector)
    assert core(split, share=0.5).reshape(-1).nonzero()[0].tolist() == [split.seed] == [4]
    assert core(split, share=1.0).sum() == 2


def test_equal_entries_are_in_the_core_together():
    vector = np.array([[1.0, 1.0 - 1e-9, 0.2, -1.0]])
    split = bipartition(np.tile(vector, (2, 1)).reshape(-1), (2, 4))
    assert core(split, share=0.01).astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
