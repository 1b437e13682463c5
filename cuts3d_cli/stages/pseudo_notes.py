"""What cutting has to say besides the masks: settings that may not suit the photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from cuts3d_cli.config import PAPER, PseudoConfig
from cuts3d_cli.cut.focal import DEFAULT_FOCAL, FocalSource
from cuts3d_cli.cut.methods import cuts_in_perspective, get_method, without_camera
from cuts3d_cli.cut.perspective import NOISY_NOTE
from cuts3d_cli.engine.results import StageResult
from cuts3d_cli.errors import Message, Setting, ShardError
from cuts3d_cli.sidecars.depth import finished_depth
from cuts3d_cli.stages.loading import ImageCut
from cuts3d_cli.wording import counted

FOCAL_COUNTS: Mapping[str, FocalSource | Literal["default"]] = {
    "focal_intrinsics": "intrinsics",
    "focal_exif": "exif",
    "focal_default": "default",
}
"""Name of a count of photos in perspective -> where their focal length comes from."""
NOISY_DEPTH = "noisy_depth"
"""The count of photos whose point cloud in perspective is less steep than their focal length makes it."""
_MOST = 0.5
"""Share of the photos from which on all cuts were made in "most" of them."""


def cut_notes(result: StageResult, *, settings: PseudoConfig) -> list[Message]:
    """Say which settings may not suit the photos of a run.

    Args:
        result: of `cuts3d pseudo`. Nothing is said of shards that were finished before.
        settings: that the masks were cut with.

    Returns:
        A line each; none where nothing was cut.
    """
    done = [shard for shard in result.shards if shard.status == "done"]
    notes = []
    note = sensor_note(settings) if _have_sensor_depth([shard.shard for shard in done], settings) else None
    if note is not None:
        notes.append(note)
    # There is no perspective without distances.
    if relative := sum(shard.counts.get("relative_depth", 0) for shard in done):
        line = f"the depth of {counted(relative, 'photo')} is relative: cut in the paper's point cloud, since "
        notes.append(Message(line, Setting("pseudo.cloud", "perspective"), " needs metres"))
    if flattened := sum(shard.counts.get(NOISY_DEPTH, 0) for shard in done):
        notes.append(noise_note(flattened))
    # How photos are seen.
    if note := focal_note({name: sum(shard.counts.get(name, 0) for shard in done) for name in FOCAL_COUNTS}):
        notes.append(note)
    # Cuts that ended before N were made found no more; where all N were made, there may be more to find.
    photos = sum(shard.counts.get("samples_out", 0) for shard in done)
    full = photos - sum(shard.counts.get("stopped_early", 0) for shard in done)
    if settings.instances != "all" and photos and full > _MOST * photos:
        made = {1: "the one cut was made", 2: "both cuts were made"}
        made_all = made.get(settings.instances, f"all {settings.instances} cuts were made")
        line = f"in {full} of {counted(photos, 'photo')} {made_all}: there may be more objects, which a larger "
        notes.append(Message(line, Setting("pseudo.instances"), " finds"))
    return notes


def depth_counts(image: ImageCut, *, settings: PseudoConfig) -> dict[str, int]:
    """Return the counts of one photo that was cut, by what its depth is good for; none without perspective.

    Args:
        image: as it was cut.
        settings: that it was cut with.
    """
    if settings.cloud != "perspective":
        return {}
    noisy = {NOISY_DEPTH: int(image.is_flattened)} if cuts_in_perspective(settings) else {}
    return {"relative_depth": int(image.is_relative), **noisy}


def noise_note(photos: int) -> Message:
    """Say of how many photos the point cloud was made less steep, since it would have fallen into pieces."""
    return Message(f"the depth of {counted(photos, 'photo')} {NOISY_NOTE}")


def focal_counts(image: ImageCut, *, settings: PseudoConfig) -> dict[str, int]:
    """Return the counts of one photo that was cut, by where its focal length comes from; none where that plays no part.

    Args:
        image: as it was cut.
        settings: that it was cut with.
    """
    if without_camera(settings) is not None:
        return {}
    source = None if image.is_relative else image.focal.source if image.focal is not None else "default"
    return {name: int(source == of) for name, of in FOCAL_COUNTS.items()}


def focal_note(counts: Mapping[str, int]) -> Message | None:
    """Say where the focal lengths of photos come from.

    Args:
        counts: of photos, by the names of `FOCAL_COUNTS`.

    Returns:
        The line; None where there is no photo.
    """
    found = {of: counts.get(name, 0) for name, of in FOCAL_COUNTS.items()}
    places = {"intrinsics": "from intrinsics", "exif": "from EXIF", "default": "by default"}
    numbers = {places[of]: number for of, number in found.items() if number}
    if not numbers:
        return None
    told = "of " + ", ".join(
        f"{number if place else counted(number, 'photo')} {words}"
        for place, (words, number) in enumerate(numbers.items())
    )
    if not found["default"]:
        return Message(f"focal length: {told}")
    way_out = Setting("intrinsics", "FILE", command="pack", elsewhere="pack with ")
    default = Setting("pseudo.focal", DEFAULT_FOCAL)
    return Message(f"focal length: {told} (", default, "); for the camera's own: ", way_out)


def sensor_note(settings: PseudoConfig) -> Message | None:
    """Say that the paper's threshold of the point cloud was made for estimated depth of whole scenes.

    Args:
        settings: of a cut with the depth of a sensor.

    Returns:
        The line; None where the threshold is another one, or plays no part.
    """
    if settings.tau_knn != PAPER.pseudo.tau_knn or settings.cloud != PAPER.pseudo.cloud:
        return None
    if not get_method(settings.method).cuts_in_3d(settings):
        return None
    line = f"measured depth is cut at the paper's threshold {settings.tau_knn:g}, which suits whole scenes"
    way_out = (Setting("pseudo.tau_knn"), ", or take ", Setting("preset", "objects"))
    return Message(f"{line}: for objects close together, lower ", *way_out)


def _have_sensor_depth(shards: Sequence[Path], settings: PseudoConfig) -> bool:
    """Tell whether the depth of the first of some shards was measured."""
    if not shards or not get_method(settings.method).needs_depth(settings):
        return False
    try:
        _, manifest = finished_depth(shards[0])
    except ShardError:  # it was written again meanwhile: whoever reads it next says so
        return False
    recorded = manifest.config.get("depth")
    return isinstance(recorded, dict) and recorded.get("backend") == "sensor"
