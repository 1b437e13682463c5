"""Reads shards for a report: each photo with all that is stored of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cuts3d_cli.config import PseudoConfig
from cuts3d_cli.errors import SettingError
from cuts3d_cli.evaluation.datasets.ground_truth import list_ground_truth
from cuts3d_cli.evaluation.metrics import Instance
from cuts3d_cli.evaluation.shards import paired_truth
from cuts3d_cli.reports.drawing import Job
from cuts3d_cli.reports.records import PhotoRecord
from cuts3d_cli.shards.manifest import Manifest, load_manifest
from cuts3d_cli.shards.names import manifest_path
from cuts3d_cli.shards.reader import Sample, SidecarReader
from cuts3d_cli.sidecars import detections, masks
from cuts3d_cli.sidecars.confidence import current_confidence
from cuts3d_cli.sidecars.detections import StoredDetections
from cuts3d_cli.sidecars.finished import FinishedSidecar, finished, mixed_settings, require
from cuts3d_cli.sidecars.found import FoundReader, Source, have_confidence, stage_of
from cuts3d_cli.sidecars.masks import StoredMasks
from cuts3d_cli.sidecars.photos import photo_facts
from cuts3d_cli.sidecars.segmentation import settings_of, title_of
from cuts3d_cli.stages.pack import STAGE as PACK
from cuts3d_cli.wording import be, counted

MIN_SCORE = 0.5
"""Lowest score of detections that are shown, unless it is set."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The sidecars of a base shard that a report reads.

    Attributes:
        base: the base shard.
        packed: its manifest; None for a shard of another program.
        found: masks or detections.
        depth: None where there is no finished sidecar.
        confidence: None where the masks have no scores.
        settings: by which the masks were cut; None where that is not known.
    """

    base: Path
    packed: Manifest | None
    found: FinishedSidecar
    depth: FinishedSidecar | None
    confidence: FinishedSidecar | None
    settings: PseudoConfig | None

    def manifests(self) -> dict[str, Manifest]:
        """Return the manifests by stage, in the order in which the stages ran."""
        every = {
            "pack": self.packed,
            "depth": self.depth and self.depth.manifest,
            self.found.manifest.stage: self.found.manifest,
            "confidence": self.confidence and self.confidence.manifest,
        }
        return {stage: manifest for stage, manifest in every.items() if manifest is not None}


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """What a report is made of, before its photos are read.

    Attributes:
        stage: whose masks or detections are shown, as in "pseudo" or "predict.st1".
        source: masks or detections.
        scored: whether the masks have scores that tell them apart.
        min_score: masks of a lower score are left out.
        shards: in order.
        truth: (base shard, key) -> the instances of the ground truth; None without a ground truth.
        warnings: one line each.
        notes: the same with the names of files alone, without their folders.
        max_pixels: a photo with more is refused.
    """

    stage: str
    source: Source
    scored: bool
    min_score: float
    shards: Sequence[Stored]
    truth: Mapping[tuple[Path, str], Sequence[Instance]] | None
    warnings: Sequence[str]
    notes: Sequence[str]
    max_pixels: int

    @property
    def made_by(self) -> str:
        """What made the masks or detections of the first shard, in a few words."""
        return title_of(self.shards[0].found.manifest, self.shards[0].settings)


@dataclass(kw_only=True)
class Photo:
    """A photo of a shard.

    Attributes:
        record: what is known without opening it.
        job: its pictures to draw; None where there is no photo to open, since packing refused it.
    """

    record: PhotoRecord
    job: Job | None = field(default=None)


def open_shelf(
    shards: Sequence[Path],
    *,
    source: Source,
    generation: str | None,
    min_score: float | None,
    ground_truth: Path | None,
    max_pixels: int,
) -> Shelf:
    """Find all that a report is made of.

    Args:
        shards: base shards with finished sidecars.
        source: masks or detections.
        generation: of self-training, as in "st1"; None for those of `cuts3d pseudo` and `cuts3d predict`.
        min_score: lowest score of what is shown; None for 0, and for `MIN_SCORE` of detections.
        ground_truth: a COCO JSON, or None.
        max_pixels: a photo with more is refused.

    Raises:
        ShardError: a sidecar is missing, damaged or stale.
        SettingError: a lowest score is set, and there are no scores.
        UsageError: the ground truth cannot be used.
    """
    stage = stage_of(source, generation)
    stored = [_stored(base, stage) for base in shards]
    confident = have_confidence(shards, stage)
    if min_score and stage == "pseudo" and not confident:
        raise SettingError("min_score", "has no effect on masks without scores: run `cuts3d confidence` first")
    mixed = mixed_settings([item.found for item in stored])
    truth, warnings = None, [mixed] if mixed else []
    if ground_truth is not None:
        pairing, read = paired_truth(shards, list_ground_truth(ground_truth))
        truth = {
            (photo.shard, photo.key): read.instances[image]
            for image, photo in pairing.photos.items()
            if image in read.instances
        }
        warnings += read.warnings
        if pairing.missing:
            warnings.append(
                f"{counted(len(pairing.missing), 'image')} of {ground_truth.name}"
                f" {be(len(pairing.missing))} in none of the shards"
            )
        if pairing.extra:
            warnings.append(
                f"{counted(len(pairing.extra), 'photo')} {be(len(pairing.extra))} not in {ground_truth.name}"
            )
    # The page is the same wherever the files lie.
    folders = {f"{path.parent}/" for path in (*shards, *([ground_truth] if ground_truth else []))} - {"./"}
    notes = warnings
    for folder in sorted(folders, key=len, reverse=True):
        notes = [line.replace(folder, "") for line in notes]
    return Shelf(
        stage=stage,
        source=source,
        scored=confident or stage != "pseudo",
        min_score=min_score if min_score is not None else MIN_SCORE if source == "detections" else 0.0,
        shards=stored,
        truth=truth,
        warnings=warnings,
        notes=notes,
        max_pixels=max_pixels,
    )


def _stored(base: Path, stage: str) -> Stored:
    packed = load_manifest(manifest_path(base)) if manifest_path(base).exists() else None
    found = require(base, stage)
    return Stored(
        base=base,
        packed=packed if packed is not None and packed.stage == PACK else None,
        found=found,
        depth=finished(base, "depth"),
        confidence=current_confidence(base) if stage == "pseudo" else None,
        settings=settings_of(found.tar, found.manifest),
    )


def read_photos(shelf: Shelf, stored: Stored, *, only: Collection[str] | None = None) -> Iterator[Photo]:
    """Read the photos of a shard, one at a time.

    Args:
        shelf: to which the shard belongs.
        stored: the shard.
        only: keys of the photos to read; None for all, and for those that packing refused.

    Raises:
        ShardError: a tar is damaged.
    """
    with ExitStack() as stack:
        photos = stack.enter_context(SidecarReader(stored.base))
        scored = stored.confidence is not None
        found = stack.enter_context(FoundReader(stored.base, shelf.stage, scored=scored))
        depth, confidence = (
            stack.enter_context(item.open()) if item else None for item in (stored.depth, stored.confidence)
        )
        for key in photos.keys:
            if only is None or key in only:
                sample = photos.pick(key)
                assert sample is not None, "the key is one of the shard's"
                yield _photo(shelf, stored, sample, found, depth, confidence)
    for item in stored.packed.failed if stored.packed and only is None else ():
        record = PhotoRecord(
            name=item["key"], key=item["key"], shard=stored.base.name, failed=(PACK, str(item["reason"]))
        )
        yield Photo(record=record)


def _photo(
    shelf: Shelf,
    stored: Stored,
    sample: Sample,
    reader: FoundReader,
    depth: SidecarReader | None,
    confidence: SidecarReader | None,
) -> Photo:
    key = sample.key
    found = reader.get(key)
    content: StoredMasks | StoredDetections | None = None
    if found is not None:
        decode = detections.decode if shelf.source == "detections" else masks.decode
        content = decode(found.sample)
    cut = content.cut if isinstance(content, StoredMasks) else None
    dropped = [(item.iteration + 1, item.reason) for item in cut.dropped] if cut else []
    reason = None if found is not None else stored.found.failures.get(key, "it is not in the sidecar")
    # Photos that failed in `cuts3d confidence` have masks without scores, which come last.
    scores = [] if found is None else [0.0] * len(found.instances) if found.scores is None else list(found.scores)
    failed: tuple[str, str] | None
    if reason is None and found is not None and found.scores is None and stored.confidence is not None:
        failed = ("confidence", stored.confidence.failures.get(key, "it is not in the sidecar"))
    else:
        failed = None if reason is None else (shelf.stage, reason)
    record = PhotoRecord(
        name=photo_facts(sample)["source"],
        key=key,
        shard=stored.base.name,
        failed=failed,
        dropped=dropped,
        stopped=cut.stopped if cut else None,
    )
    job = Job(
        photo=sample,
        found=content,
        scores=scores,
        min_score=shelf.min_score,
        depth=depth.pick(key) if depth else None,
        confidence=confidence.pick(key) if confidence else None,
        truth=None if shelf.truth is None else shelf.truth.get((stored.base, key)),
        settings=stored.settings,
        title=f"{key}: {title_of(stored.found.manifest, stored.settings)}".rstrip(": "),
        notes=[f"cut {number} gave no mask: {why}" for number, why in dropped],
        max_pixels=shelf.max_pixels,
    )
    return Photo(record=record, job=job)
