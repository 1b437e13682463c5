"""Makes a report: reads shards, has the pictures drawn in worker processes, and writes the folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from cuts3d_cli.config import RunConfig
from cuts3d_cli.engine.pool import WorkerPool, result_of
from cuts3d_cli.engine.results import Progress
from cuts3d_cli.errors import FileError, Message, SampleError, Setting, SettingError
from cuts3d_cli.exports.output import Output
from cuts3d_cli.files import one_writer
from cuts3d_cli.reports import drawing
from cuts3d_cli.reports.drawing import Job, Thumbnails
from cuts3d_cli.reports.page import Gallery, data_of, page_of
from cuts3d_cli.reports.reading import Photo, Shelf, Stored, open_shelf, read_photos
from cuts3d_cli.reports.records import PhotoRecord, worst_first
from cuts3d_cli.sidecars.found import Source
from cuts3d_cli.stages.own_results import REPORT_DATA, REPORT_PICTURES, is_report
from cuts3d_cli.wording import Say, first_line, listed

_Result = TypeVar("_Result")
PAGE, DATA = "index.html", REPORT_DATA
ASSETS = ("report.css", "report.js")
_LOCK = ".report.lock"
_OURS = re.compile(rf"({'|'.join(REPORT_PICTURES)})/\d{{3,}}/\d{{6,}}\.jpg")
"""Pictures in the folder of a report, all numbered by the report itself: names of photos name no file."""
DRAWING = "drawing"
"""The stage of a photo whose pictures could not be drawn."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be reported.

    Attributes:
        out: folder to write into.
        source: masks or detections.
        generation: of self-training, as in "st1"; None for those of `cuts3d pseudo` and `cuts3d predict`.
        min_score: lowest score of what is shown; None for 0, and for 0.5 of detections.
        ground_truth: a COCO JSON to compare with, or None.
        steps: for how many photos at most every step is drawn: the worst where there is a ground truth, else the first.
    """

    out: Path
    source: Source = "masks"
    generation: str | None = None
    min_score: float | None = None
    ground_truth: Path | None = None
    steps: int = 500


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What was reported.

    Attributes:
        page: the page to open.
        photos: number of photos.
        masks: number of masks or detections that are shown.
        without: number of photos that did not fail and have none.
        failed: photos on which a stage, or their drawing, failed: "shard", "key", "stage" and "reason" each.
        steps: number of photos of which every step was drawn.
    """

    page: Path
    photos: int
    masks: int
    without: int
    failed: Sequence[dict[str, str]]
    steps: int

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            "page": str(self.page),
            "photos": self.photos,
            "masks": self.masks,
            "without": self.without,
            "failed": list(self.failed),
            "steps": self.steps,
        }


def report(
    shards: Sequence[Path],
    request: Request,
    *,
    run: RunConfig,
    say: Say = lambda line: None,
    progress: Progress | None = None,
) -> Reported:
    """Make a report of the masks or detections of shards. The same shards give the same bytes.

    A report that lies in the folder is replaced, files of others never are.

    Args:
        shards: base shards with finished sidecars.
        request: what to report.
        run: workers, and the limits of photos.
        say: prints a warning.
        progress: receives progress events.

    Raises:
        SettingError: the folder holds something else than a report, or is that of the shards; a lowest score is set and
            there are none.
        ShardError: a sidecar is missing, damaged or stale.
        UsageError: the ground truth cannot be used.
        FileError: a file cannot be written.
    """
    progress = progress or Progress()
    _check_folder(request.out, shards)
    shelf = open_shelf(
        shards,
        source=request.source,
        generation=request.generation,
        min_score=request.min_score,
        ground_truth=request.ground_truth,
        max_pixels=run.max_image_pixels,
    )
    for line in shelf.warnings:
        say(f"warning: {line}")
    with one_writer(request.out, lock=_LOCK):
        return _made(shelf, request, run=run, say=say, progress=progress)


def _made(shelf: Shelf, request: Request, *, run: RunConfig, say: Say, progress: Progress) -> Reported:
    """Draw all pictures and write the page; see `report`."""
    out = Output(request.out, if_exists="overwrite")
    out.write(DATA, data_of(None))
    progress.begin([(item.base, item.found.manifest.counts.get("samples_in")) for item in shelf.shards])
    with WorkerPool.of(run) as pool:
        records: list[PhotoRecord] = []
        spans = []
        for stored in shelf.shards:
            first = len(records)
            records += _draw_thumbnails(shelf, stored, pool, out, progress, first=first)
            spans.append(range(first, len(records)))
        chosen = _chosen(shelf, records, most=request.steps, say=say)
        of_shards = [
            (stored, {records[place].key: place for place in span if place in chosen})
            for stored, span in zip(shelf.shards, spans, strict=True)
        ]
        of_shards = [(stored, places) for stored, places in of_shards if places]
        progress.begin([(stored.base, len(places)) for stored, places in of_shards])
        drawn: set[int] = set()
        for stored, places in of_shards:
            drawn |= _draw_steps(shelf, stored, places, pool, out, progress, say=say)
    records = [replace(record, steps=place in drawn) for place, record in enumerate(records)]
    _write_page(Gallery.of(shelf, records), out)
    _remove_old(request.out, records)
    failed = [
        {"shard": item.shard, "key": item.key, "stage": item.failed[0], "reason": item.failed[1]}
        for item in records
        if item.failed
    ]
    return Reported(
        page=request.out / PAGE,
        photos=len(records),
        masks=sum(len(item.masks) for item in records),
        without=sum(not item.masks and not item.failed for item in records),
        failed=failed,
        steps=len(drawn),
    )


