"""Draws all photos of shards, each into a file of its own: their cuts, or what a detector found in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cuts3d_cli.engine.results import Progress
from cuts3d_cli.errors import Cuts3dError, SampleError
from cuts3d_cli.exports.output import Announce, Output
from cuts3d_cli.figures.segmentation_sheet import draw
from cuts3d_cli.figures.sheet import ENCODERS
from cuts3d_cli.inspection.viz import Notes
from cuts3d_cli.inspection.viz_sample import StoredResults
from cuts3d_cli.segmentation import Segmentation
from cuts3d_cli.shards.reader import Sample, read_shard
from cuts3d_cli.sidecars.detections import decode as decode_detections
from cuts3d_cli.sidecars.finished import require
from cuts3d_cli.sidecars.found import FoundReader, Source, stage_of
from cuts3d_cli.sidecars.photos import photo, photo_facts
from cuts3d_cli.sidecars.segmentation import segmentation_of

ENDING = ".jpg"


def draw_all(
    shards: Sequence[Path],
    out: Path,
    *,
    source: Source,
    title: str,
    notes: Sequence[str] = (),
    announce: Announce | None = None,
    progress: Progress | None = None,
) -> int:
    """Draw every photo of some shards into `out/PHOTO.jpg`; files that are there are replaced.

    Args:
        shards: base shards with finished sidecars.
        out: folder of the pictures, made if missing.
        source: the masks of `cuts3d pseudo`, with every step, or the detections of `cuts3d predict`.
        title: what made them; follows the name of each photo.
        notes: below each picture.
        announce: told of every picture before it takes its name.
        progress: receives progress events.

    Returns:
        The number of pictures: of all photos on which the stage did not fail.

    Raises:
        ShardError: a sidecar is missing, damaged or stale.
        Cuts3dError: a photo is damaged.
        FileError: a picture cannot be written.
    """
    progress = progress or Progress()
    progress.begin([(base, None) for base in shards])
    folder, count = Output(out, if_exists="overwrite", announce=announce), 0
    for base in shards:
        progress.start(base, why="")
        for sample, segmentation, own in _cut(base) if source == "masks" else _detected(base):
            file = str(photo_facts(sample)["source"])
            picture = draw(segmentation, title=f"{file}: {title}", notes=[*notes, *own])
            folder.write(folder.stem_of(file) + ENDING, ENCODERS[ENDING](picture))
            count += 1
            progress.advance(failed=False)
        progress.finish(base)
    return count


def _cut(base: Path) -> Iterator[tuple[Sample, Segmentation, Sequence[str]]]:
    """Yield each photo with its masks and the steps that led to them, and notes of its own."""
    with FoundReader(base, stage_of("masks")) as found, StoredResults(base) as stored:
        keys = set(found.keys)
        for sample in read_shard(base):
            if sample.key in keys:
                notes = Notes(lambda line: None)
                yield sample, stored.segmentation(sample, notes=notes), notes.lines


def _detected(base: Path) -> Iterator[tuple[Sample, Segmentation, Sequence[str]]]:
    """Yield each photo with what a detector found in it."""
    with require(base, stage_of("detections")).open() as reader:
        for sample in read_shard(base):
            stored = reader.get(sample.key)
            if stored is None:
                continue
            try:
                yield sample, segmentation_of(np.asarray(photo(sample)), found=decode_detections(stored)), ()
            except SampleError as error:
                raise Cuts3dError(f"{base}: {sample.key}: {error}") from error
