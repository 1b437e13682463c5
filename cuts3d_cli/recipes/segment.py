"""`cuts3d segment`: from a folder of photos to masks, pictures and a COCO JSON, by the stages, in one go."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cuts3d_cli.config import Config, PackConfig
from cuts3d_cli.detector.train import require_detectron2
from cuts3d_cli.effects import recorded
from cuts3d_cli.engine.results import StageResult
from cuts3d_cli.engine.sharing import without_split
from cuts3d_cli.errors import FileError, Message, Setting, SettingError, WeightsError
from cuts3d_cli.exports.exporting import Exported, Request, export
from cuts3d_cli.exports.formats import FORMATS
from cuts3d_cli.exports.output import Announce
from cuts3d_cli.files import check_folder, to_json_bytes
from cuts3d_cli.inspection.viz_all import draw_all
from cuts3d_cli.recipes.segment_record import FILE, Asked, Folder, digests_of
from cuts3d_cli.recipes.segment_settings import MIN_SCORE, Ready, ready_to_cut, with_maps
from cuts3d_cli.recipes.steps import Bar
from cuts3d_cli.sidecars.found import Source
from cuts3d_cli.sidecars.photos import NO_SENSOR_MAP
from cuts3d_cli.stages import STAGES
from cuts3d_cli.stages.camera_pairs import cameras_of, check_effect
from cuts3d_cli.stages.depth_pairs import pair_maps
from cuts3d_cli.stages.listing import Listing
from cuts3d_cli.stages.own_results import RECORD
from cuts3d_cli.stages.pack import Packing
from cuts3d_cli.stages.pack import run as pack
from cuts3d_cli.wording import Say, Spell, absence, choose_one, enumerated

DEFAULT_FORMATS = ("coco", "png")
PICTURES = "pictures"
_FOLDERS = {"png": "masks"}
"""Format -> its folder, where that is not named like the format."""
_NAME = "photos"
_SHARD_SIZE = 100
"""Photos in a shard, unless the settings name another number: an interrupted run loses the work on one shard."""


@dataclass(frozen=True, kw_only=True)
class Segmenting:
    """Photos to segment, and where the results go.

    Attributes:
        photos: files, folders and patterns, or one COCO JSON; see `listing_many.list_sources`.
        out: folder of the results, made if missing.
        images: the folder that the COCO JSON's file names start from.
        depth_dir: a folder of depth maps, as `pack` takes it.
        intrinsics: a file with the camera of the photos, or one of each, as `pack` takes it.
        checkpoint: a detector, in place of cutting.
        score: lowest score of a detection; None for 0.5.
        formats: names of `exports.formats.FORMATS`.
        category: name of the only category, for formats that have one; None for "object".
        pictures: draw every photo.
        keep_shards: leave the shards in `out/shards`.
        preset_note: why the settings are those of their preset, where nobody named one; said before the work.
        spell: puts the notes in the pictures and in the record into the reader's words.
    """

    photos: Sequence[Path]
    out: Path
    images: Path | None = None
    depth_dir: Path | None = None
    intrinsics: Path | None = None
    checkpoint: Path | None = None
    score: float | None = None
    formats: Sequence[str] = DEFAULT_FORMATS
    category: str | None = None
    pictures: bool = True
    keep_shards: bool = False
    preset_note: Message | None = None
    spell: Spell = str


@dataclass(frozen=True, kw_only=True)
class Segmented:
    """What came out.

    Attributes:
        out: folder of the results.
        photos: photos that were segmented.
        instances: in all of them.
        empty: photos without an instance.
        failed: photos that were not, each with `file`, `stage` and `reason`.
        written: what -> file or folder.
        notes: what is not as asked for, such as a cut in 2D.
        made_by: method and backbone that ran, or the detector.
        finished_before: nothing was left to do.
    """

    out: Path
    photos: int
    instances: int
    empty: int
    failed: Sequence[Mapping[str, str]]
    written: Mapping[str, str]
    notes: Sequence[str]
    made_by: str
    finished_before: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            "out": str(self.out),
            "photos": self.photos,
            "instances": self.instances,
            "without_instance": self.empty,
            "failed": [dict(item) for item in self.failed],
            "written": dict(self.written),
            "notes": list(self.notes),
            "made_by": self.made_by,
            "finished_before": self.finished_before,
        }


def run(
    wanted: Segmenting,
    *,
    config: Config,
    bar: Bar,
    say: Say,
    given: Collection[str] = (),
    named: Collection[str] = (),
) -> Segmented:
    """Segment photos: pack them, estimate depth, cut masks or run a detector, export, draw.

    Everything is done by the stages, over shards in the folder of the results; these are removed at the end. A run that
    was interrupted goes on where it was; one that is finished does nothing.

    Args:
        wanted: photos, and where the results go.
        config: sections `pack`, `depth`, `features`, `pseudo`, `confidence`, `predict` and `run`.
        bar: makes a progress bar for the stage of a name.
        say: prints a status line.
        given: names of the settings that the user typed.
        named: those, and names of the settings that a variable or file sets: networks among them never fall back.

    Returns:
        What came out. Photos that failed are in it.

    Raises:
        UsageError: there are no photos, a setting is impossible, or the folder holds other results.
        WeightsError: weights are not to be had.
        FileError: something cannot be written.
        ShardError: the disk is full, or a shard was damaged meanwhile.
    """
    # Check all that is asked for before anything is written.
    _check(wanted)
    packing = Packing(
        source=list(wanted.photos),
        out=wanted.out,
        name=_NAME,
        images=wanted.images,
        depth_dir=wanted.depth_dir,
        intrinsics=wanted.intrinsics,
    )
    listing = packing.listing()
    config = replace(config, run=without_split(config.run))
    if config.pack.shard_size == PackConfig().shard_size:
        config = replace(config, pack=replace(config.pack, shard_size=_SHARD_SIZE))
    if wanted.checkpoint is not None:
        config = replace(
            config, predict=replace(config.predict, min_score=MIN_SCORE if wanted.score is None else wanted.score)
        )
    elif wanted.depth_dir is not None:
        config = with_maps(config, given=given)
    # All files are listed once, and the file of cameras is read once.
    pairs = pair_maps(listing.photos, wanted.depth_dir) if wanted.depth_dir is not None else None
    cameras, limit = None, config.run.max_image_pixels
    if wanted.intrinsics is not None:
        check_effect(config.pseudo)
        cameras = cameras_of(listing.photos, wanted.intrinsics, root=listing.root, max_pixels=limit)
    inputs = digests_of(listing, pairs, intrinsics=wanted.intrinsics)
    run_pack = partial(pack, listing=listing, pairs=pairs, cameras=cameras)
    asked = Asked(inputs=inputs, settings=_settings(wanted, config))
    outputs = _outputs(wanted)
    folder = Folder(
        wanted.out, keep_shards=wanted.keep_shards, known=[PICTURES, *(_output_of(name) for name in FORMATS)]
    )
    with folder.locked():
        # Where the same has been done before, nothing is left to do.
        if before := folder.finished(asked, list(outputs.values()), if_exists=config.run.if_exists):
            return _before(wanted, before)
        # What is missing is told before the first stage, and before anything is replaced.
        if wanted.checkpoint is None:
            if wanted.preset_note is not None:
                say(wanted.preset_note)
            has_maps = wanted.depth_dir is not None
            ready = ready_to_cut(config, has_maps=has_maps, named=named, say=say, spell=wanted.spell)
        else:
            require_detectron2()
            ready = Ready(config=config, stages=("predict",), title=wanted.checkpoint.name)
        begun = folder.begin(asked, list(outputs.values()), if_exists=config.run.if_exists)
        outputs = {name: where for name, where in outputs.items() if where in begun.outputs}
        if begun.removed:
            say(f"removed {enumerated(begun.removed)}, which other photos or settings gave")
        packed = partial(run_pack, replace(packing, out=folder.shards))
        found = _find(wanted, packed, ready, bar=bar, say=say)
        exported = _export(wanted, found, outputs, announce=folder.note, bar=bar, say=say)
        drawn = _draw(wanted, found, outputs, announce=folder.note, bar=bar)
        names = {**begun.written, **{name: outputs[name] for name in (*exported, *drawn)}}
        written = {name: str(wanted.out / where) for name, where in names.items()}
        result = _result(wanted, found, exported, listing=listing, written=written)
        # Names from the folder, which may be moved.
        folder.close(asked, begun.outputs, {**result.to_json(), "out": None, "written": names})
    return result


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What the stages found.

    Attributes:
        shards: the base shards.
        source: whether masks were cut, or a detector ran.
        results: of the stages, in order.
        title: method and backbone, or the detector; for pictures.
        notes: what is not as asked for.
    """

    shards: Sequence[Path]
    source: Source
    title: str
    results: Sequence[StageResult]
    notes: Sequence[str] = ()

    @property
    def photos(self) -> int:
        """Photos that were segmented."""
        return self.count("samples_out")

    @property
    def instances(self) -> int:
        """Instances in all of them."""
        return self.count("masks")

    def count(self, name: str) -> int:
        """Return a count of the stage that finds instances."""
        return sum(result.count(name) for result in self.results if result.stage in ("pseudo", "predict"))


