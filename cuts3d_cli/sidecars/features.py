"""The features sidecar: the patch features of every photo.

`KEY.features.npy` holds them; `KEY.features.json` names the network that gave them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.errors import SampleError
from cuts3d_cli.files import to_json_bytes
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.fields import Record
from cuts3d_cli.sidecars.npy import encode_npy
from cuts3d_cli.sidecars.reading import NOTHING, Flaw, Known, Reading, decoded, read_array, read_record, stray_members

MEMBERS = ("features.npy", "features.json")
FOLLOWS = None


@dataclass(frozen=True, kw_only=True)
class StoredFeatures:
    """The features of one photo.

    Attributes:
        features: (C, H, W) float16, finite: C channels of a grid of H x W patches.
        backbone: name of the network.
        size: side of the square that the network saw, pixels.
        tensor: which of its tensors they are, such as "keys".
    """

    features: NDArray[np.float16]
    backbone: str
    size: int
    tensor: str


def encode(stored: StoredFeatures) -> dict[str, bytes]:
    """Return the members of a sample."""
    facts = {"backbone": stored.backbone, "size": stored.size, "tensor": stored.tensor}
    return {"features.npy": encode_npy(stored.features), "features.json": to_json_bytes(facts)}


def decode(sample: Sample, known: Known = NOTHING) -> StoredFeatures:
    """Read a sample of a features sidecar.

    Raises:
        SampleError: the features are missing, damaged, or not finite.
        ShardError: the JSON is missing or damaged.
    """
    return decoded(_read(sample), sample, "features")


def flaws(sample: Sample, known: Known = NOTHING) -> list[Flaw]:
    """Return all that is wrong with a sample of a features sidecar."""
    return list(_read(sample))


def read_features(sample: Sample | None, reason: str | None) -> NDArray[np.float16]:
    """Return the features of a sample of a features sidecar.

    Args:
        sample: None where the sidecar has nothing for the image.
        reason: why that is so, as the sidecar's manifest has it.

    Returns:
        (C, H, W) float16, finite.

    Raises:
        SampleError: the sample failed there, or is damaged.
        ShardError: its JSON is damaged.
    """
    if sample is None or "features.npy" not in sample.members:
        raise SampleError(f"it has no features: {reason or 'the features sidecar has nothing for it'}")
    return decode(sample).features


def _read(sample: Sample) -> Reading[StoredFeatures | None]:
    yield from stray_members(sample, MEMBERS)
    facts = yield from read_record(sample, "features.json", _parse)
    array = yield from read_array(sample, "features.npy")
    if array is None:
        return None
    if array.ndim != 3 or array.dtype != np.float16 or not array.size:
        yield Flaw("features.npy", f"it holds {array.dtype} of shape {array.shape}, not float16 (C, H, W)")
    elif not np.isfinite(array).all():
        yield Flaw("features.npy", "it holds NaN or infinite values")
    return replace(facts, features=array) if facts else None


def _parse(fields: Record) -> StoredFeatures:
    """Return all that the JSON of a sample says, without the features."""
    return StoredFeatures(
        features=np.empty((0, 0, 0), dtype=np.float16),
        backbone=fields.text("backbone"),
        size=fields.whole("size", least=1),
        tensor=fields.text("tensor"),
    )
