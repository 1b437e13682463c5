"""What packing has to tell besides the shards: its counts, and what is doubtful about photos and depth maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cuts3d_cli.depth.fitting import FittedMap, MapRules
from cuts3d_cli.engine.results import StageResult
from cuts3d_cli.errors import Message, Setting
from cuts3d_cli.stages.camera_pairs import Cameras
from cuts3d_cli.stages.depth_pairs import Pairs, unread_kinds
from cuts3d_cli.wording import be, counted, listed

MISSING = "depth_missing_"
"""Begins the name of the count of maps in which a value, which ends the name, was taken as missing."""
TOP_HEAVY = "depth_top_heavy"
"""The count of maps of which many pixels have the largest value."""
TURNED, UNSURE = "depth_turned", "depth_turn_unsure"
"""The counts of maps that were turned along with their photos, and of those of which nobody can tell."""
NEEDS_TURN = "depth_needs_turn"
"""The count of photos that failed since their map fits only before EXIF turns the photo."""

WITH_CAMERA, WITHOUT_CAMERA = "with_camera", "without_camera"
"""The counts of photos with and without a camera, where a file of cameras is given."""


@dataclass(frozen=True, kw_only=True)
class PackResult(StageResult):
    """The result of packing.

    Attributes:
        passed_over: files of the source that are no photos.
        keys_made_longer: photos whose key has a hash, since others have the same name.
    """

    passed_over: int = 0
    keys_made_longer: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            **super().to_json(),
            "passed_over": self.passed_over,
            "keys_made_longer": self.keys_made_longer,
        }


def missing_counts(values: Iterable[float]) -> dict[str, int]:
    """Return the counts of one map in which these values were taken as missing."""
    return {f"{MISSING}{value:g}": 1 for value in values}


def map_counts(fitted: FittedMap | None, *, rules: MapRules) -> dict[str, int]:
    """Return the counts of one photo that was packed, by its depth map; None where it has none."""
    if fitted is None:
        return {"with_depth": 0, "without_depth": 1}
    counts = {"with_depth": 1, "without_depth": 0, **missing_counts(fitted.missing.values)}
    if rules.invalid is None and fitted.is_top_heavy:
        counts[TOP_HEAVY] = 1
    if fitted.turn != "none":
        counts[TURNED if fitted.turn == "turned" else UNSURE] = 1
    return counts


def missing_notes(result: StageResult) -> Iterator[Message]:
    """Say which values were taken as missing in how many depth maps.

    Args:
        result: with the counts.
    """
    names = sorted({name for shard in result.shards for name in shard.counts if name.startswith(MISSING)})
    for name in names:
        line = f"{name.removeprefix(MISSING)} is taken as 'not measured' in {_maps(result.count(name))}"
        way_out = Setting("pack.depth_invalid", "0", command="pack", elsewhere="pack with ")
        yield Message(f"{line}; if it is a distance: ", way_out)


def pack_notes(
    result: StageResult, *, pairs: Pairs | None, top_heavy: tuple[str, float] | None = None
) -> Iterator[Message]:
    """Say what is doubtful about the depth maps of photos.

    Args:
        result: of all shards.
        pairs: of photos and maps; None where there are no maps.
        top_heavy: a map of which many pixels have the largest value, and that value; None if none was read just now.
    """
    if pairs is None:
        return
    # Photos without a map, and maps without a photo.
    if without := result.count("without_depth"):
        yield Message(f"{without} of {result.count('samples_out')} photos have no depth map in {pairs.folder}")
    if pairs.unused:
        kinds = unread_kinds(pairs.unused)
        unread = f"; {' and '.join(kinds)} files are not read" if kinds else ""
        share = f"{len(pairs.unused)} of {len(pairs.unused) + sum(map(len, pairs.maps.values()))} files"
        yield Message(f"{share} in {pairs.folder} are no photo's depth map, as {listed(pairs.unused)}{unread}")
    # What their values mean.
    yield from missing_notes(result)
    if number := result.count(TOP_HEAVY):
        example = f", as {top_heavy[1]:g} in {top_heavy[0]}" if top_heavy else ""
        problem = f"in {_maps(number)} a tenth of the pixels or more have the largest value{example}"
        yield Message(f"{problem}: if it means 'not measured', name it by ", Setting("pack.depth_invalid"))
    # How they lie.
    turns_along = (Setting("pack.depth_orientation", "stored"), " turns such maps along")
    if number := result.count(TURNED):
        yield Message(f"{_maps(number)} turned along with the photo by its EXIF orientation")
    if number := result.count(UNSURE):
        problem = f"{_maps(number)} taken as upright: EXIF turns the photo, and the edges do not tell how the map lies"
        yield Message(f"{problem}; ", *turns_along)
    if number := result.count(NEEDS_TURN):
        yield Message(f"{_maps(number)} would fit the photo as it is stored, before EXIF turns it: ", *turns_along)


def camera_notes(result: StageResult, *, cameras: Cameras | None) -> Iterator[Message]:
    """Say which photos have no camera, and which cameras are no photo's.

    Args:
        result: of all shards.
        cameras: of the photos; None where there are none.
    """
    if cameras is None:
        return
    if without := result.count(WITHOUT_CAMERA):
        yield Message(f"{without} of {result.count('samples_out')} photos have no camera in {cameras.path}")
    if cameras.unused:
        number = f"{counted(len(cameras.unused), 'camera')} in {cameras.path}"
        yield Message(f"{number} {be(len(cameras.unused))} no photo's, as {listed(cameras.unused)}")


def _maps(number: int) -> str:
    return counted(number, "depth map")