def _check(wanted: Segmenting) -> None:
    """Check what needs no look at photos.

    Raises:
        SettingError: an option is impossible, or has no effect beside another.
        WeightsError: there is no such checkpoint.
    """
    check_folder(wanted.out, setting="out")
    for path in wanted.photos:
        if path.is_dir() and _is_same(path, wanted.out):
            raise SettingError("out", f"is {wanted.out}, the folder of the photos: name another")
        if path.is_dir() and wanted.depth_dir is not None and _is_same(path, wanted.depth_dir):
            raise SettingError("depth_dir", f"is {wanted.depth_dir}, the folder of the photos: keep maps in their own")
    if wanted.depth_dir is not None and not wanted.depth_dir.is_dir():
        raise SettingError("depth_dir", f"is {wanted.depth_dir}, which is no folder")
    for name in wanted.formats:
        if name not in FORMATS:
            raise SettingError("to", f"is '{name}': {choose_one(name, FORMATS)}")
    if wanted.checkpoint is None:
        if wanted.score is not None:
            raise SettingError("score", "has no effect without ", Setting("checkpoint"), ": leave it out")
        return
    for name, value in {"depth_dir": wanted.depth_dir, "intrinsics": wanted.intrinsics}.items():
        if value is not None:
            raise SettingError(name, "has no effect with ", Setting("checkpoint"), ": leave it out")
    if not wanted.checkpoint.is_file():
        raise WeightsError(f"checkpoint {wanted.checkpoint} {absence(wanted.checkpoint)}")


