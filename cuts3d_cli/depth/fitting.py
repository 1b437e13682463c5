"""Brings a depth map that people have to its photo: all checks of such maps, for shards, pictures and arrays alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import DepthOrientation
from cuts3d_cli.depth.maps import has_aspect_of
from cuts3d_cli.depth.missing import AUTO, TOP_HEAVY, Missing, find_missing, in_unit, invalid_values
from cuts3d_cli.depth.orientation import edge_agreement, is_surely_better
from cuts3d_cli.errors import Message, SampleError, Setting, SettingError
from cuts3d_cli.images import Upright, turned_upright
from cuts3d_cli.wording import percent

Turn = Literal["none", "turned", "unsure"]


class TurnedMapError(SampleError):
    """A depth map fits its photo only as the photo lay before its EXIF orientation turned it."""


@dataclass(frozen=True, kw_only=True)
class MapRules:
    """How the depth maps of photos are to be understood.

    Attributes:
        invalid: the values that mean "not measured" besides 0, negative and non-finite ones; None for the automatic
            rule, see `missing.find_missing`.
        orientation: "upright": maps lie as a person sees the photo. "stored": they lie as the photo's pixels are
            stored, and are turned along by its EXIF orientation. "auto": the edges decide, where they can.
    """

    invalid: tuple[float, ...] | None = None
    orientation: DepthOrientation = "auto"

    @classmethod
    def of(cls, *, invalid: object, orientation: object, section: str = "") -> MapRules:
        """Make the rules from the settings `depth_invalid` and `depth_orientation`.

        Args:
            invalid: as `missing.invalid_values` takes it.
            orientation: one of the three.
            section: that begins the settings' names in messages, as in "pack."; empty for a call.

        Raises:
            SettingError: the values are no numbers, or there is no such orientation.
        """
        values = invalid_values(invalid, setting=f"{section}depth_invalid")
        for known in get_args(DepthOrientation):
            if orientation == known:
                return cls(invalid=values, orientation=known)
        problem = f"is {orientation!r}: choose one of {', '.join(get_args(DepthOrientation))}"
        raise SettingError(f"{section}depth_orientation", problem)


@dataclass(frozen=True, kw_only=True)
class FittedMap:
    """A depth map that lies as its photo does.

    Attributes:
        values: (h, w) raw numbers, upright; those of missing pixels mean nothing.
        missing: what was not measured.
        turn: "turned": it was turned along with its photo; "unsure": the photo was turned, and whether the map lies
            likewise cannot be told, so that it is taken as upright; "none": neither.
    """

    values: NDArray[Any]
    missing: Missing
    turn: Turn

    @property
    def is_top_heavy(self) -> bool:
        """Whether so many pixels have the largest value that it may mean something else than a distance."""
        return self.missing.top_share >= TOP_HEAVY

    def measured(self, *, scale: float = 1.0) -> NDArray[np.float32]:
        """Return the map times a scale, (h, w) float32, NaN where nothing was measured."""
        return in_unit(self.values, self.missing, scale=scale)


def as_map(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array as a depth map, without the axis of one channel that many programs keep.

    Raises:
        SampleError: it is no map of numbers; the reason says what it is.
    """
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
        raise SampleError(f"is an array of {values.dtype} of shape {values.shape}: give (h, w) of numbers")
    return values


def fit_map(
    values: NDArray[Any],
    photo: Upright,
    *,
    rules: MapRules,
    zero_is_missing: bool = True,
    larger_is_nearer: bool = False,
) -> FittedMap:
    """Check a depth map against its photo, turn it upright, and find what is missing.

    Args:
        values: (h, w) of numbers, in any unit.
        photo: of the same view.
        rules: of the missing values and the orientation.
        zero_is_missing, larger_is_nearer: of the map.

    Returns:
        The map.

    Raises:
        TurnedMapError: the aspect ratio fits only before the photo was turned, and edges do not tell that it should be
            turned along.
        SampleError: it has another aspect ratio.
    """
    missing = find_missing(
        values, invalid=rules.invalid, zero_is_missing=zero_is_missing, distances=not larger_is_nearer
    )
    turn = _turn(values, missing, photo, orientation=rules.orientation)
    if turn == "turned":
        values = turned_upright(values, photo.orientation)
        pixels = turned_upright(missing.pixels, photo.orientation)
        missing = Missing(pixels=pixels, values=missing.values, top=missing.top, top_share=missing.top_share)
    return FittedMap(values=values, missing=missing, turn=turn)


def remarks(fitted: FittedMap, *, rules: MapRules) -> list[Message]:
    """Return what the user of one map should know: which values were left out, and what is doubtful."""
    lines = []
    missing = fitted.missing
    if missing.values and rules.invalid is None:
        named = " and ".join(f"{value:g}" for value in missing.values)
        parts = (f"the depth map: {named} is taken as 'not measured'; if it is a distance, give ",)
        lines.append(Message(*parts, Setting("depth_invalid", "0")))
    if fitted.is_top_heavy and rules.invalid is None:
        share = f"{percent(missing.top_share)} % of the measured pixels have its largest value, {missing.top:g}"
        problem = f"the depth map: {share}; if that means 'not measured', give "
        lines.append(Message(problem, Setting("depth_invalid", f"{missing.top:g}")))
    if fitted.turn == "turned" and rules.orientation == AUTO:
        lines.append(Message("the depth map was turned along with the photo, by its EXIF orientation"))
    if fitted.turn == "unsure":
        problem = "EXIF turns the photo, and the edges do not tell how the depth map lies: it is taken as upright; "
        lines.append(Message(problem, Setting("depth_orientation", "stored"), " turns it along"))
    return lines


def _turn(values: NDArray[Any], missing: Missing, photo: Upright, *, orientation: DepthOrientation) -> Turn:
    """Return whether a map is to be turned along with its photo.

    Raises:
        TurnedMapError, SampleError: as `fit_map`.
    """
    # What the aspect ratios allow.
    size, is_turned = (photo.image.height, photo.image.width), photo.orientation != 1
    rows, columns = values.shape
    as_upright = has_aspect_of(size, (rows, columns))
    as_stored = is_turned and has_aspect_of(size, turned_upright(values, photo.orientation).shape[:2])
    differ = f"is {columns}x{rows}, the upright photo {size[1]}x{size[0]}"
    exif = f"its EXIF orientation {photo.orientation}"
    fits_stored = TurnedMapError(f"{differ}: it fits the photo as it is stored, before {exif} turns it")
    if not as_upright and not as_stored:
        raise SampleError(f"{differ}: they differ in aspect ratio")
    # What was asked for.
    if is_turned and orientation == "stored":
        if not as_stored:
            raise SampleError(f"{differ}: it fits the photo only after {exif} has turned it")
        return "turned"
    if not is_turned or orientation == "upright":
        if not as_upright:
            raise fits_stored
        return "none"
    # Else the edges decide where both are possible, and confirm a turn where the aspect ratio asks for one.
    pixels, depth = np.asarray(photo.image), np.where(missing.pixels, np.nan, values)
    upright = edge_agreement(pixels, depth) if as_upright else 0.0
    stored = edge_agreement(pixels, turned_upright(depth, photo.orientation)) if as_stored else 0.0
    if is_surely_better(stored, upright):
        return "turned"
    if not as_upright:
        raise fits_stored
    return "none" if not as_stored or is_surely_better(upright, stored) else "unsure"
