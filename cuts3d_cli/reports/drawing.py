"""The pictures of one photo in a report. Runs in worker processes: bytes in, bytes out."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import PseudoConfig
from cuts3d_cli.cut.masks import Rle, decode_rle
from cuts3d_cli.errors import SampleError
from cuts3d_cli.evaluation.metrics import Box, Instance, Judgement, Prediction, judge
from cuts3d_cli.figures.overlay import overlay_masks
from cuts3d_cli.figures.palette import RGB, instance_colours
from cuts3d_cli.figures.segmentation_sheet import draw
from cuts3d_cli.figures.sheet import Key, Panel, sheet
from cuts3d_cli.images import decode_image
from cuts3d_cli.reports.records import MaskRecord, TruthRecord, Verdict
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars import confidence, depth
from cuts3d_cli.sidecars.detections import StoredDetections
from cuts3d_cli.sidecars.masks import StoredMask, StoredMasks
from cuts3d_cli.sidecars.photos import image_member
from cuts3d_cli.sidecars.reading import Known
from cuts3d_cli.sidecars.segmentation import segmentation_of

THUMBNAIL = 320
"""Longer side of a thumbnail, pixels: sharp on screens of two pixels a point."""
TRUE_COLOUR: RGB = (86, 180, 233)
FALSE_COLOUR: RGB = (213, 94, 0)
IGNORED_COLOUR: RGB = (150, 150, 150)
MISSED_COLOUR: RGB = (240, 228, 66)
"""Beside a ground truth, from Okabe and Ito's palette; what was found has the colour of what found it."""
_VERDICTS: dict[Verdict, RGB] = {"true": TRUE_COLOUR, "false": FALSE_COLOUR, "ignored": IGNORED_COLOUR}
_WIDE = 420
"""Width of a panel beside the ground truth, pixels."""
_TRIM = 24
"""Pixels of the margins above and below that are left out there."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A photo with all that is stored of it.

    Attributes:
        photo: sample of the base shard.
        found: its masks or detections; None where the stage failed on it.
        scores: of each mask, in [0, 1].
        min_score: masks of a lower score are left out.
        depth: sample of the depth sidecar, or None.
        confidence: sample of the confidence sidecar, or None.
        truth: the instances of the ground truth; None where there is none of this photo.
        settings: by which the masks were cut; None where that is not known.
        title: of the picture of every step.
        notes: below it.
        max_pixels: a photo with more is refused.
    """

    photo: Sample
    found: StoredMasks | StoredDetections | None
    scores: Sequence[float]
    min_score: float
    depth: Sample | None
    confidence: Sample | None
    truth: Sequence[Instance] | None
    settings: PseudoConfig | None
    title: str
    notes: Sequence[str]
    max_pixels: int

    def kept(self) -> list[int]:
        """Return the places of the masks whose score is high enough."""
        return [place for place, score in enumerate(self.scores) if score >= self.min_score]


@dataclass(frozen=True, kw_only=True)
class Thumbnails:
    """The small pictures of a photo, and what was measured on the way.

    Attributes:
        masks_jpeg: the photo with its masks.
        truth_jpeg: the photo with its ground truth; None where there is none.
        size: (width, height) of the photo, pixels.
        masks: of each mask that is shown.
        depth: share of the photo whose depth is known; None without a map.
        truth: how both compare.
    """

    masks_jpeg: bytes
    truth_jpeg: bytes | None
    size: tuple[int, int]
    masks: Sequence[MaskRecord]
    depth: float | None
    truth: TruthRecord | None


