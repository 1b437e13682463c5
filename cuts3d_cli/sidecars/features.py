"""The features sidecar: the patch features of every photo."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.errors import SampleError
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.npy import decode_npy
from cuts3d_cli.wording import first_line


def read_features(sample: Sample | None, reason: str | None) -> NDArray[np.float16]:
    """The features of a sample of a features sidecar.

    Args:
        sample: None where the sidecar has nothing for the image.
        reason: why that is so, as the sidecar's manifest has it.

    Returns:
        (C, H, W) float16.

    Raises:
        SampleError: the sample failed there, or is damaged.
    """
    if sample is None or "features.npy" not in sample.members:
        raise SampleError(f"it has no features: {reason or 'the features sidecar has nothing for it'}")
    try:
        features = decode_npy(sample.members["features.npy"])
    except ValueError as error:
        raise SampleError(f"the stored features cannot be read: {first_line(error)}") from error
    if features.ndim != 3 or features.dtype != np.float16 or not features.size:
        raise SampleError(f"the stored features are {features.dtype} of shape {features.shape}, not float16 (C, H, W)")
    return features


def to_npy(features: NDArray[np.float16]) -> bytes:
    """Return an array as a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    return buffer.getvalue()
