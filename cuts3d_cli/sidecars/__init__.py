"""What is in a tar: one module a kind, each with its members, encoding, decoding and flaws.

For people who read shards with a program of their own:

    from pathlib import Path

    from cuts3d_cli.shards.reader import read_shard
    from cuts3d_cli.sidecars import masks

    for sample in read_shard(Path("in1k-000.pseudo.tar")):
        for instance in masks.decode(sample).instances:
            instance.pixels()  # (height, width) bool

`decode` of each kind gives a frozen dataclass, whose attributes are documented with shapes and units. It raises
`SampleError` or `ShardError` for exactly those samples of which `flaws`, and so `cuts3d verify`, report a flaw.
"""

from __future__ import annotations

from collections.abc import Mapping

from cuts3d_cli.sidecars import confidence, depth, detections, features, masks, photos
from cuts3d_cli.sidecars.confidence import StoredConfidence
from cuts3d_cli.sidecars.depth import StoredDepth
from cuts3d_cli.sidecars.detections import Detections, StoredDetections
from cuts3d_cli.sidecars.features import StoredFeatures
from cuts3d_cli.sidecars.masks import StoredMask, StoredMasks
from cuts3d_cli.sidecars.photos import StoredPhoto
from cuts3d_cli.sidecars.reading import Flaw, Kind, Known

__all__ = [
    "KINDS",
    "Detections",
    "Flaw",
    "Kind",
    "Known",
    "StoredConfidence",
    "StoredDepth",
    "StoredDetections",
    "StoredFeatures",
    "StoredMask",
    "StoredMasks",
    "StoredPhoto",
    "confidence",
    "depth",
    "detections",
    "features",
    "kind_of",
    "masks",
    "photos",
]

KINDS: Mapping[str, Kind] = {
    "depth": depth,
    "features": features,
    "pseudo": masks,
    "confidence": confidence,
    "predict": detections,
}
"""The kind of sidecar that a stage writes. A base shard holds `photos`."""


def kind_of(stage: str) -> Kind:
    """Return the kind of a stage's sidecars.

    Args:
        stage: one of `KINDS`, with its generation if it has one, as in "pseudo.st1".
    """
    return KINDS[stage.partition(".")[0]]
