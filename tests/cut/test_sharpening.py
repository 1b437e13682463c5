import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts3d_cli.cut.affinity import binarise
from cuts3d_cli.cut.sharpening import pair_importance, sharpen, sharpened_edges, spatial_importance


def test_importance_spans_beta_to_one_and_peaks_at_the_step():
    depth = np.zeros((8, 8))
    depth[:, 4:] = 1.0
    importance = spatial_importance(depth, sigma=1.0, beta=0.45)
    assert importance.min() == pytest.approx(0.45)
    assert importance.max() == pytest.approx(1.0)
    assert set(np.argmax(importance, axis=1)) <= {3, 4}
    np.testing.assert_allclose(importance, importance[:, ::-1], atol=1e-6)  # the step looks alike from both sides


def test_importance_by_hand():
    # A Gaussian of sigma 1 cut off at 4 sigma, on an impulse in 1D: the result is its weights, less the impulse.
    weights = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    weights /= weights.sum()
    depth = np.zeros((1, 11))
    depth[0, 5] = 1.0
    difference = np.abs(np.r_[0, weights, 0] - depth[0])
    expected = 0.55 * (difference - difference.min()) / (difference.max() - difference.min()) + 0.45
    np.testing.assert_allclose(spatial_importance(depth, sigma=1.0, beta=0.45)[0], expected, atol=1e-6)


def test_constant_depth_has_no_important_place():
    assert np.all(spatial_importance(np.full((5, 5), 0.3), sigma=1.0, beta=0.45) == np.float32(0.45))


def test_importance_does_not_depend_on_the_scale_of_depth():
    depth = np.random.default_rng(0).random((6, 6))
    first = spatial_importance(depth, sigma=1.0, beta=0.3)
    np.testing.assert_allclose(first, spatial_importance(0.1 + 0.5 * depth, sigma=1.0, beta=0.3), atol=1e-5)


@pytest.mark.parametrize(("pairing", "value"), [("mean", 0.7), ("max", 0.9), ("min", 0.5), ("product", 0.45)])
def test_pairs_by_hand(pairing: str, value: float):
    pairs = pair_importance(np.array([[0.5, 0.9]], dtype=np.float32), pairing=pairing)
    assert pairs[0, 1] == pytest.approx(value)
    assert pairs[1, 0] == pairs[0, 1]


def test_sharpening_by_hand():
    affinity = np.array([[1.0, 0.25], [0.25, 1.0]], dtype=np.float32)
    sharpened = sharpen(affinity, np.array([[0.5, 0.5]], dtype=np.float32), pairing="mean")
    np.testing.assert_allclose(sharpened, [[1.0, 0.5], [0.5, 1.0]])  # 0.25 ^ (1 - 0.5)


def test_exponent_zero_makes_edges_one_but_leaves_zero_zero():
    affinity = np.array([[1.0, 0.2, 0.0], [0.2, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)
    sharpened = sharpen(affinity, np.ones((1, 3), dtype=np.float32), pairing="max")
    assert sharpened.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_sharpening_is_symmetric_and_never_lowers():
    generator = np.random.default_rng(0)
    affinity = generator.random((9, 9)).astype(np.float32)
    affinity = (affinity + affinity.T) / 2
    for pairing in ("mean", "max", "min", "product"):
        sharpened = sharpen(affinity, generator.random((3, 3)).astype(np.float32), pairing=pairing)
        np.testing.assert_array_equal(sharpened, sharpened.T)
        assert np.all(sharpened >= affinity - 1e-6)
        assert sharpened.max() <= 1.0


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["mean", "max", "min", "product"]),
    st.floats(0.0, 0.99),
    st.floats(0.0, 1.0),
)
def test_edges_in_one_step_equal_sharpening_and_binarising(seed: int, pairing: str, tau: float, beta: float):
    generator = np.random.default_rng(seed)
    affinity = generator.choice([0.0, 1.0, tau], (12, 12)).astype(np.float32)
    affinity = np.where(generator.random((12, 12)) < 0.8, generator.random((12, 12)), affinity).astype(np.float32)
    affinity = np.maximum(affinity, affinity.T)
    importance = spatial_importance(generator.random((3, 4)), sigma=1.0, beta=beta)
    expected = binarise(sharpen(affinity, importance, pairing=pairing), tau_ncut=tau)
    np.testing.assert_array_equal(sharpened_edges(affinity, importance, pairing=pairing, tau_ncut=tau), expected)
