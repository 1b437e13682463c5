"""Where the cosines of a backbone lie, and the threshold that keeps a share of the edges."""

from __future__ import annotations

import numpy as np
import pytest

from cuts3d_cli.cut.affinity import binarise, cosine_affinity
from cuts3d_cli.cut.threshold import affinity_profile
from cuts3d_cli.errors import SampleError


def features(seed: int, offset: float = 0.5) -> np.ndarray:
    """(16, 6, 6); a common offset raises all cosines."""
    return (np.random.default_rng(seed).standard_normal((16, 6, 6)) + offset).astype(np.float32)


def pairs(items: list[np.ndarray]) -> np.ndarray:
    values = [cosine_affinity(item) for item in items]
    return np.concatenate([value[np.triu_indices(len(value), 1)] for value in values])


def test_quantiles_and_shares_are_those_of_all_pairs() -> None:
    items = [features(seed) for seed in range(3)]
    profile, all_pairs = affinity_profile(items), pairs(items)
    assert profile.photos == 3
    for percent in (5, 25, 50, 75, 95):
        assert profile.quantile(percent) == pytest.approx(np.percentile(all_pairs, percent), abs=0.002)
    for tau in (0.1, 0.3, 0.5):
        assert profile.share_above(tau) == pytest.approx((all_pairs >= tau).mean(), abs=1e-9)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
def test_the_threshold_keeps_the_share(share: float) -> None:
    items = [features(seed) for seed in range(4)]
    tau = affinity_profile(items).threshold(share)
    assert tau == round(tau, 2)
    edges = [binarise(cosine_affinity(item), tau_ncut=tau) for item in items]
    kept = np.mean([edge[np.triu_indices(len(edge), 1)].mean() for edge in edges])
    assert kept == pytest.approx(share, abs=0.03)


def test_photos_without_usable_features_are_left_out() -> None:
    broken = np.full((16, 6, 6), np.nan, np.float32)
    assert affinity_profile([broken, features(0)]).photos == 1
    with pytest.raises(SampleError, match="no photo has features"):
        affinity_profile([broken])
    alike = affinity_profile([np.ones((16, 6, 6), np.float32)])
    assert (alike.threshold(0.7), alike.share_above(0.9)) == (0.99, 1.0)


def test_it_is_told_in_one_line() -> None:
    line = str(affinity_profile([features(0)]))
    assert line.startswith("over 1 photo, 5/25/50/75/95 % of the cosines lie under 0.")
    assert "thresholds of 0.1/0.2/0.3/0.4/0.5/0.6/0.7/0.8/0.9 keep " in line