def _check_folder(out: Path, shards: Sequence[Path]) -> None:
    """Make sure that nobody's files are replaced.

    Raises:
        SettingError: the folder holds something else than a report, or is a file.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise SettingError("out", f"is {out}, a file: name a folder")
    if any(base.parent.samefile(out) for base in shards):
        raise SettingError("out", f"is {out}, the folder of the shards: name another")
    if not is_report(out) and any(path.name != _LOCK for path in out.iterdir()):
        raise SettingError("out", f"is {out}, a folder with files that are no report: name a new one")


def _draw_thumbnails(
    shelf: Shelf, stored: Stored, pool: WorkerPool, out: Output, progress: Progress, *, first: int
) -> list[PhotoRecord]:
    """Draw the thumbnails of a shard, numbered from `first`. Returns what is known of its photos."""
    records: list[PhotoRecord] = []
    progress.start(stored.base, why="")
    for photo, made in _drawn(pool, drawing.thumbnails, read_photos(shelf, stored)):
        place = first + len(records)
        record = photo.record
        if isinstance(made, Thumbnails):
            out.write(picture_name("thumbnails", place), made.masks_jpeg)
            if made.truth_jpeg is not None:
                out.write(picture_name("truth", place), made.truth_jpeg)
            record = replace(
                record, size=made.size, thumbnail=True, masks=made.masks, depth=made.depth, truth=made.truth
            )
        elif made is not None and record.failed is None:
            record = replace(record, failed=(DRAWING, made))
        records.append(record)
        progress.advance(failed=record.failed is not None)
    progress.finish(stored.base)
    return records


def _chosen(shelf: Shelf, records: Sequence[PhotoRecord], *, most: int, say: Say) -> set[int]:
    """Choose the photos of which every step is drawn. Returns their places."""
    order = worst_first(records) if shelf.truth is not None else range(len(records))
    possible = [place for place in order if records[place].thumbnail]
    if most < len(possible):
        which = "worst" if shelf.truth is not None else "first"
        all_of_them = Setting("steps", len(possible))
        say(Message(f"every step is drawn of the {which} {most} photos; of all of them with ", all_of_them))
    return set(possible[:most])


def _draw_steps(
    shelf: Shelf,
    stored: Stored,
    places: Mapping[str, int],
    pool: WorkerPool,
    out: Output,
    progress: Progress,
    *,
    say: Say,
) -> set[int]:
    """Draw every step of some photos of a shard, named by key with their places. Returns the places of those drawn."""
    drawn: set[int] = set()
    failed = []
    progress.start(stored.base, why="drawing every step")
    for photo, made in _drawn(pool, drawing.steps, read_photos(shelf, stored, only=places)):
        place = places[photo.record.key]
        if isinstance(made, bytes):
            out.write(picture_name("steps", place), made)
            drawn.add(place)
        else:
            failed.append(f"{photo.record.key} ({made})")
        progress.advance(failed=not isinstance(made, bytes))
    progress.finish(stored.base)
    if failed:
        say(f"warning: {stored.base.name}: not every step could be drawn of {len(failed)} photos: {listed(failed)}")
    return drawn


def _drawn(
    pool: WorkerPool, draw: Callable[[Job], _Result], photos: Iterator[Photo]
) -> Iterator[tuple[Photo, _Result | str | None]]:
    """Draw photos in worker processes. Yields each with its pictures, or with why they failed."""
    for photo, future in pool.in_order(draw, ((photo, photo.job) for photo in photos)):
        # Do not hold the photos that are done.
        photo.job = None
        if future is None:
            yield photo, None
            continue
        try:
            yield photo, result_of(future)
        except SampleError as error:
            yield photo, first_line(error)


def picture_name(kind: str, place: int) -> str:
    """Return the path of a picture in the folder of a report, as `report.js` forms it too.

    Args:
        kind: "thumbnails", "truth" or "steps".
        place: of the photo, from 0.
    """
    return f"{kind}/{place // 1000:03d}/{place:06d}.jpg"


def _write_page(gallery: Gallery, out: Output) -> None:
    """Write the page; its data last, which finish the report."""
    assets = resources.files("cuts3d_cli.reports") / "assets"
    for name in ASSETS:
        out.write(name, (assets / name).read_bytes())
    out.write(PAGE, page_of(gallery, template=(assets / PAGE).read_text(encoding="utf-8")))
    out.write(DATA, data_of(gallery))


def _remove_old(folder: Path, records: Sequence[PhotoRecord]) -> None:
    """Remove the pictures that an earlier report of more photos has left.

    Raises:
        FileError: one cannot be removed.
    """
    current = {
        picture_name(kind, place)
        for place, record in enumerate(records)
        for kind, there in (
            ("thumbnails", record.thumbnail),
            ("truth", record.truth is not None),
            ("steps", record.steps),
        )
        if there
    }
    for kind in REPORT_PICTURES:
        for path in sorted((folder / kind).glob("*/*.jpg")):
            name = path.relative_to(folder).as_posix()
            if _OURS.fullmatch(name) and name not in current:
                try:
                    path.unlink()
                except OSError as error:
                    raise FileError(f"{path} cannot be removed: {error.strerror}") from error