def _settings(wanted: Segmenting, config: Config) -> dict[str, Any]:
    """Return all that shapes the results but for which there are, as plain JSON values."""
    sections = ["pack", "predict"] if wanted.checkpoint else ["pack", "depth", "features", "pseudo", "confidence"]
    values: dict[str, Any] = {name: recorded(name, getattr(config, name)) for name in sections}
    values |= {"category": wanted.category, "max_image_pixels": config.run.max_image_pixels}
    weights = [config.features.weights, config.depth.weights, config.predict.detectron2_config, wanted.checkpoint]
    for path in filter(None, weights):
        with suppress(OSError):  # whoever reads it says so
            state = Path(path).stat()
            values[f"{FILE}{path}"] = [state.st_size, state.st_mtime_ns]
    return json.loads(to_json_bytes(values))  # lists in place of tuples, as they are read again


def _outputs(wanted: Segmenting) -> dict[str, str]:
    """Return the files and folders that are written: format, or "pictures" -> name below the folder of the results."""
    outputs = {name: _output_of(name) for name in wanted.formats}
    return outputs | ({PICTURES: PICTURES} if wanted.pictures else {})


def _output_of(name: str) -> str:
    """Return the file or folder that a format is written to, below the folder of the results."""
    form = FORMATS[name]
    return form.file if form.one_file else _FOLDERS.get(name, name)


def _is_same(one: Path, other: Path) -> bool:
    return other.exists() and one.exists() and one.samefile(other)


