"""Benchmarks on photos with depth: what masks cost, whether confidence ranks them, and what worse depth does."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from bench.common import Report, Row, Table, log
from bench.data import Features, Photo
from bench.quality import FIGURES, VARIANTS
from bench.speed import cut_task
from cuts3d_cli.api.confidence import count_confidence
from cuts3d_cli.config import Config
from cuts3d_cli.cut.confidence import mean_confidence, spatial_confidence
from cuts3d_cli.cut.grid import fill_holes
from cuts3d_cli.cut.image import CutResult, CutTask, cut_image
from cuts3d_cli.evaluation.datasets.annotations import read_annotation
from cuts3d_cli.evaluation.metrics import Instance, Prediction, evaluate, judge
from cuts3d_cli.evaluation.metrics.objects import overlaps

Metres = NDArray[np.float32]
Change = Callable[[Metres, np.random.Generator], Metres]

COMPARED = ("maskcut", "+ sharpening", "best", "objects")
"""Variants whose masks of worse depth are compared; "+ sharpening" is the preset `paper`."""
RANKED = ("+ sharpening", "best", "objects")
"""Variants with a Spatial Confidence."""
COSTED = ("objects, N = 3", "objects")
"""Variants whose cost is compared: the second is to cost at most three times as much as the first."""
NOISE = 0.02
SCALE = 1.7
HOLES, HOLE = 12, 0.06
"""Number of holes, and the radius of the largest, in units of the photo's longer side."""
BLUR = 4.0
"""Pixels, at a width of 640."""
DISTORTION = 0.1
"""Standard deviation of the logarithm of an estimated distance, over parts of the photo."""


def _measured(metres: Metres, chance: np.random.Generator) -> Metres:
    return metres


def _scaled(metres: Metres, chance: np.random.Generator) -> Metres:
    return (metres * np.float32(SCALE)).astype(np.float32)


def _noisy(metres: Metres, chance: np.random.Generator) -> Metres:
    return (metres * np.exp(NOISE * chance.standard_normal(metres.shape))).astype(np.float32)


def _blurred(metres: Metres, chance: np.random.Generator) -> Metres:
    """Blur across edges, where there are measurements: what is missing stays missing."""
    sigma = BLUR * max(metres.shape) / 640
    smooth = gaussian_filter(fill_holes(metres), sigma)
    return np.where(np.isfinite(metres), smooth, np.nan).astype(np.float32)


