"""The dense CRF by pydensecrf, the library that MaskCut uses: the reference of our own lattice. Imported on demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from pydensecrf import densecrf
from pydensecrf.utils import unary_from_softmax

from cuts3d_cli.cut.lattice_points import (
    BILATERAL_COMPAT,
    BILATERAL_SRGB,
    BILATERAL_SXY,
    FOREGROUND_PROBABILITY,
    GAUSSIAN_COMPAT,
    GAUSSIAN_SXY,
)

_TOGETHER = 3
"""Masks that go through the lattice at once: with one channel to spare they fill a vector of four floats."""


def refine(
    image: NDArray[np.uint8], masks: Iterable[NDArray[np.bool_]], *, iterations: int
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float32]]]:
    """Refine masks as `crf.refine_masks`, which has the arguments and the result; one lattice serves all of them."""
    remaining = iter(masks)
    first = list(islice(remaining, _TOGETHER))
    if not first:
        return
    if len(first) == 1:
        yield _refine_one(image, first[0], iterations=iterations)
        return
    channels = _Channels(image)
    batch = first
    while batch:
        for probability in channels.infer(batch, iterations=iterations):
            yield probability > 0.5, probability
        batch = list(islice(remaining, _TOGETHER))


def _refine_one(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], *, iterations: int
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    crf = _lattice(image, labels=2)
    foreground = _prior(mask)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(np.stack([1.0 - foreground, foreground]))))
    labels = np.array(crf.inference(iterations), dtype=np.float32).reshape(2, *mask.shape)
    return labels[1] > labels[0], labels[1]


class _Channels:
    """Mean-field inference of several masks at once, each against its background.

    With two labels that sum to one and a Potts penalty, the messages to the background follow from those to the
    foreground: K(1 - q) = K1 - Kq, so one channel a mask is enough. The library filters its labels independently of
    each other and joins them only by the softmax at the end of a step; with no unary its logarithm gives the messages
    back, up to a shift that a channel of zeros tells. So its labels serve as channels, and the result is that of its
    own inference, mask by mask.
    """

    def __init__(self, image: NDArray[np.uint8]) -> None:
        """Build the lattice of an image, (h, w, 3) uint8."""
        self._shape = image.shape[:2]
        self._crf = _lattice(image, labels=_TOGETHER + 1)
        self._crf.setUnaryEnergy(np.zeros((_TOGETHER + 1, image.shape[0] * image.shape[1]), dtype=np.float32))
        self._state = self._crf.startInference()
        self._channels = np.asarray(self._state[0])  # a view: (labels, pixels) float32
        ones = np.ones((1, self._channels.shape[1]), dtype=np.float32)
        self._ones = self._messages(ones)[0]

    def infer(self, masks: list[NDArray[np.bool_]], *, iterations: int) -> Iterator[NDArray[np.float32]]:
        """Foreground probability, (h, w) float32, of up to `_TOGETHER` masks."""
        foreground = np.stack([_prior(mask).reshape(-1) for mask in masks])
        bias = np.log(foreground) - np.log1p(-foreground) - self._ones
        for _ in range(iterations):
            foreground = 1.0 / (1.0 + np.exp(-(bias + 2.0 * self._messages(foreground))))
        for values in foreground:
            yield values.reshape(self._shape)

    def _messages(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sum over the kernels of compatibility times filtered values: (M, pixels) in and out."""
        self._channels[: len(values)] = values
        self._channels[len(values) :] = 0.0
        self._crf.stepInference(*self._state)
        logarithm = np.log(self._channels)
        messages: NDArray[np.float32] = logarithm[: len(values)] - logarithm[-1]
        return messages


def _lattice(image: NDArray[np.uint8], *, labels: int) -> densecrf.DenseCRF2D:
    height, width = image.shape[:2]
    crf = densecrf.DenseCRF2D(width, height, labels)
    crf.addPairwiseGaussian(sxy=GAUSSIAN_SXY, compat=GAUSSIAN_COMPAT)
    crf.addPairwiseBilateral(
        sxy=BILATERAL_SXY, srgb=BILATERAL_SRGB, rgbim=np.array(image, order="C"), compat=BILATERAL_COMPAT
    )  # a copy: the library wants a writable array
    return crf


def _prior(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(mask, FOREGROUND_PROBABILITY, 1.0 - FOREGROUND_PROBABILITY).astype(np.float32)
