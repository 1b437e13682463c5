"""Sidecars with what a test says, as if a network had written them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.depth import encode_depth_png

GRID = 14
PSEUDO = ("pseudo", "--backbone", "dino-vits16", "--size", "224", "-j", "0", "--no-crf")
_FACTS = json.dumps({"backbone": "dino-vits16", "size": 224, "tensor": "keys"}).encode()
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
    buffer = io.BytesIO()
    np.save(buffer, features)
    store(base, "features", lambda: {"features.npy": buffer.getvalue(), "features.json": _FACTS})


def store_depth(base: Path, depth: NDArray[np.float32]) -> None:
    store(base, "depth", lambda: {"depth.png": encode_depth_png(depth), "depth.json": b"{}"})
