"""The depth sidecar: a map of every photo, and where it comes from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.errors import SampleError
from cuts3d_cli.shards.manifest import Manifest
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.finished import require_sidecar
from cuts3d_cli.sidecars.png import decode_gray16

PNG_STEPS = 65534
"""A stored map has the values 1 .. PNG_STEPS + 1 for 0.0 .. 1.0; 0 is a missing measurement."""


def encode_depth_png(depth: NDArray[np.float32]) -> bytes:
    """Store a normalised map as a 16-bit gray PNG: 0 = no measurement, 1 .. 65535 = 0.0 .. 1.0, linear.

    Args:
        depth: (h, w) float in [0, 1], NaN where there is no measurement.

    Returns:
        The file. The same map gives the same bytes with the same version of Pillow; no date or text is
        inside.
    """
    missing = np.isnan(depth)
    values = np.where(missing, 0.0, depth).astype(np.float64)
    if values.ndim != 2 or values.min() < 0.0 or values.max() > 1.0:
        raise ValueError(f"a depth map to store is two-dimensional and in [0, 1], not {values.shape}")
    levels = np.rint(values * PNG_STEPS).astype(np.uint16) + np.uint16(1)
    levels[missing] = 0
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def decode_depth_png(data: bytes) -> NDArray[np.float32]:
    """Read a map that `encode_depth_png` stored; off by 1 / 65534 / 2 at most.

    Args:
        data: the file.

    Returns:
        (h, w) float32 in [0, 1], larger = farther, NaN where there is no measurement.

    Raises:
        SampleError: this is not a whole PNG of one channel of 16 bits.
    """
    levels = decode_gray16(data)
    depth = ((levels.astype(np.float64) - 1.0) / PNG_STEPS).astype(np.float32)
    depth[levels == 0] = np.nan
    return depth


def finished_depth(base: Path) -> tuple[Path, Manifest]:
    """The finished depth sidecar of a base shard, with its manifest.

    Raises:
        ShardError: there is none; the line says how to make it.
    """
    return require_sidecar(
        base,
        "depth",
        further=" (with --backend sensor if depth maps were packed with the images), or cut in 2D with --method"
        " maskcut",
    )


def stored_depth(sample: Sample | None, reason: str | None) -> NDArray[np.float32]:
    """The depth map of a sample of a depth sidecar.

    Args:
        sample: of the sidecar; None if it holds none of that key.
        reason: why it failed there, if that is known.

    Returns:
        (h, w) float32 in [0, 1], NaN where nothing was measured.

    Raises:
        SampleError: there is none, or it is damaged.
    """
    if sample is None or "depth.png" not in sample.members:
        raise SampleError(f"it has no depth: {reason or 'the depth sidecar has nothing for it'}")
    return decode_depth_png(sample.members["depth.png"])
