"""The depth sidecar: the depth map of every photo, and where it comes from.

`KEY.depth.png` is the map; `KEY.depth.json` says what was measured or estimated, and how it was brought to [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.depth.maps import distance_of
from cuts3d_cli.errors import SampleError, Setting
from cuts3d_cli.files import to_json_bytes
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.fields import Record
from cuts3d_cli.sidecars.finished import FinishedSidecar, require
from cuts3d_cli.sidecars.png import decode_gray16, encode_gray16
from cuts3d_cli.sidecars.reading import NOTHING, Flaw, Known, Reading, decoded, read_record, stray_members

MEMBERS = ("depth.png", "depth.json")
FOLLOWS = None
PNG_STEPS = 65534
"""A stored map has the values 1 .. PNG_STEPS + 1 for 0.0 .. 1.0; 0 is a missing measurement."""


@dataclass(frozen=True, kw_only=True)
class StoredDepth:
    """The depth of one photo.

    Attributes:
        depth: (h, w) float32 in [0, 1], larger = farther, NaN where there is no measurement. Not always of the photo's
            size.
        minimum: the smallest valid raw value, in the source's own direction and unit.
        maximum: the largest valid raw value, likewise.
        unit: of the raw values, "metre" or "relative".
        direction: of the raw values, "distance" or "disparity".
        conversion: the formula from raw values to `depth`.
        model: the network's, or "sensor".
        backend: the depth source, as it is called in the configuration.
    """

    depth: NDArray[np.float32]
    minimum: float
    maximum: float
    unit: str
    direction: str
    conversion: str
    model: str
    backend: str

    def distance(self) -> NDArray[np.float64] | None:
        """Return the metric depth, (h, w), NaN where there is no measurement; None where the source is relative."""
        return distance_of(
            self.depth,
            minimum=self.minimum,
            maximum=self.maximum,
            direction="disparity" if self.direction == "disparity" else "distance",
            unit="metre" if self.unit == "metre" else "relative",
        )


def encode(stored: StoredDepth) -> dict[str, bytes]:
    """Return the members of a sample. A value of the map is stored in steps of 1 / 65534."""
    facts = {
        "min": stored.minimum,
        "max": stored.maximum,
        "unit": stored.unit,
        "direction": stored.direction,
        "conversion": stored.conversion,
        "model": stored.model,
        "backend": stored.backend,
        "height": stored.depth.shape[0],
        "width": stored.depth.shape[1],
    }
    return {"depth.png": encode_depth_png(stored.depth), "depth.json": to_json_bytes(facts)}


def decode(sample: Sample, known: Known = NOTHING) -> StoredDepth:
    """Read a sample of a depth sidecar.

    Raises:
        SampleError: the map is missing or damaged, or of another size than its JSON says.
        ShardError: the JSON is missing or damaged.
    """
    return decoded(_read(sample), sample, "depth")


def flaws(sample: Sample, known: Known = NOTHING) -> list[Flaw]:
    """Return all that is wrong with a sample of a depth sidecar."""
    return list(_read(sample))


def finished_depth(base: Path) -> FinishedSidecar:
    """Find the depth sidecar of a base shard, which must be finished.

    Raises:
        ShardError: there is none; the line says how to make it.
    """
    return require(
        base,
        "depth",
        further=(
            " (with ",
            Setting("depth.backend", "sensor", command="depth"),
            " if depth maps were packed with the images), or cut in 2D with ",
            Setting("pseudo.method", "maskcut", command="pseudo"),
        ),
    )


def stored_depth(sample: Sample | None, reason: str | None) -> StoredDepth:
    """Return the depth of a sample of a depth sidecar.

    Args:
        sample: of the sidecar; None if it holds none of that key.
        reason: why it failed there, if that is known.

    Raises:
        SampleError: there is none, or it is damaged.
        ShardError: its JSON is damaged.
    """
    if sample is None or "depth.png" not in sample.members:
        raise SampleError(f"it has no depth: {reason or 'the depth sidecar has nothing for it'}")
    return decode(sample)


def encode_depth_png(depth: NDArray[np.float32]) -> bytes:
    """Store a normalised map as a 16-bit gray PNG: 0 = no measurement, 1 .. 65535 = 0.0 .. 1.0, linear.

    Args:
        depth: (h, w) float in [0, 1], NaN where there is no measurement.

    Returns:
        The file. The same map gives the same bytes with the same version of Pillow; no date or text is
        inside.

    Raises:
        ValueError: the map has another number of dimensions, or values outside of [0, 1].
    """
    missing = np.isnan(depth)
    values = np.where(missing, 0.0, depth).astype(np.float64)
    if values.ndim != 2 or values.min() < 0.0 or values.max() > 1.0:
        raise ValueError(f"a depth map to store is two-dimensional and in [0, 1], not {values.shape}")
    levels = np.rint(values * PNG_STEPS).astype(np.uint16) + np.uint16(1)
    levels[missing] = 0
    return encode_gray16(levels)


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


def _read(sample: Sample) -> Reading[StoredDepth | None]:
    yield from stray_members(sample, MEMBERS)
    record = yield from read_record(sample, "depth.json", _parse)
    if "depth.png" not in sample.members:
        return None
    try:
        depth = decode_depth_png(sample.members["depth.png"])
    except SampleError as error:
        yield Flaw("depth.png", str(error))
        return None
    if record is None:
        return None
    size, facts = record
    if depth.shape != size:
        yield Flaw("depth.png", f"it is {depth.shape[1]}x{depth.shape[0]}, its JSON says otherwise")
    return replace(facts, depth=depth)


def _parse(fields: Record) -> tuple[tuple[int, int], StoredDepth]:
    """Return the (height, width) of a map and all that its JSON says, without the map itself."""
    facts = StoredDepth(
        depth=np.empty((0, 0), dtype=np.float32),
        minimum=fields.number("min"),
        maximum=fields.number("max"),
        unit=fields.text("unit"),
        direction=fields.text("direction"),
        conversion=fields.text("conversion"),
        model=fields.text("model"),
        backend=fields.text("backend"),
    )
    return fields.size(), facts
