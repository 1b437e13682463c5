"""Compares the masks in shards, pseudo-masks or predictions, with a ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cuts3d_cli.errors import SampleError, ShardError, UsageError
from cuts3d_cli.evaluation.datasets.coco_json import id_of
from cuts3d_cli.evaluation.datasets.files import photo_head
from cuts3d_cli.evaluation.datasets.frames import PhotoHead
from cuts3d_cli.evaluation.datasets.ground_truth import GroundTruth, ListedGroundTruth, TrueImage, list_ground_truth
from cuts3d_cli.evaluation.metrics import Metrics, Prediction, evaluate
from cuts3d_cli.evaluation.pairing import Pairing, ShardImage, pair_images
from cuts3d_cli.json_reading import is_whole
from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import failed_in, manifest_path
from cuts3d_cli.shards.reader import Sample, read_shard
from cuts3d_cli.sidecars.finished import mixed_settings, require
from cuts3d_cli.sidecars.found import Found, FoundReader, have_confidence, stage_of
from cuts3d_cli.sidecars.photos import image_member, photo_facts
from cuts3d_cli.stages.pack import STAGE as PACK
from cuts3d_cli.wording import be, counted, listed

UNSCORED = 0.0
"""Score of masks without a confidence where others have one, so that they come last."""


@dataclass
class _Collected:
    """The predictions in sidecars by image, the file names of images that failed or have no scores, and other masks."""

    predictions: dict[int, list[Prediction]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    unscored: list[str] = field(default_factory=list)
    unmatched: int = 0


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How the masks of some shards compare with a ground truth.

    Attributes:
        ground_truth: its file.
        shards: number of shards.
        scores: what ranks the masks: the mean confidence of each, the score 1.0 for all, or the detector's scores.
        failed: number of images of the ground truth that have no masks because `cuts3d pseudo` or `cuts3d predict`
            failed on them.
        missing: number of images of the ground truth that are left out: they are in none of the shards, or of another
            size there.
        extra: number of images of the shards that are not in the ground truth, and left out.
        empty: number of images that are compared and have no annotation in the ground truth.
        unmatched: number of masks of images that are left out.
        annotations: number of annotations of the images that are compared, and of no image.
        dropped: how many of them are left out, since they are unusable or of no image.
        metrics: of the images that are in both.
        warnings: one line each.
    """

    ground_truth: Path
    shards: int
    scores: Literal["confidence", "one", "detector"]
    failed: int
    missing: int
    extra: int
    empty: int
    unmatched: int
    annotations: int
    dropped: int
    metrics: Metrics
    warnings: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values: figures in [0, 1], full precision, null where undefined."""
        return {
            "ground_truth": str(self.ground_truth),
            "shards": self.shards,
            "scores": self.scores,
            "failed": self.failed,
            "missing": self.missing,
            "extra": self.extra,
            "empty": self.empty,
            "unmatched": self.unmatched,
            "annotations": self.annotations,
            "dropped": self.dropped,
            **self.metrics.to_json(),
            "warnings": list(self.warnings),
        }


def run(
    shards: Sequence[Path],
    *,
    ground_truth: Path,
    say: Callable[[str], None],
    predicted: bool = False,
    generation: str | None = None,
) -> Evaluation:
    """Compare the pseudo-masks of shards, or a detector's predictions, with a ground truth, class-agnostically.

    The images that are in both are evaluated. An image that failed in `cuts3d pseudo` is one of them, without a mask.
    Images of the ground truth that are in none of the shards are left out with a warning, since a dataset is often
    evaluated in part; recall is then that of the part. So are images of the shards that are not in the ground truth.

    The score of a mask is its mean confidence (paper: Sec. 3.4) where all shards have a confidence sidecar, else 1.0;
    `cuts3d_cli.evaluation.metrics` says which masks of equal score come first.

    Args:
        shards: base shards with finished sidecars of masks or predictions.
        ground_truth: a COCO JSON.
        say: prints a warning, or what ranks the masks.
        predicted: evaluate the predictions of a detector, with their boxes and scores, instead of the pseudo-masks.
        generation: of the predictions, as in "st1"; None for those of `cuts3d predict`.

    Returns:
        The figures.

    Raises:
        UsageError: the ground truth is unusable, or does not fit the shards.
        ShardError: a sidecar is missing, damaged or stale, or only some of the shards have confidence.
    """
    # Load the ground truth, and require finished sidecars.
    listing = list_ground_truth(ground_truth)
    stage = stage_of("detections", generation) if predicted else stage_of("masks")
    mixed = mixed_settings([require(base, stage) for base in shards])
    scored = have_confidence(shards, stage)
    pairing, truth = paired_truth(shards, listing)
    if all(item.crowd for items in truth.instances.values() for item in items):
        raise UsageError(
            f"{ground_truth}: no image of those that are in the shards ({len(truth.images)}) has an annotation of a"
            " single object (iscrowd 0): there is nothing to compare with"
        )
    # Collect the masks of these images.
    found = _Collected()
    made_by: Literal["pseudo", "predict"] = "predict" if predicted else "pseudo"
    for base in shards:
        wanted = {photo.key: image for image, photo in pairing.photos.items() if photo.shard == base}
        wanted = {key: image for key, image in wanted.items() if image in truth.images}
        _collect(FoundReader(base, stage, scored=scored), wanted, truth, into=found)
    if len(found.failed) == len(truth.images):
        images = f"all {len(truth.images)} images" if len(truth.images) > 1 else "the one image"
        raise ShardError(
            f"{images} that {ground_truth} and the shards share {failed_in(made_by)}"
            f" ({listed(found.failed)}): there is nothing to compare"
        )
    # Report what was left out, and compare.
    warnings = [mixed] if mixed else []
    warnings += _warnings(ground_truth, listing, truth, pairing, found, made_by=made_by)
    for line in warnings:
        say(f"warning: {line}")
    source: Literal["confidence", "one", "detector"] = "detector" if predicted else "confidence" if scored else "one"
    say(_SCORES[source])
    return Evaluation(
        ground_truth=ground_truth,
        shards=len(shards),
        scores=source,
        failed=len(found.failed),
        missing=len(listing.images) - len(truth.images),
        extra=len(pairing.extra),
        empty=sum(not items for items in truth.instances.values()),
        unmatched=found.unmatched,
        annotations=truth.annotations,
        dropped=truth.dropped,
        metrics=evaluate(found.predictions, truth.instances),
        warnings=warnings,
    )


def paired_truth(shards: Sequence[Path], listing: ListedGroundTruth) -> tuple[Pairing, GroundTruth]:
    """Find the images of a ground truth among the photos of shards, and read their annotations.

    Args:
        shards: base shards.
        listing: as `list_ground_truth` returns it.

    Returns:
        Which photo is which image, and the ground truth of those that are in both.

    Raises:
        UsageError: no image is in the shards, or the annotations of none can be used.
        ShardError: a shard is damaged.
    """
    photos = [photo for base in shards for photo in _photos(base)]
    pairing = pair_images(listing.images, photos, path=listing.path)
    if not pairing.photos:
        names = listed([image.file for image in listing.images.values()]) or "none"
        raise UsageError(
            f"{listing.path}: none of its {counted(len(listing.images), 'image')} ({names}) is in the shards"
            f" ({listed([photo.source for photo in photos]) or 'none'}): are they of the same data set?"
        )
    return pairing, listing.read(_heads(pairing, listing))


_SCORES = {
    "detector": "scores: the detector's",
    "confidence": "scores: the mean confidence of each mask",
    "one": "scores: 1.0 for every mask, the largest first (`cuts3d confidence` makes scores)",
}


def _photos(base: Path) -> Iterator[ShardImage]:
    """Yield the photos of a base shard, with what is recorded of them."""
    from_coco = _is_packed_from_coco(base)
    for sample in read_shard(base):
        facts = photo_facts(sample)
        width, height = facts.get("width"), facts.get("height")
        yield ShardImage(
            shard=base,
            key=sample.key,
            source=facts["source"],
            coco_id=id_of(facts.get("id")) if from_coco else None,
            size=(width, height) if is_whole(width) and is_whole(height) else _head(sample).size,
        )


def _heads(pairing: Pairing, listing: ListedGroundTruth) -> dict[int, PhotoHead]:
    """Return what each photo says of itself; its orientation only where the sizes differ."""
    heads = {image: PhotoHead(size=photo.size) for image, photo in pairing.photos.items()}
    unlike = {
        (photo.shard, photo.key): image
        for image, photo in pairing.photos.items()
        if photo.size is not None and listing.images[image].size not in (None, photo.size)
    }
    for base in dict.fromkeys(shard for shard, _ in unlike):
        for sample in read_shard(base):
            image = unlike.get((base, sample.key))
            if image is not None:
                heads[image] = PhotoHead(size=heads[image].size, orientation=_head(sample).orientation)
    return heads


def _head(sample: Sample) -> PhotoHead:
    """Read the head of the photo of a sample."""
    try:
        return photo_head(image_member(sample)[1])
    except SampleError:  # it has no photo, or several
        return PhotoHead(size=None)


def _is_packed_from_coco(base: Path) -> bool:
    """Tell whether the ids in a shard are those of a COCO JSON. Shards of other programs have no manifest."""
    if not manifest_path(base).exists():
        return False
    manifest = load_manifest(manifest_path(base))
    return manifest.stage == PACK and manifest.config.get("source") == "coco"


def _collect(reader: FoundReader, wanted: dict[str, int], truth: GroundTruth, *, into: _Collected) -> None:
    """Add what was found in the photos of one shard, with scores."""
    with reader:
        for key in reader.keys:
            found = reader.get(key)
            assert found is not None, "the key is one of the sidecar's"
            image = wanted.pop(key, None)
            if image is None:
                into.unmatched += len(found.instances)
                continue
            _check_size(found, truth.images[image])
            if found.scores is None:
                into.unscored.append(truth.images[image].file)
            scores = [UNSCORED] * len(found.instances) if found.scores is None else found.scores
            into.predictions[image] = [
                Prediction(box=item.box, score=score, mask=item.segmentation)
                for item, score in zip(found.instances, scores, strict=True)
            ]
        for key in wanted:
            reader.check_failed(key)
    into.failed += [truth.images[image].file for image in wanted.values()]


def _check_size(found: Found, image: TrueImage) -> None:
    """Check that masks are of the size of the photo in the ground truth.

    Raises:
        UsageError: they are not.
    """
    height, width = found.size
    if found.instances and (width, height) != (image.width, image.height):
        raise UsageError(
            f"{found.sample.file}: a mask of {found.sample.key} is {width}x{height}, {image.file} of the ground truth"
            f" is {image.width}x{image.height}: they must be the same photo at the same size"
        )


def _warnings(
    ground_truth: Path,
    listing: ListedGroundTruth,
    truth: GroundTruth,
    pairing: Pairing,
    found: _Collected,
    *,
    made_by: Literal["pseudo", "predict"],
) -> list[str]:
    """Return a line for each kind of image that is left out, or counts without masks or scores."""
    warnings = list(truth.warnings)
    if pairing.missing:
        names = [listing.images[image].file for image in pairing.missing]
        warnings.append(
            f"{len(names)} of {len(listing.images)} images of {ground_truth} are in none of the shards and left out:"
            f" {listed(names)}"
        )
    if pairing.extra:
        names = [photo.source for photo in pairing.extra]
        warnings.append(
            f"{counted(len(names), 'image')} of the shards {be(len(names))} not in {ground_truth} and left"
            f" out: {listed(names)}"
        )
    for how, images in (("base name alone", pairing.by_base_name), ("base name as it once was", pairing.by_old_name)):
        if images:
            pairs = [f"{pairing.photos[image].source} as {listing.images[image].file}" for image in images]
            warnings.append(f"{counted(len(pairs), 'image')} {be(len(pairs))} recognised by the {how}: {listed(pairs)}")
    if found.failed:
        warnings.append(
            f"{counted(len(found.failed), 'image')} {failed_in(made_by)} and {be(len(found.failed))}"
            f" counted as without a mask: {listed(found.failed)}"
        )
    if found.unscored:
        warnings.append(
            f"{counted(len(found.unscored), 'image')} {failed_in('confidence')}, whose masks come last:"
            f" {listed(found.unscored)}"
        )
    return warnings
