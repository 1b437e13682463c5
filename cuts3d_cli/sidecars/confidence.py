"""The confidence sidecar: Spatial Confidence (paper: Sec. 3.4) of every mask.

`KEY.confidence.npy` holds counts, a map a mask; `KEY.confidence.json` says what they mean, and has the score of each
mask. Its samples are those of the pseudo sidecar that it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.confidence import spatial_confidence
from cuts3d_cli.errors import Command, ShardError
from cuts3d_cli.files import to_json_bytes
from cuts3d_cli.json_reading import is_share
from cuts3d_cli.shards.names import sidecar
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.fields import Record
from cuts3d_cli.sidecars.finished import FinishedSidecar, finished, require
from cuts3d_cli.sidecars.npy import encode_npy
from cuts3d_cli.sidecars.reading import NOTHING, Flaw, Known, Reading, decoded, read_array, read_record, stray_members
from cuts3d_cli.wording import counted

MEMBERS = ("confidence.npy", "confidence.json")
FOLLOWS = "pseudo"
MAX_LEVELS = 255
"""The highest count that a map can hold."""


@dataclass(frozen=True, kw_only=True)
class StoredConfidence:
    """Spatial Confidence of the M masks of one photo.

    Attributes:
        counts: (M, H, W) uint8, a map a mask, on the patch grid: in how many of `levels` cuts a patch belongs to the
            mask; or the CRF's probability in steps of 1 / `levels`.
        scores: the mean of each map over its mask, in [0, 1].
        levels: the count that means 1, from 1 to 255.
        floor: the lowest confidence, in [0, 1].
        source: what the confidence is computed from, "depth" or "crf".
    """

    counts: NDArray[np.uint8]
    scores: Sequence[float]
    levels: int
    floor: float
    source: str

    @cached_property
    def maps(self) -> NDArray[np.float32]:
        """(M, H, W) float32 in [floor, 1]: max(count / levels, floor)."""
        return spatial_confidence(self.counts, levels=self.levels, floor=self.floor)


def encode(stored: StoredConfidence) -> dict[str, bytes]:
    """Return the members of a sample."""
    facts = {
        "source": stored.source,
        "levels": stored.levels,
        "floor": stored.floor,
        "scores": list(stored.scores),
    }
    return {"confidence.npy": encode_npy(stored.counts), "confidence.json": to_json_bytes(facts)}


def decode(sample: Sample, known: Known = NOTHING) -> StoredConfidence:
    """Read a sample of a confidence sidecar.

    Args:
        sample: of the sidecar.
        known: how many masks the photo has.

    Raises:
        SampleError: the maps are missing or damaged, or there are more or fewer than scores or masks.
        ShardError: the JSON is missing or damaged.
    """
    return decoded(_read(sample, known), sample, "confidence")


def flaws(sample: Sample, known: Known = NOTHING) -> list[Flaw]:
    """Return all that is wrong with a sample of a confidence sidecar."""
    return list(_read(sample, known))


def current_confidence(base: Path) -> FinishedSidecar | None:
    """Find the finished confidence sidecar of a base shard.

    Returns:
        The sidecar, or None if there is none.

    Raises:
        ShardError: the masks were cut again since it was written.
    """
    found = finished(base, "confidence")
    if found is None:
        return None
    scored = found.manifest.inputs.get("pseudo")
    if scored is None or scored.sha256 != require(base, "pseudo").manifest.sha256:
        raise ShardError(
            f"{found.tar} scores other masks than {sidecar(base, 'pseudo').name} holds now: run ",
            Command("confidence", shards=base),
            " again, or delete it",
        )
    return found


def _read(sample: Sample, known: Known) -> Reading[StoredConfidence | None]:
    yield from stray_members(sample, MEMBERS)
    facts = yield from read_record(sample, "confidence.json", _parse)
    counts = yield from read_array(sample, "confidence.npy")
    if counts is None:
        return None
    if counts.ndim != 3 or counts.dtype != np.uint8:
        yield Flaw("confidence.npy", f"it holds {counts.dtype} of shape {counts.shape}, not uint8 (M, H, W)")
        return None
    if facts and counts.max(initial=0) > facts.levels:
        yield Flaw("confidence.npy", f"it holds {counts.max()}, more than the {facts.levels} of its JSON")
    if facts and len(facts.scores) != len(counts):
        yield Flaw("confidence.npy", f"it has {counted(len(counts), 'map')} for {counted(len(facts.scores), 'score')}")
    if known.masks not in (None, len(counts)):
        yield Flaw("confidence.npy", f"it has {counted(len(counts), 'map')} for {counted(known.masks, 'mask')}")
    return replace(facts, counts=counts) if facts else None


def _parse(fields: Record) -> StoredConfidence:
    """Return all that the JSON of a sample says, without the maps."""
    return StoredConfidence(
        counts=np.empty((0, 0, 0), dtype=np.uint8),
        scores=tuple(map(float, fields.list_of("scores", is_share))),
        levels=fields.whole("levels", least=1, most=MAX_LEVELS),
        floor=fields.share("floor"),
        source=fields.text("source"),
    )
