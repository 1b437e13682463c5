import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cuts3d_cli.cut import affinity as single
from cuts3d_cli.cut import sharpening
from cuts3d_cli.cut.batched_graph import binarised, cosine_affinities, sharpened_edges, unusable
from cuts3d_cli.errors import SampleError

GRID = (7, 9)
TAU = 0.3
ROUNDING = 1e-6


def made(count: int = 3) -> NDArray[np.float16]:
    """Features of some images, the first patch of the first one all zero."""
    features = np.random.default_rng(0).normal(size=(count, 5, *GRID)).astype(np.float16)
    features[0, :, 0, 0] = 0
    return features


def test_affinities_are_those_of_one_image_at_a_time():
    features = made()
    found = cosine_affinities(torch.from_numpy(features)).numpy()
    assert found.dtype == np.float32
    for one, values in zip(features, found, strict=True):
        np.testing.assert_allclose(values, single.cosine_affinity(one), atol=ROUNDING)
        np.testing.assert_array_equal(values, values.T)
    assert not found[0, 0].any()  # a patch of zeros is similar to nothing, not even to itself
    np.testing.assert_array_equal(
        binarised(torch.from_numpy(found), tau_ncut=TAU).numpy(),
        [single.binarise(one, tau_ncut=TAU) for one in found],
    )


def test_the_threshold_itself_is_no_edge():
    affinity = torch.full((1, 2, 2), 0.13)
    assert not binarised(affinity, tau_ncut=0.13).any()
    assert not sharpened_edges(affinity, torch.zeros((1, 1, 2)), pairing="mean", tau_ncut=0.13).any()


@pytest.mark.parametrize("pairing", ["mean", "max", "min", "product"])
@pytest.mark.parametrize("beta", [0.0, 0.45, 1.0])
def test_sharpened_edges_are_those_of_one_image_at_a_time(pairing: sharpening.Pairing, beta: float):
    affinity = np.stack([single.cosine_affinity(one) for one in made()])
    depths = np.random.default_rng(1).random((3, *GRID))
    maps = np.stack([sharpening.spatial_importance(depth, sigma=1.0, beta=beta) for depth in depths])
    found = sharpened_edges(torch.from_numpy(affinity), torch.from_numpy(maps), pairing=pairing, tau_ncut=TAU).numpy()
    for values, importance, edges in zip(affinity, maps, found, strict=True):
        expected = sharpening.sharpened_edges(values, importance, pairing=pairing, tau_ncut=TAU)
        clear = np.abs(sharpening.sharpen(values, importance, pairing=pairing) - TAU) > ROUNDING
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(edges[clear], expected[clear])
    assert not found[0, 0].any()  # 0 to the power of 0 stays 0


def test_what_is_wrong_with_features_is_said_for_each_image_as_for_one():
    features = made(4)
    features[1, 2, 3, 4] = np.nan
    features[2] = 0
    features[3, 0, 0, 0] = np.inf
    reasons = unusable(torch.from_numpy(features))
    assert reasons[0] is None
    for one, reason in zip(features[1:], reasons[1:], strict=True):
        with pytest.raises(SampleError) as caught:
            single.cosine_affinity(one)
        assert str(caught.value) == reason


@pytest.mark.usefixtures("gpu")
def test_a_gpu_makes_the_same_edges():
    features = torch.from_numpy(made())
    maps = torch.from_numpy(np.random.default_rng(1).random((3, *GRID)).astype(np.float32))
    affinity = cosine_affinities(features)
    there = cosine_affinities(features.cuda())
    torch.testing.assert_close(there.cpu(), affinity, atol=ROUNDING, rtol=0)
    edges = sharpened_edges(affinity, maps, pairing="mean", tau_ncut=TAU)
    assert (sharpened_edges(there, maps.cuda(), pairing="mean", tau_ncut=TAU).cpu() == edges).float().mean() > 0.999
