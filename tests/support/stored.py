"""Sidecars with what a test says, as if a network had written them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars import depth as depths
from cuts3d_cli.sidecars.depth import StoredDepth
from cuts3d_cli.sidecars.features import StoredFeatures, encode

GRID = 14
PSEUDO = ("pseudo", "--backbone", "dino-vits16", "--size", "224", "-j", "0", "--no-crf")
_rng = np.random.default_rng(0)


def boxes(channels: int = 8) -> NDArray[np.float16]:
    """Features of a box before a wall: two directions, with a little noise."""
    features = _rng.normal(0, 0.05, (channels, GRID, GRID))
    features[0] += 1
    features[0, 4:10, 4:10] -= 1
    features[1, 4:10, 4:10] += 1
    return features.astype(np.float16)


def store(base: Path, stage: str, members: Callable[[], dict[str, bytes]]) -> None:
    """A finished sidecar that holds the same members for every sample."""

    def outcomes(base: Path) -> Iterator[Outcome]:
        for sample in read_shard(base):
            yield Outcome(key=sample.key, members=members())

    config = {"features": {"backbone": "dino-vits16", "size": 224}} if stage == "features" else {"depth": {}}
    run_shards(
        [base],
        stage=stage,
        config=config,
        inputs=lambda base: {"base": base},
        outcomes=outcomes,
        if_exists="overwrite",
    )


def store_features(base: Path, features: NDArray[np.float16]) -> None:
    stored = StoredFeatures(features=features, backbone="dino-vits16", size=224, tensor="keys")
    store(base, "features", lambda: encode(stored))


def store_depth(base: Path, depth: NDArray[np.float32]) -> None:
    store(base, "depth", lambda: depths.encode(depth_of(depth)))


def depth_of(depth: NDArray[np.float32]) -> StoredDepth:
    """A depth map as if a network had estimated it."""
    return StoredDepth(
        depth=depth,
        minimum=0.0,
        maximum=1.0,
        unit="relative",
        direction="distance",
        conversion="none",
        model="made",
        backend="made",
    )
