"""Dense CRF refinement of masks, with the parameters of MaskCut; one lattice serves all masks of an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from pydensecrf import densecrf
from pydensecrf.utils import unary_from_softmax

GAUSSIAN_SXY = 3
GAUSSIAN_COMPAT = 7
BILATERAL_SXY = 50
BILATERAL_SRGB = 5
BILATERAL_COMPAT = 10
FOREGROUND_PROBABILITY = float(np.e / (np.e + 1.0))
"""Softmax of the one-hot label (0, 1): what MaskCut gives a pixel of the mask, 0.731."""


def refine_masks(
    image: NDArray[np.uint8], masks: Iterable[NDArray[np.bool_]], *, iterations: int
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float32]]]:
    """Refine masks along the edges of the image (MaskCut's CRF).

    Args:
        image: (h, w, 3) uint8, RGB.
        masks: each (h, w) bool.
        iterations: of mean-field inference.

    Yields:
        For each mask: the refined mask, (h, w) bool, and the foreground probability, (h, w) float32.
    """
    height, width = image.shape[:2]
    crf = densecrf.DenseCRF2D(width, height, 2)
    crf.addPairwiseGaussian(sxy=GAUSSIAN_SXY, compat=GAUSSIAN_COMPAT)
    crf.addPairwiseBilateral(
        sxy=BILATERAL_SXY, srgb=BILATERAL_SRGB, rgbim=np.array(image, order="C"), compat=BILATERAL_COMPAT
    )  # a copy: the library wants a writable array
    for mask in masks:
        foreground = np.where(mask, FOREGROUND_PROBABILITY, 1.0 - FOREGROUND_PROBABILITY).astype(np.float32)
        softmax = np.stack([1.0 - foreground, foreground])
        crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(softmax)))
        labels = np.array(crf.inference(iterations), dtype=np.float32).reshape(2, height, width)
        yield labels[1] > labels[0], labels[1]
