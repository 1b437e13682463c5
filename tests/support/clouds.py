"""Tiny inputs whose answer is known by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import CutSettings
from cuts3d_cli.cut.cloud import Surface
from cuts3d_cli.cut.localcut import cut_graph, local_graph
from cuts3d_cli.cut.perspective import surface_of

GRID = (12, 12)
SETTINGS = CutSettings(tau_ncut=0.5, tau_knn=0.2, sharpen=False, knn=8, min_area=0.0)


def cut_settings(**changes: object) -> CutSettings:
    return replace(SETTINGS, **changes)


def two_class_features(foreground: NDArray[np.bool_], *, noise: float = 0.0, seed: int = 0) -> NDArray[np.float32]:
    """One direction for the foreground, another one for the rest: (3, H, W)."""
    features = np.zeros((3, *foreground.shape), dtype=np.float32)
    features[0] = ~foreground
    features[1] = foreground
    if noise:
        features += np.random.default_rng(seed).normal(0, noise, features.shape).astype(np.float32)
    return features


def surface(depth: NDArray[np.floating], *, background_level: float = 1.0) -> Surface:
    """The paper's point cloud, all edges kept."""
    return surface_of(depth, None, settings=cut_settings(background_level=background_level))


def local_cut(
    depth: NDArray[np.floating],
    mask: NDArray[np.bool_],
    *,
    source: int | NDArray[np.int64],
    sink: int | None,
    tau_knn: float,
    k: int,
    background_level: float = 1.0,
) -> NDArray[np.bool_]:
    """LocalCut on the paper's point cloud, from depth to the instance."""
    graph = local_graph(surface(depth, background_level=background_level), mask, k=k)
    return cut_graph(graph, mask, source=source, sink=sink, tau_knn=tau_knn, capacity="gaussian")


def touching_blobs() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two same-looking blobs side by side, touching in 2D."""
    left = np.zeros(GRID, dtype=bool)
    right = np.zeros(GRID, dtype=bool)
    left[4:8, 2:6] = True
    right[4:8, 6:10] = True
    return left, right
