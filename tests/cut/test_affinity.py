import numpy as np
import pytest

from cuts3d_cli.cut.affinity import binarise, cosine_affinity, without_nodes
from cuts3d_cli.errors import SampleError


def test_cosine_of_known_vectors():
    features = np.array([[[1.0, 1.0, -1.0, 0.0]], [[0.0, 1.0, 0.0, 2.0]]])  # (2, 1, 4)
    half = np.sqrt(0.5)
    expected = [[1, half, 0, 0], [half, 1, 0, half], [0, 0, 1, 0], [0, half, 0, 1]]  # negative cosines are 0
    np.testing.assert_allclose(cosine_affinity(features), expected, atol=1e-6)


def test_scale_of_a_vector_does_not_matter():
    features = np.random.default_rng(0).normal(size=(5, 3, 4))
    scales = np.random.default_rng(1).uniform(0.1, 10, size=(1, 3, 4))
    np.testing.assert_allclose(cosine_affinity(features), cosine_affinity(features * scales), atol=1e-5)


def test_a_zero_vector_is_similar_to_nothing():
    features = np.ones((2, 1, 3))
    features[:, 0, 1] = 0
    affinity = cosine_affinity(features)
    assert not affinity[1].any()
    assert not affinity[:, 1].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_fail_the_sample(bad: float):
    features = np.ones((2, 2, 2))
    features[0, 0, 0] = bad
    with pytest.raises(SampleError, match="NaN or infinite"):
        cosine_affinity(features)


def test_all_zero_features_fail_the_sample():
    with pytest.raises(SampleError, match="all zero"):
        cosine_affinity(np.zeros((2, 2, 2)))


def test_threshold_is_strict():
    affinity = np.array([[0.5, 0.50001], [0.49999, 0.0]], dtype=np.float32)
    assert binarise(affinity, tau_ncut=0.5).tolist() == [[False, True], [False, False]]


def test_removed_nodes_lose_all_edges_even_to_themselves():
    edges = np.ones((3, 3), dtype=bool)
    left = without_nodes(edges, np.array([False, True, False]))
    assert left.tolist() == [[True, False, True], [False, False, False], [True, False, True]]
    assert edges.all()  # the input is not changed
