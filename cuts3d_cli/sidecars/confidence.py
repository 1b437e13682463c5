"""The confidence sidecar: Spatial Confidence of every mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.confidence import spatial_confidence
from cuts3d_cli.errors import SampleError, ShardError
from cuts3d_cli.shards.manifest import Manifest
from cuts3d_cli.shards.names import sidecar
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.fields import read_json
from cuts3d_cli.sidecars.finished import finished_sidecar, require_sidecar
from cuts3d_cli.sidecars.npy import decode_npy


def current_confidence(base: Path) -> tuple[Path, Manifest] | None:
    """The finished confidence sidecar of a base shard, with its manifest.

    Returns:
        Both, or None if there is none.

    Raises:
        ShardError: the masks were cut anew since it was written.
    """
    found = finished_sidecar(base, "confidence")
    if found is None:
        return None
    tar, manifest = found
    _, pseudo = require_sidecar(base, "pseudo")
    scored = manifest.inputs.get("pseudo")
    if scored is None or scored.sha256 != pseudo.sha256:
        raise ShardError(
            f"{tar} scores other masks than {sidecar(base, 'pseudo').name} holds now: run `cuts3d confidence --shards"
            f" {base}` again, or delete it"
        )
    return tar, manifest


def read_confidence(sample: Sample) -> tuple[NDArray[np.float32], list[float]]:
    """What a confidence sidecar holds for one image.

    Returns:
        (M, H, W) float32 in [floor, 1], one map a mask; and the mean of each over its mask.

    Raises:
        SampleError: a member is missing or damaged.
    """
    try:
        counts = decode_npy(sample.members["confidence.npy"])
    except KeyError as error:
        raise SampleError("the stored confidence has no maps") from error
    except ValueError as error:
        raise SampleError(f"the stored confidence cannot be read: {error}") from error
    facts = read_json(sample, "confidence.json")
    if counts.ndim != 3 or counts.dtype != np.uint8 or counts.max(initial=0) > facts["levels"]:
        raise SampleError(
            f"the stored confidence is {counts.dtype} of shape {counts.shape}, up to {counts.max(initial=0)}, not uint8"
            f" (M, H, W) up to {facts['levels']}"
        )
    maps = spatial_confidence(counts, levels=facts["levels"], floor=facts["floor"])
    scores = [float(score) for score in facts["scores"]]
    if len(scores) != len(maps):
        raise SampleError(f"the stored confidence has {len(maps)} maps and {len(scores)} scores")
    return maps, scores
