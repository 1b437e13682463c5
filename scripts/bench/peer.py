"""The peer that the benchmarks compare with: MaskCut as its published rules read, without any shortcut.

It solves a dense generalised eigenproblem for every mask, and builds a new CRF for every mask. Rules that take no time
are this project's own functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydensecrf import densecrf
from pydensecrf.utils import unary_from_softmax
from scipy import linalg

from cuts3d_cli.cut.affinity import EPSILON
from cuts3d_cli.cut.bipartition import bipartition, connected_component
from cuts3d_cli.cut.maskcut import MAX_PREVIOUS_IOU, MIN_AREA, subtract_earlier
from cuts3d_cli.cut.masks import Rle, encode_rle, fill_holes, mask_iou, resize_mask, upsample_nearest
from cuts3d_cli.cut.ncut import argmax_first
from cuts3d_cli.timing import StepTimer

CRF_MIN_IOU = 0.5
"""Masks that the CRF changes more than this are dropped."""
FOREGROUND, BACKGROUND = 0.7310586, 0.2689414
"""Softmax of a one-hot label."""


@dataclass(frozen=True, kw_only=True)
class PeerResult:
    """Masks of an image by the peer, without those that it drops, and the seconds of each step."""

    masks: Sequence[Rle]
    seconds: dict[str, float]


def semantic_edges(features: NDArray[np.floating], *, tau_ncut: float) -> NDArray[np.bool_]:
    """Compute where the cosine similarity of two patches is over the threshold.

    Args:
        features: (C, H, W); a patch of zeros is similar to none.
        tau_ncut: the threshold.

    Returns:
        (K, K) bool, K = H * W.
    """
    vectors = features.reshape(len(features), -1).T.astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return vectors @ vectors.T > np.float32(tau_ncut)


def dense_ncut(edges: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute the second eigenvector of (D - A) x = lambda D x by LAPACK in float64, in the threads that BLAS takes.

    Args:
        edges: (K, K) bool; True is a weight of 1, False one of 1e-5.

    Returns:
        (K,) float64, its largest absolute entry (the first of equals) 1.
    """
    weights = np.where(edges, 1.0, EPSILON)
    degrees = np.diag(weights.sum(axis=1))
    _, vectors = linalg.eigh(degrees - weights, degrees, subset_by_index=[1, 2])
    vector = vectors[:, 0] / np.abs(vectors[:, 0]).max()
    return vector / vector[argmax_first(np.abs(vector))]


def fresh_crf(image: NDArray[np.uint8], mask: NDArray[np.bool_], *, iterations: int = 10) -> NDArray[np.bool_]:
    """Refine one mask with a new CRF.

    Args:
        image: (h, w, 3) uint8, RGB.
        mask: (h, w) bool.
        iterations: number of mean-field iterations.

    Returns:
        (h, w) bool.
    """
    height, width = mask.shape
    foreground = np.where(mask, FOREGROUND, BACKGROUND).astype(np.float32)
    crf = densecrf.DenseCRF2D(width, height, 2)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(np.stack([1.0 - foreground, foreground]))))
    crf.addPairwiseGaussian(sxy=3, compat=7)
    crf.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.array(image, order="C"), compat=10)
    labels = np.array(crf.inference(iterations)).reshape(2, height, width)
    return np.asarray(labels[1] > labels[0])


def peer_maskcut(
    features: NDArray[np.floating],
    image: NDArray[np.uint8],
    *,
    size: tuple[int, int],
    tau_ncut: float,
    instances: int = 3,
) -> PeerResult:
    """Cut an image as the peer does.

    Args:
        features: (C, H, W).
        image: (s, s, 3) uint8, RGB, for the CRF.
        size: (height, width) of the photo.
        tau_ncut: threshold of the semantic graph.
        instances: N; it solves and refines N times, even if a mask turns out empty.

    Returns:
        The masks at the photo's size.
    """
    # N times: solve the graph, take the component of the seed, remove it from the features.
    timer = StepTimer()
    grid = (features.shape[1], features.shape[2])
    painted = np.zeros(grid, dtype=bool)
    found: list[NDArray[np.bool_]] = []
    for iteration in range(instances):
        with timer.step("affinity"):
            edges = semantic_edges(features * ~painted, tau_ncut=tau_ncut)
        with timer.step("eigen"):
            vector = dense_ncut(edges)
        with timer.step("cut"):
            split = bipartition(vector, grid)
            mask = np.zeros(grid, dtype=bool) if split is None else connected_component(split.mask, split.seed)
            if iteration and (mask_iou(mask, found[-1]) > MAX_PREVIOUS_IOU or mask.mean() <= MIN_AREA):
                mask = np.zeros(grid, dtype=bool)
            found.append(mask)
            painted |= mask
    # Refine each mask, fill its holes, and drop it if the CRF changes it too much.
    masks = []
    for mask in subtract_earlier(found):
        with timer.step("crf"):
            before = upsample_nearest(mask, image.shape[:2])
            refined = fresh_crf(image, before)
        with timer.step("encode"):
            filled = fill_holes(refined)
            if mask_iou(before, filled) >= CRF_MIN_IOU:
                masks.append(encode_rle(resize_mask(filled, size)))
    return PeerResult(masks=masks, seconds=timer.seconds)