def _with_holes(metres: Metres, chance: np.random.Generator) -> Metres:
    """Take measurements out of discs, wherever they fall."""
    found = metres.copy()
    rows, columns = np.mgrid[: metres.shape[0], : metres.shape[1]]
    side = max(metres.shape)
    for _ in range(HOLES):
        row, column = chance.uniform(0, metres.shape[0]), chance.uniform(0, metres.shape[1])
        radius = chance.uniform(0.3, 1.0) * HOLE * side
        found[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = np.nan
    return found if np.isfinite(found).any() else metres


def _estimated(metres: Metres, chance: np.random.Generator) -> Metres:
    """Make the typical errors of a monocular network: no holes, smeared edges, and distances that drift.

    A map of low resolution smears edges over some pixels; a smooth factor bends what is far apart, and hardly what is
    near to each other.
    """
    side = max(metres.shape)
    coarse = cv2.resize(fill_holes(metres), None, fx=192 / side, fy=192 / side, interpolation=cv2.INTER_AREA)
    smeared = cv2.resize(coarse, (metres.shape[1], metres.shape[0]), interpolation=cv2.INTER_CUBIC)
    drift = cv2.resize(
        chance.standard_normal((4, 4)), (metres.shape[1], metres.shape[0]), interpolation=cv2.INTER_CUBIC
    )
    near = np.nanmin(metres)
    return np.maximum(smeared * np.exp(DISTORTION * drift), 0.5 * near).astype(np.float32)


CONDITIONS: Mapping[str, Change] = {
    "as measured": _measured,
    f"times {SCALE}": _scaled,
    f"{100 * NOISE:g} % noise": _noisy,
    "blurred": _blurred,
    "with holes": _with_holes,
    "as a network estimates it": _estimated,
}
"""What is done to the depth of a photo, in metres, NaN where there is none."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A photo with its masks.

    Attributes:
        photo: with the depth that it was cut with.
        task: of the cut.
        result: of the cut.
    """

    photo: Photo
    task: CutTask
    result: CutResult

    def predictions(self, scores: Sequence[float] | None = None) -> list[Prediction]:
        """Return the masks with their scores, 1 by default."""
        codes = [item.segmentation for item in self.result.instances]
        given = [1.0] * len(codes) if scores is None else scores
        return [Prediction.of_mask(code, score=score) for score, code in zip(given, codes, strict=True)]

    def truth(self) -> list[Instance]:
        """Return the objects of the ground truth, crowds among them."""
        size = (self.photo.image.width, self.photo.image.height)
        return [read_annotation(dict(item), size=size).instance for item in self.photo.instances]

    def scores(self, config: Config) -> list[float]:
        """Return the mean Spatial Confidence of each mask."""
        counts, levels = count_confidence(
            self.result,
            depth=self.task.depth,
            view=self.task.view,
            photo=self.photo.image,
            settings=self.task.config,
            config=config.confidence,
            grid=self.task.features.shape[1:],
        )
        maps = spatial_confidence(counts, levels=levels, floor=config.confidence.floor)
        return [mean_confidence(item, mask.patch_mask) for item, mask in zip(maps, self.result.instances, strict=True)]


def robustness(photos: Sequence[Photo], *, features: Features, conditions: Mapping[str, Change] = CONDITIONS) -> Report:
    """Compare cost, ranking and worse depth over variants, on the same photos and features.

    Args:
        photos: with depth.
        features: source of the features.
        conditions: what is done to the depth; the first leaves it as it is.

    Returns:
        Three tables.
    """
    plain = next(iter(conditions))
    costs, ranks, rows = [], [], []
    for name in dict.fromkeys((*COMPARED, *RANKED, *COSTED)):
        variant = VARIANTS[name]
        config = variant.config()
        for condition in conditions if name in COMPARED else (plain,):
            log(f"robustness: {name}, {condition}")
            # MaskCut sees no depth.
            if condition != plain and not variant.in_3d:
                continue
            cuts = list(cuts_of_photos(photos, config, change=conditions[condition], features=features))
            if name in COMPARED:
                rows.append({"depth": condition if variant.in_3d else "any", "variant": name, **figures_of(cuts)})
            if condition == plain and name in RANKED:
                ranks.append({"variant": name, **_ranking(cuts, config)})
            if condition == plain and name in COSTED:
                costs.append({"variant": name, **_cost(cuts)})
    costs.sort(key=lambda row: COSTED.index(row["variant"]))
    rows.sort(key=lambda row: ("any", *conditions).index(row["depth"]))
    return Report(
        name="robustness",
        tables=[
            Table("cost of an image, without the network", _against_first(costs)),
            Table("rank correlation of mean Spatial Confidence and IoU", ranks),
            Table("masks where depth is worse", rows),
        ],
        notes=[
            f"{len(photos)} photos with depth. Eigenproblems and seconds are means an image, in one thread; 'most' is"
            " the image that took most. An image is cut once: seconds are rough, eigenproblems are not.",
            "Spearman's correlation over all masks that do not lie in crowd regions, of their score and their best IoU"
            " with an object; 'of right ones' and 'of wrong ones' are mean scores.",
            "The same changes of depth for all variants; what is drawn at random depends on the photo's name alone.",
        ],
    )


def cuts_of_photos(photos: Sequence[Photo], config: Config, *, change: Change, features: Features) -> Iterator[Cut]:
    """Cut photos by a configuration, with their depth changed; what is drawn at random depends on the photo's name."""
    for photo, vectors in zip(photos, features.of(photos, config), strict=True):
        changed = photo
        if photo.metres is not None:
            chance = np.random.default_rng(zlib.crc32(photo.name.encode()))
            changed = replace(photo, metres=change(photo.metres, chance))
        task = cut_task(changed, vectors, config, features)
        yield Cut(photo=changed, task=task, result=cut_image(task))


def figures_of(cuts: Sequence[Cut]) -> Row:
    """Return the figures of all masks together: counts, AP, recall and others in [0, 1]."""
    found = evaluate(
        {number: cut.predictions() for number, cut in enumerate(cuts)},
        {number: cut.truth() for number, cut in enumerate(cuts)},
    )
    assert found.mask is not None
    counts = {"photos": found.images, "objects": found.instances, "masks": found.predictions}
    return counts | {title: getattr(found.mask, name) for title, name in FIGURES.items()}


def _cost(cuts: Sequence[Cut]) -> Row:
    solved = [cut.result.extraction.eigenproblems for cut in cuts]
    seconds = [sum(cut.result.seconds.values()) for cut in cuts]
    return {
        "masks": mean(len(cut.result.instances) for cut in cuts),
        "eigenproblems": mean(solved),
        "most eigenproblems": max(solved),
        "seconds": mean(seconds),
        "most seconds": max(seconds),
    }


def _against_first(costs: Sequence[Row]) -> list[Row]:
    """Add ratios to the first row."""
    columns = ("eigenproblems", "seconds")
    return [{**row, **{f"x {name}": row[name] / costs[0][name] for name in columns}} for row in costs]


def _ranking(cuts: Sequence[Cut], config: Config) -> Row:
    scores, ious, right = [], [], []
    for cut in cuts:
        predictions, truth = cut.predictions(), cut.truth()
        verdict = judge(predictions, truth, kind="segm")
        objects = [item for item in truth if not item.crowd]
        best = overlaps("segm", predictions, objects).max(axis=1, initial=0.0)
        for place, score in enumerate(cut.scores(config)):
            if not verdict.ignored[place]:
                scores.append(score)
                ious.append(float(best[place]))
                right.append(verdict.partners[place] is not None)
    hit, miss = (
        [score for score, good in zip(scores, right, strict=True) if good is wanted] for wanted in (True, False)
    )
    return {
        "masks": len(scores),
        "rank correlation": _correlation(scores, ious),
        "of right ones": mean(hit) if hit else None,
        "of wrong ones": mean(miss) if miss else None,
    }


def _correlation(scores: Sequence[float], ious: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None where all of either are equal, so that there is no order."""
    if len(set(scores)) < 2 or len(set(ious)) < 2:
        return None
    return float(spearmanr(scores, ious).statistic)
