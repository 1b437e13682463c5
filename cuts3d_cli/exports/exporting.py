"""Exports what is stored in shards: reads sidecars, computes nothing, and needs no network."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cuts3d_cli._version import __version__
from cuts3d_cli.engine.results import Progress
from cuts3d_cli.errors import FileError, Setting, SettingError
from cuts3d_cli.exports.formats import FORMATS, Format
from cuts3d_cli.exports.options import Options
from cuts3d_cli.exports.output import Announce, IfExists, Output
from cuts3d_cli.exports.photos import FoundInstance, FoundPhoto
from cuts3d_cli.json_reading import is_whole
from cuts3d_cli.shards.names import failed_in
from cuts3d_cli.shards.reader import Sample, SidecarReader, read_shard
from cuts3d_cli.sidecars.finished import mixed_settings, require
from cuts3d_cli.sidecars.found import Found, FoundReader, Source, have_confidence, stage_of
from cuts3d_cli.sidecars.photos import FACTS, image_member, photo_facts
from cuts3d_cli.wording import Say, be, counted, listed

TITLES: Mapping[Source, str] = {"masks": "pseudo-masks", "detections": "detections"}
"""What an export calls itself; `cuts3d eval` takes no file of pseudo-masks for a ground truth."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be exported.

    Attributes:
        to: name of a format.
        out: a file or a folder, as the format has it.
        source: masks or detections.
        generation: of self-training, as in "st1"; None for those of `cuts3d pseudo` and `cuts3d predict`.
        min_score: instances of a lower score are left out.
        category: name of the only category; None for "object".
        photos: write the photos too; None for what is usual in the format.
        photo_prefix: what stands before the path of each photo; None for what is usual in the format.
        tolerance: by how many pixels polygons may deviate from the edges of masks; None for 1.
        if_exists: what to do about files that are there.
        announce: told of every file before it takes its name.
    """

    to: str
    out: Path
    source: Source = "masks"
    generation: str | None = None
    min_score: float = 0.0
    category: str | None = None
    photos: bool | None = None
    photo_prefix: str | None = None
    tolerance: float | None = None
    if_exists: IfExists = "resume"
    announce: Announce | None = None


@dataclass(kw_only=True)
class Exported:
    """What was exported.

    Attributes:
        to: name of the format.
        out: the file or folder.
        photos: number of photos.
        instances: number of instances.
        empty: number of photos without an instance.
        failed: number of photos that are left out, since the stage failed on them.
        below: number of instances that are left out, since their score is too low or their mask is empty.
        unscored: number of photos on which `cuts3d confidence` failed, and whose masks have the score 0.
        classes: number of instances with a class of the detector's.
        written: number of files that were written.
        same: number of files that were there with the same content.
        changed: what was changed in some instances, since the format knows no better -> in how many.
    """

    to: str
    out: Path
    photos: int = 0
    instances: int = 0
    empty: int = 0
    failed: int = 0
    below: int = 0
    unscored: int = 0
    classes: int = 0
    written: int = 0
    same: int = 0
    changed: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        names = ("photos", "instances", "empty", "failed", "below", "unscored", "classes", "written", "same")
        return {
            "to": self.to,
            "out": str(self.out),
            **{name: getattr(self, name) for name in names},
            "changed": {what: number for what, number in self.changed.items() if number},
        }


def export(
    shards: Sequence[Path],
    request: Request,
    *,
    say: Say = lambda line: None,
    progress: Progress | None = None,
) -> Exported:
    """Export the masks or detections of shards.

    Photos are numbered as in the shards if all their numbers are different, else from 1. Photos on which the stage
    failed are left out. The same shards give the same bytes; files that are there already with the same content are
    left as they are.

    Args:
        shards: base shards with finished sidecars.
        request: what to export, and where to.
        say: prints a warning.
        progress: receives progress events.

    Returns:
        What was exported.

    Raises:
        SettingError: there is no such format, it does not heed an option, or the folder is that of the shards.
        ShardError: a sidecar is missing, damaged or stale.
        FileError: there is no instance, or a file cannot be written.
    """
    progress = progress or Progress()
    # Check what is asked for, and that all of it is there, before anything is written.
    form = _format(request.to)
    options = _options(form, request)
    folder, name = _place(form, request, options, shards)
    stage = stage_of(request.source, request.generation)
    sidecars = [require(base, stage) for base in shards]
    if mixed := mixed_settings(sidecars):
        say(f"warning: {mixed}")
    scored = have_confidence(shards, stage)
    if request.min_score and stage == "pseudo" and not scored:
        raise SettingError("min_score", "has no effect on masks without scores: run `cuts3d confidence` first")
    # Write photo by photo.
    progress.begin([(item.tar, item.manifest.counts.get("samples_out")) for item in sidecars])
    report = Exported(to=request.to, out=request.out)
    photos = _found(shards, stage, request, scored=scored, numbers=_numbers(shards), into=report, progress=progress)
    first = _up_to_first_instance(photos, report, request)
    out = Output(folder, if_exists=request.if_exists, announce=request.announce)
    report.changed = dict(form.load()(itertools.chain(first, photos), out, replace(options, file=name)))
    if not form.classes:
        report.changed["instances whose class has no place in this format"] = report.classes
    report.written, report.same = out.written, out.same
    # Report what is not in it.
    if report.failed:
        failed = [key for item in sidecars for key in item.failures]
        say(
            f"warning: {counted(report.failed, 'photo')} {failed_in(stage)} and {be(report.failed)}"
            f" left out: {listed(failed)}"
        )
    if report.unscored:
        say(f"warning: {counted(report.unscored, 'photo')} {failed_in('confidence')}, and have masks of the score 0")
    for what, number in report.changed.items():
        if number:
            say(f"{counted(number, 'instance')} {what.removeprefix('instances ')}")
    return report


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise SettingError("to", f"is '{name}': choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def _options(form: Format, request: Request) -> Options:
    """Return the options of a format. Raises SettingError for one that it does not heed."""
    given = {name: getattr(request, name) for name in ("category", "photos", "photo_prefix", "tolerance")}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in form.takes:
            raise SettingError(name, f"has no effect on the format {form.name}: leave it out")
    if not 0 <= given.get("tolerance", 0) < 100:
        raise SettingError("tolerance", f"is {given['tolerance']}: it must be from 0 to 100 pixels")
    if not given.get("category", "object").strip():
        raise SettingError("category", "is empty: name what was found")
    title = f"{TITLES[request.source]} by cuts3d {__version__}"
    return replace(Options(file=form.file, title=title, photos=form.photos), **given)


def _place(form: Format, request: Request, options: Options, shards: Sequence[Path]) -> tuple[Path, str]:
    """Return the folder to write into, and the name of the only file.

    Raises:
        SettingError: a file is named and a folder is needed, or the folder is that of the shards.
    """
    out = request.out
    is_file = out.suffix == Path(form.file).suffix != "" and not out.is_dir()
    if is_file and form.one_file:
        if options.photos:
            raise SettingError("out", f"is {out}, a file: name a folder, for the photos and {form.file}")
        return out.parent, out.name
    if is_file or (out.exists() and not out.is_dir()):
        raise SettingError("out", f"is {out}, a file: the format {form.name} needs a folder")
    if any(out.exists() and base.parent.samefile(out) for base in shards):
        raise SettingError("out", f"is {out}, the folder of the shards: name another, whose files are no shards")
    return out, form.file


def _numbers(shards: Sequence[Path]) -> Iterator[int] | None:
    """Return numbers for the photos; None if all have different ones of their own."""
    seen: set[int] = set()
    for base in shards:
        with SidecarReader(base) as reader:
            for key in reader.keys:
                sample = reader.pick(key, only=(FACTS, "json"))
                number = photo_facts(sample).get("id") if sample is not None else None
                if not is_whole(number) or number in seen:
                    return itertools.count(1)
                seen.add(number)
    return None


def _found(
    shards: Sequence[Path],
    stage: str,
    request: Request,
    *,
    scored: bool,
    numbers: Iterator[int] | None,
    into: Exported,
    progress: Progress,
) -> Iterator[FoundPhoto]:
    """Read the photos one by one, each with what was found in it, and count."""
    for base in shards:
        progress.start(base, why="")
        with FoundReader(base, stage, scored=scored) as reader:
            for sample in read_shard(base):
                found = reader.get(sample.key)
                into.failed += found is None
                if found is not None:
                    yield _photo(sample, found, request, numbers=numbers, into=into)
                    progress.advance(failed=False)
        progress.finish(base)


def _photo(
    sample: Sample, found: Found, request: Request, *, numbers: Iterator[int] | None, into: Exported
) -> FoundPhoto:
    facts = photo_facts(sample)
    scores = [0.0] * len(found.instances) if found.scores is None else found.scores
    instances = [
        FoundInstance(mask=item.segmentation, box=item.box, area=item.area, score=score, class_id=item.class_id)
        for item, score in zip(found.instances, scores, strict=True)
        if score >= request.min_score and item.area > 0
    ]
    into.photos += 1
    into.instances += len(instances)
    into.empty += not instances
    into.below += len(found.instances) - len(instances)
    into.unscored += found.scores is None
    into.classes += sum(item.class_id is not None for item in instances)
    return FoundPhoto(
        id=facts["id"] if numbers is None else next(numbers),
        file=facts["source"],
        size=found.size,
        instances=instances,
        read=lambda: image_member(sample)[1],
    )


def _up_to_first_instance(photos: Iterator[FoundPhoto], report: Exported, request: Request) -> list[FoundPhoto]:
    """Read photos until one has an instance, so that nothing is written where none has.

    Raises:
        FileError: none has.
    """
    read = []
    for photo in photos:
        read.append(photo)
        if photo.instances:
            return read
    why = f"{counted(report.photos, 'photo')}, {report.failed} failed, {counted(report.below, 'instance')} below "
    raise FileError(f"there is no instance to export ({why}", Setting("min_score", request.min_score), ")")
