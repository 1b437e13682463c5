"""`cuts3d viz` on folders and on many photos: a picture each, and a list of those that could not be drawn."""

from __future__ import annotations

import glob
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuts3d_cli.config import Config
from cuts3d_cli.depth.intrinsics import Intrinsics
from cuts3d_cli.engine.results import Progress
from cuts3d_cli.errors import Cuts3dError, FileError, Message, SettingError, UsageError, WeightsError
from cuts3d_cli.exports.output import Stems
from cuts3d_cli.files import check_folder
from cuts3d_cli.inspection.viz import DetectionDrawer, PhotoDrawer, Picture
from cuts3d_cli.stages.camera_pairs import cameras_of, check_effect
from cuts3d_cli.stages.depth_pairs import pair_maps
from cuts3d_cli.stages.listing import left_out_lines
from cuts3d_cli.stages.listing_many import list_sources
from cuts3d_cli.stages.own_results import PICTURE_ENDING
from cuts3d_cli.wording import Say, Spell

OUT = Path("cuts3d-pictures")
"""Where pictures of several photos go by default."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What was drawn.

    Attributes:
        out: folder of the pictures.
        pictures: in the order of the photos.
        failed: photos that were not drawn, each with `file` and `reason`.
    """

    out: Path
    pictures: Sequence[Picture]
    failed: Sequence[dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Return the facts as plain JSON values."""
        return {
            "out": str(self.out),
            "pictures": [picture.to_json() for picture in self.pictures],
            "failed": list(self.failed),
        }


def are_many(photos: Sequence[Path]) -> bool:
    """Tell whether paths name more than one photo, or may do: a folder or a pattern does."""
    return len(photos) != 1 or photos[0].is_dir() or (not photos[0].exists() and glob.has_magic(str(photos[0])))


def draw_many(
    photos: Sequence[Path],
    *,
    depth: Path | None,
    checkpoint: Path | None,
    out: Path | None,
    config: Config,
    say: Say,
    progress: Progress,
    intrinsics: Path | None = None,
    preset_note: Message | None = None,
    spell: Spell = str,
    named: Collection[str] = (),
) -> Drawn:
    """Draw photos one after the other, each into `out/PHOTO.cuts3d.png`.

    Args:
        photos: files, folders and patterns, as `listing_many.list_sources` takes them.
        depth: a folder of depth maps, named like the photos; None estimates depth.
        checkpoint: of a detector, in place of cutting.
        out: folder of the pictures, made if missing; `OUT` by default.
        config: as for `viz.draw_photo` and `viz.draw_detections`.
        say: prints a status line.
        progress: receives progress events.
        intrinsics: a file with the camera of the photos, or one of each.
        preset_note: why the settings are those of their preset, where nobody named one; said before the first cut.
        spell: puts the notes on the pictures into the reader's words.
        named: the settings that the user typed, or set elsewhere: the networks that they name never fall back.

    Returns:
        What was drawn. Photos that cannot be used are in it, with the reasons.

    Raises:
        UsageError: there are no photos, `depth` is no folder or has no map of any of them, `intrinsics` has no camera
            of any of them, or a setting does not fit.
        WeightsError: weights are not to be had.
        FileError: a picture cannot be written.
    """
    folder = out or OUT
    check_folder(folder, setting="out")
    if depth is not None and not depth.is_dir():
        raise SettingError("depth_file", f"is {depth}: of several photos, name the folder of their depth maps")
    listing = list_sources(photos, images=None, leave_out=[depth] if depth is not None else [])
    pairs = pair_maps(listing.photos, depth) if depth is not None else None
    for line in left_out_lines([*listing.results, *(pairs.results if pairs else ())], out=folder):
        say(line)
    cameras: Mapping[str, Intrinsics] = {}
    if intrinsics is not None:
        check_effect(config.pseudo)
        limit = config.run.max_image_pixels
        cameras = cameras_of(listing.photos, intrinsics, root=listing.root, max_pixels=limit).of
    draw = _drawer(checkpoint, config=config, say=say, preset_note=preset_note, spell=spell, named=named)
    stems = Stems()
    pictures: list[Picture] = []
    failed: list[dict[str, str]] = []
    progress.begin([(folder, len(listing.photos))])
    progress.start(folder, why="")
    for photo in listing.photos:
        target = folder / f"{stems.of(photo.file)}{PICTURE_ENDING}"
        try:
            if photo.problem is not None:
                raise Cuts3dError(photo.problem)
            maps = () if pairs is None else pairs.maps.get(photo.file, ())
            if pairs is not None and len(maps) != 1:
                raise Cuts3dError(f"there are {len(maps)} depth maps of it in {pairs.folder}")
            file, depth_file = listing.root / photo.file, pairs.folder / maps[0] if pairs else None
            pictures.append(draw(file, depth_file, target, cameras.get(photo.file)))
        except (UsageError, WeightsError):
            raise
        except Cuts3dError as error:
            if isinstance(error, FileError) and str(error).startswith(str(target)):  # the next one would fail, too
                raise
            failed.append({"file": photo.file, "reason": str(error)})
        progress.advance(failed=bool(failed) and failed[-1]["file"] == photo.file)
    progress.finish(folder)
    return Drawn(out=folder, pictures=pictures, failed=failed)


_Draw = Callable[[Path, Path | None, Path, Intrinsics | None], Picture]


def _drawer(
    checkpoint: Path | None,
    *,
    config: Config,
    say: Say,
    preset_note: Message | None,
    spell: Spell,
    named: Collection[str],
) -> _Draw:
    """Return what draws a photo, given its map, the picture's file, and its camera."""
    if checkpoint is not None:
        detections = DetectionDrawer(checkpoint, config, say=say)
        return lambda path, _depth, target, _camera: detections.draw(path, target=target)
    cuts = PhotoDrawer(config, say=say, preset_note=preset_note, spell=spell, named=named)
    return lambda path, depth, target, camera: cuts.draw(path, depth_file=depth, target=target, camera=camera)