def thumbnails(job: Job) -> Thumbnails:
    """Draw the thumbnails of a photo, and judge its masks.

    Raises:
        SampleError: the photo or its depth map cannot be read.
    """
    # Decode the photo, and bring it to the size of a thumbnail.
    image = _photo(job)
    size = image.size
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=2.0)
    # Judge the masks that are shown.
    instances = _instances(job)
    verdicts, judgement = _judged(job, instances)
    scores = [job.scores[place] for place in job.kept()]
    # Draw them, small ones over large ones, beside the ground truth.
    colours = [_VERDICTS[item] for item in verdicts] if verdicts else instance_colours(len(instances))
    drawn = _overlay(small, instances, colours)
    return Thumbnails(
        masks_jpeg=_jpeg(Image.fromarray(drawn), quality=85),
        truth_jpeg=None if judgement is None else _jpeg(_truth_overlay(job, judgement, small, size), quality=85),
        size=size,
        masks=[
            MaskRecord(area=item.area / (size[0] * size[1]), score=score, verdict=verdicts[place] if verdicts else None)
            for place, (item, score) in enumerate(zip(instances, scores, strict=True))
        ],
        depth=None if job.depth is None else float(np.isfinite(depth.decode(job.depth).depth).mean()),
        truth=None if judgement is None else _compared(judgement),
    )


def steps(job: Job) -> bytes:
    """Draw every step of a photo as `cuts3d viz` does from shards, below its comparison with the ground truth.

    Returns:
        A JPEG.

    Raises:
        SampleError: the photo, its depth map or its confidence cannot be read.
    """
    image = _photo(job)
    parts = [_comparison(job, image)] if job.truth is not None else []
    # The comparison shows all that there is of detections.
    if not (parts and isinstance(job.found, StoredDetections)):
        parts.append(_sheet(job, image))
    joined = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), (255, 255, 255))
    top = 0
    for part in parts:
        joined.paste(part, (0, top))
        top += part.height
    return _jpeg(joined, quality=82)


def _photo(job: Job) -> Image.Image:
    image = decode_image(image_member(job.photo)[1], max_pixels=job.max_pixels)
    if job.found is not None and job.found.size != (image.height, image.width):
        raise SampleError(f"its masks are of a photo of {job.found.size[1]}x{job.found.size[0]} pixels")
    return image


def _instances(job: Job) -> list[StoredMask]:
    return [job.found.instances[place] for place in job.kept()] if job.found else []


def _judged(job: Job, instances: Sequence[StoredMask]) -> tuple[list[Verdict], Judgement | None]:
    """Return a verdict on each mask, and the judgement; nothing without a ground truth."""
    if job.truth is None:
        return [], None
    kind = _kind(job.truth)
    predictions = [
        Prediction(box=item.box, mask=item.segmentation, score=job.scores[place])
        for place, item in zip(job.kept(), instances, strict=True)
    ]
    found = judge(predictions, job.truth, kind=kind)
    verdicts: list[Verdict] = [
        "true" if partner is not None else "ignored" if ignored else "false"
        for partner, ignored in zip(found.partners, found.ignored, strict=True)
    ]
    return verdicts, found


def _kind(truth: Sequence[Instance]) -> Literal["bbox", "segm"]:
    return "segm" if all(item.mask is not None for item in truth) else "bbox"


def _compared(judgement: Judgement) -> TruthRecord:
    best = [value for value in judgement.best if not math.isnan(value)]
    return TruthRecord(
        instances=len(best),
        missed=judgement.missed,
        best=math.fsum(best) / len(best) if best else None,
        quality=judgement.quality,
    )


def _overlay(
    small: Image.Image, instances: Sequence[StoredMask], colours: Sequence[RGB], labels: Sequence[str] | None = None
) -> NDArray[np.uint8]:
    """Draw masks on a smaller copy of their photo, the largest first, so that none hides another one as a whole."""
    order = sorted(range(len(instances)), key=lambda place: -instances[place].area)
    return overlay_masks(
        np.asarray(small),
        [_small(instances[place].segmentation, small.size) for place in order],
        colours=[colours[place] for place in order],
        labels=None if labels is None else [labels[place] for place in order],
        dim=0.25,
    )


