"""Whether the members of a sample can be read, and agree with one another: what `cuts3d verify` looks at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from cuts3d_cli.errors import SampleError
from cuts3d_cli.images import decode_image
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.depth import decode_depth_png
from cuts3d_cli.sidecars.fields import parse_record
from cuts3d_cli.sidecars.npy import decode_npy
from cuts3d_cli.sidecars.photos import decode_sensor_npy, decode_sensor_png, image_member

MEMBERS = {
    "depth": ("depth.png", "depth.json"),
    "features": ("features.npy", "features.json"),
    "pseudo": ("pseudo.json",),
    "confidence": ("confidence.npy", "confidence.json"),
    "predict": ("predict.json",),
}
"""What a sidecar holds of each sample, by stage."""


class Flaw(NamedTuple):
    """What is wrong with a sample: the member's extension, if it is one member's, and the reason."""

    extension: str | None
    reason: str


def base_flaws(sample: Sample) -> tuple[list[Flaw], tuple[int, int] | None]:
    """Check a sample of a base shard: photo, facts and sensor map.

    Returns:
        What is wrong, and the photo's height and width if it can be decoded.
    """
    flaws: list[Flaw] = []
    size = None
    try:
        extension, data = image_member(sample)
        try:
            image = decode_image(data)
            size = image.height, image.width
        except SampleError as error:
            flaws.append(Flaw(extension, str(error)))
    except SampleError as error:
        flaws.append(Flaw(None, str(error)))
    facts = _record(sample, "json", flaws) if "json" in sample.members else None
    if facts and size and "width" in facts and (facts.get("height"), facts["width"]) != size:
        flaws.append(Flaw("json", f"it says {facts['width']}x{facts.get('height')}, the photo is {size[1]}x{size[0]}"))
    flaws += _sensor_flaws(sample, facts)
    return flaws, size


def sidecar_flaws(
    sample: Sample, stage: str, *, size: tuple[int, int] | None = None, masks: int | None = None
) -> list[Flaw]:
    """Check a sample of a sidecar.

    Args:
        sample: of the sidecar.
        stage: that it is of, without its generation.
        size: height and width of the photo, if they are known.
        masks: how many masks the photo has, if that is known; of interest to "confidence".
    """
    flaws = [Flaw(name, "it is missing") for name in MEMBERS[stage] if name not in sample.members]
    flaws += [Flaw(name, "it does not belong here") for name in sample.members if name not in MEMBERS[stage]]
    facts = _record(sample, f"{stage}.json", flaws)
    if stage == "depth" and "depth.png" in sample.members:
        try:
            shape = decode_depth_png(sample.members["depth.png"]).shape
            if facts and shape != (facts["height"], facts["width"]):
                flaws.append(Flaw("depth.png", f"it is {shape[1]}x{shape[0]}, its JSON says otherwise"))
        except SampleError as error:
            flaws.append(Flaw("depth.png", str(error)))
    elif stage in ("features", "confidence") and f"{stage}.npy" in sample.members:
        try:
            array = decode_npy(sample.members[f"{stage}.npy"])
            reason = _features_flaw(array) if stage == "features" else _confidence_flaw(array, facts, masks)
        except ValueError as error:
            reason = str(error)
        if reason:
            flaws.append(Flaw(f"{stage}.npy", reason))
    elif facts and size and (facts["height"], facts["width"]) != size:
        flaws.append(
            Flaw(f"{stage}.json", f"it is of a photo of {facts['width']}x{facts['height']}, not {size[1]}x{size[0]}")
        )
    return flaws


def _record(sample: Sample, extension: str, flaws: list[Flaw]) -> dict[str, Any] | None:
    if extension not in sample.members:
        return None
    try:
        return parse_record(sample.members[extension], extension)
    except ValueError as error:
        flaws.append(Flaw(extension, str(error)))
        return None


def _sensor_flaws(sample: Sample, facts: dict[str, Any] | None) -> Iterator[Flaw]:
    try:
        if "sensor.npy" in sample.members:
            decode_sensor_npy(sample.members["sensor.npy"])
    except SampleError as error:
        yield Flaw("sensor.npy", str(error))
    try:
        if "sensor.png" in sample.members:
            decode_sensor_png(sample.members["sensor.png"], scale=1.0)
    except SampleError as error:
        yield Flaw("sensor.png", str(error))
    if facts is not None and "sensor.png" in sample.members and not isinstance(facts.get("depth"), dict):
        yield Flaw("json", "it does not say what a unit of the sensor's map stands for")


def _features_flaw(array: np.ndarray[Any, Any]) -> str | None:
    if array.ndim != 3 or array.dtype != np.float16:
        return f"it holds {array.dtype} of shape {array.shape}, not float16 (C, H, W)"
    return None if np.isfinite(array).all() else "it holds NaN or infinite values"


def _confidence_flaw(array: np.ndarray[Any, Any], facts: dict[str, Any] | None, masks: int | None) -> str | None:
    if array.ndim != 3 or array.dtype != np.uint8:
        return f"it holds {array.dtype} of shape {array.shape}, not uint8 (M, H, W)"
    if facts and array.max(initial=0) > facts["levels"]:
        return f"it holds {array.max()}, more than the {facts['levels']} of its JSON"
    wanted = {len(facts["scores"])} if facts else set()
    wanted |= {masks} if masks is not None else set()
    return (
        None if wanted <= {len(array)} else f"it has {len(array)} maps for {', '.join(map(str, sorted(wanted)))} masks"
    )
