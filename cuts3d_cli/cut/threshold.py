"""How the cosines of an unknown backbone are distributed, and which threshold of the graph keeps how many edges.

Not in the paper, whose thresholds were found for DINO's keys: cosines of other features lie elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.affinity import cosine_affinity
from cuts3d_cli.errors import SampleError
from cuts3d_cli.wording import counted

PERCENTILES = (5, 25, 50, 75, 95)
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Thresholds whose shares of edges are told."""
_BINS = 1000


@dataclass(frozen=True, kw_only=True)
class AffinityProfile:
    """The cosines between the patches of some photos.

    Attributes:
        photos: how many.
        counts: (1000,) pairs of different patches by their affinity, from 0 to 1.
    """

    photos: int
    counts: NDArray[np.int64]

    def quantile(self, percent: float) -> float:
        """Return the affinity under which so many percent of the pairs lie, to 0.001."""
        below = np.cumsum(self.counts) / self.counts.sum()
        return float(np.searchsorted(below, percent / 100.0) + 1) / _BINS

    def share_above(self, tau_ncut: float) -> float:
        """Return the share of pairs that are edges at a threshold, in [0, 1]."""
        return float(self.counts[round(tau_ncut * _BINS) :].sum() / self.counts.sum())

    def threshold(self, share: float) -> float:
        """Return the threshold at which a share of the pairs are edges, to 0.01, in [0.01, 0.99].

        Rounded so that other devices, which change last digits of features, give the same.
        """
        return float(np.clip(round(self.quantile(100.0 * (1.0 - share)), 2), 0.01, 0.99))

    def __str__(self) -> str:
        percentiles, levels = "/".join(map(str, PERCENTILES)), "/".join(f"{level:g}" for level in LEVELS)
        quantiles = "/".join(f"{self.quantile(percent):.2f}" for percent in PERCENTILES)
        shares = "/".join(f"{100 * self.share_above(level):.0f}" for level in LEVELS)
        return (
            f"over {counted(self.photos, 'photo')}, {percentiles} % of the cosines lie under {quantiles},"
            f" and thresholds of {levels} keep {shares} % of the edges"
        )


def affinity_profile(features: Iterable[NDArray[np.floating]]) -> AffinityProfile:
    """Count the affinities of all pairs of different patches of some photos.

    Args:
        features: (C, H, W) a photo. Photos whose features cannot be used are left out.

    Raises:
        SampleError: none is left.
    """
    counts, photos = np.zeros(_BINS, dtype=np.int64), 0
    for item in features:
        try:
            affinity = cosine_affinity(item)
        except SampleError:
            continue
        pairs = affinity[np.triu_indices(len(affinity), 1)]
        counts += np.bincount(np.minimum((pairs * _BINS).astype(np.int64), _BINS - 1), minlength=_BINS)
        photos += 1
    if not photos:
        raise SampleError("no photo has features that can be used")
    return AffinityProfile(photos=photos, counts=counts)