def _truth_overlay(job: Job, judgement: Judgement, small: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Draw the ground truth of a photo of (width, height) on a smaller copy, the largest first; crowds are gray."""
    assert job.truth is not None, "there is a judgement, so there is a ground truth"
    truth = job.truth
    order = sorted(range(len(truth)), key=lambda place: (not truth[place].crowd, -truth[place].area))
    colours, masks = [], []
    for place in order:
        item = truth[place]
        masks.append(_small(item.mask, small.size) if item.mask else _boxed(item.box, size, small.size))
        colours.append(IGNORED_COLOUR if item.crowd else TRUE_COLOUR if judgement.found[place] else MISSED_COLOUR)
    return Image.fromarray(overlay_masks(np.asarray(small), masks, colours=colours, dim=0.25))


def _comparison(job: Job, image: Image.Image) -> Image.Image:
    """Draw the photo, its masks with verdicts, and the ground truth side by side."""
    instances = _instances(job)
    verdicts, judgement = _judged(job, instances)
    assert judgement is not None, "there is a ground truth"
    scale = _WIDE / image.width
    small = image.resize((_WIDE, max(round(image.height * scale), 1)), Image.Resampling.LANCZOS)
    scores = [job.scores[place] for place in job.kept()]
    told = any(score < 1 for score in scores)
    labels = [f"{number}: {score:.2f}" if told else str(number) for number, score in enumerate(scores, start=1)]
    drawn = _overlay(small, instances, [_VERDICTS[item] for item in verdicts], labels)
    compared = _compared(judgement)
    entries: list[tuple[RGB, str]] = [(TRUE_COLOUR, "true"), (FALSE_COLOUR, "false")]
    crowds: list[tuple[RGB, str]] = [(IGNORED_COLOUR, "crowd")] if any(item.crowd for item in job.truth or ()) else []
    drawn_sheet = sheet(
        [
            [
                Panel(title="Photo", image=np.asarray(small)),
                Panel(
                    title=f"Found: {judgement.true} true, {judgement.false} false",
                    image=drawn,
                    legend=Key(entries=[*entries, *crowds]),
                ),
                Panel(
                    title=f"Ground truth: {compared.instances}, {compared.missed} missed",
                    image=np.asarray(_truth_overlay(job, judgement, small, image.size)),
                    legend=Key(entries=[(TRUE_COLOUR, "found"), (MISSED_COLOUR, "missed"), *crowds]),
                ),
            ]
        ],
        title="",
        width=_WIDE,
    )
    # The margins of what stands below are enough.
    return drawn_sheet.crop((0, _TRIM, drawn_sheet.width, drawn_sheet.height - _TRIM))


def _sheet(job: Job, image: Image.Image) -> Image.Image:
    """Draw what the sidecars hold of a photo, as `cuts3d viz --shards` does."""
    known = Known(masks=len(job.found.instances) if job.found else 0)
    segmentation = segmentation_of(
        np.asarray(image),
        found=job.found,
        confidence=confidence.decode(job.confidence, known) if job.confidence else None,
        depth=None if job.depth is None else depth.decode(job.depth).depth,
        settings=job.settings,
        title=job.title,
    )
    if len(job.kept()) < len(segmentation):
        segmentation = segmentation[job.kept()]
    return draw(segmentation, notes=job.notes)


def _small(code: Rle, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask at another (width, height): true where at least half of the pixel is covered."""
    covered = Image.fromarray(decode_rle(code).astype(np.uint8) * 255)
    return np.asarray(covered.resize(size, Image.Resampling.BOX)) >= 128


def _boxed(box: Box, size: tuple[int, int], small: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a box in an image of (width, height) as a mask of another size; a thin one has a pixel at least."""
    across, down = small[0] / size[0], small[1] / size[1]
    left, top = min(max(round(box[0] * across), 0), small[0] - 1), min(max(round(box[1] * down), 0), small[1] - 1)
    right, bottom = round((box[0] + box[2]) * across), round((box[1] + box[3]) * down)
    mask = np.zeros((small[1], small[0]), dtype=bool)
    mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    return mask


def _jpeg(picture: Image.Image, *, quality: int) -> bytes:
    """Encode a picture as JPEG without metadata: equal pixels give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(picture.convert("RGB"))).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