def _find(wanted: Segmenting, run_pack: Callable[..., StageResult], ready: Ready, *, bar: Bar, say: Say) -> _Found:
    """Pack the photos and run the stages."""
    arguments: dict[str, Any] = {} if wanted.checkpoint is None else {"checkpoint": wanted.checkpoint}
    results: list[StageResult] = []

    def stage(name: str, call: Callable[..., StageResult]) -> StageResult:
        with bar(name) as progress:
            result = call(config=ready.config, progress=progress, say=say)
        result.check_complete()
        results.append(result)
        return result

    packed = stage("pack", run_pack)
    shards = [item.shard for item in packed.shards]
    for name in ready.stages if packed.count("samples_out") else ():
        further: dict[str, Any] = {"loaded_before": tuple(ready.networks)} if name == "depth" else {}
        stage(name, partial(STAGES[name].run, shards, **arguments, **further))
        ready.networks.clear()  # what follows wants the memory
    source: Source = "masks" if wanted.checkpoint is None else "detections"
    return _Found(shards=shards, source=source, results=results, title=ready.title, notes=ready.notes)


def _export(
    wanted: Segmenting, found: _Found, outputs: Mapping[str, str], *, announce: Announce, bar: Bar, say: Say
) -> dict[str, Exported]:
    """Export what was found. Returns format -> what was exported."""
    if not found.instances:
        say("warning: no instance was found in any photo" if found.photos else "warning: no photo could be segmented")
    exported = {}
    for name in [name for name in outputs if name != PICTURES] if found.instances else ():
        request = Request(
            to=name,
            out=wanted.out / outputs[name],
            source=found.source,
            category=wanted.category if "category" in FORMATS[name].takes else None,
            if_exists="overwrite",
            announce=announce,
        )
        with bar(f"export {name}") as progress:
            exported[name] = export(found.shards, request, say=say, progress=progress)
    return exported


def _draw(wanted: Segmenting, found: _Found, outputs: Mapping[str, str], *, announce: Announce, bar: Bar) -> list[str]:
    """Draw every photo. Returns what was drawn."""
    if PICTURES not in outputs or not found.photos:
        return []
    folder = wanted.out / outputs[PICTURES]
    with bar(PICTURES) as progress:
        draw_all(
            found.shards,
            folder,
            source=found.source,
            title=found.title,
            notes=found.notes,
            announce=announce,
            progress=progress,
        )
    return [PICTURES]


def _result(
    wanted: Segmenting, found: _Found, exported: Mapping[str, Exported], *, listing: Listing, written: Mapping[str, str]
) -> Segmented:
    files = {photo.key: photo.file for photo in listing.photos}
    failed: dict[str, dict[str, str]] = {}
    for result in found.results:
        for item in result.failed:  # one that failed in a stage fails in those after it: the first reason is the cause
            file = item.get("file") or files.get(item["key"], item["key"])
            # Of maps that lie in a folder, it is the folder that lacks one.
            lacks_map = item["reason"] == NO_SENSOR_MAP and wanted.depth_dir is not None
            reason = f"there is no depth map of it in {wanted.depth_dir}" if lacks_map else item["reason"]
            failed.setdefault(item["key"], {"file": file, "stage": result.stage, "reason": reason})
    counted_empty = next((report.empty for report in exported.values()), found.count("without_mask"))
    return Segmented(
        out=wanted.out,
        photos=found.photos,
        instances=found.instances,
        empty=counted_empty if found.instances else found.photos,
        failed=list(failed.values()),
        written=written,
        notes=found.notes,
        made_by=found.title,
    )


def _before(wanted: Segmenting, stored: Mapping[str, Any]) -> Segmented:
    """Return the result of a finished run, as it was recorded.

    Raises:
        FileError: it is none.
    """
    try:
        return Segmented(
            out=wanted.out,
            photos=int(stored["photos"]),
            instances=int(stored["instances"]),
            empty=int(stored["without_instance"]),
            failed=[{name: str(item[name]) for name in ("file", "stage", "reason")} for item in stored["failed"]],
            written={str(what): str(wanted.out / where) for what, where in stored["written"].items()},
            notes=[str(note) for note in stored["notes"]],
            made_by=str(stored["made_by"]),
            finished_before=True,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{wanted.out / RECORD} is damaged: choose another ", Setting("out")) from error
