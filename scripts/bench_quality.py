"""Benchmark of quality: masks of every variant against the ground truth of the sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from bench_common import Report, Row, Table, say
from bench_data import RENDERED, WITH_DEPTH, Features, Photo, offline
from numpy.typing import NDArray

from cuts3d_cli.config import ConfidenceConfig, Config, as_dict
from cuts3d_cli.cut.confidence import mean_confidence, spatial_confidence
from cuts3d_cli.cut.image import CutTask, cut_image, needs_depth
from cuts3d_cli.cut.masks import Rle
from cuts3d_cli.engine.pool import WorkerPool
from cuts3d_cli.evaluation.metrics import Prediction, evaluate
from cuts3d_cli.images import resize_square
from cuts3d_cli.sidecars.masks import from_cut
from cuts3d_cli.stages.confidence import ScoreTask, score_masks

Half = Literal["all", "even", "odd"]
Overrides = Mapping[str, Mapping[str, Any]]

COMMON: Overrides = {"features": {"size": 644}, "pseudo": {"instances": 3}}
"""Of every variant: a grid of 46x46 and three cuts an image."""
TABLE_TOP: Overrides = {"pseudo": {"tau_knn": 0.035}, "confidence": {"tau_knn_min": 0.032}}
"""For objects that lie a few centimetres apart, of which the sets with depth are; the paper's values are for whole
scenes. The grid's own spacing is 0.0314. tau_knn was chosen on photos of mosd, so no half of it is unseen by it."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to cut.

    Attributes:
        changes: section -> field -> value.
        preset: what they are changes to.
        table_top: start from `TABLE_TOP`, too; False where a preset brings values of its own.
        ranked: score the masks by their Spatial Confidence instead of 1.
    """

    changes: Overrides = field(default_factory=dict)
    preset: str = "offline"
    table_top: bool = True
    ranked: bool = False

    def config(self) -> Config:
        """The configuration; later ones win of: preset, `COMMON`, `TABLE_TOP`, `changes`."""
        merged: dict[str, dict[str, Any]] = {}
        for overrides in (COMMON, TABLE_TOP if self.table_top else {}, self.changes):
            for section, fields in overrides.items():
                merged.setdefault(section, {}).update(fields)
        return offline(merged, preset=self.preset)


VARIANTS: dict[str, Variant] = {
    "maskcut": Variant(changes={"pseudo": {"method": "maskcut"}}),
    "+ LocalCut": Variant(changes={"pseudo": {"sharpen": False}}),
    "+ sharpening": Variant(),
    "+ confidence": Variant(ranked=True),
    "with clipped depth": Variant(changes={"pseudo": {"depth_clip": 1.0}}),
    "with super-sink": Variant(changes={"pseudo": {"sink": "background"}}),
    "with super-source": Variant(changes={"pseudo": {"source": "core"}}),
    "best": Variant(preset="best"),
}
"""The paper's Table 4 in its order, then single options on top of "+ sharpening", then the preset."""
BASELINE = "maskcut"
ORDERED = ("maskcut", "+ LocalCut", "+ sharpening")
"""Each should be better than the one before."""
SWEEPS: dict[str, Sequence[float]] = {
    "tau_knn": (0.035, 0.05, 0.08, 0.1, 0.115, 0.13),
    "beta": (0.0, 0.3, 0.45, 0.6, 0.8),
}
"""Fields of `pseudo`, changed one at a time from "+ sharpening"; the paper's Table 8a has .1, .115 and .13, Table 9 has
.3, .45 and .6."""


def half_of(photos: Sequence[Photo], half: Half) -> list[Photo]:
    """Every second photo, or all: one half for tuning, the other for reporting."""
    return list({"all": photos, "even": photos[::2], "odd": photos[1::2]}[half])


def parse_variant(words: Sequence[str]) -> tuple[str, Variant]:
    """A variant from the command line: NAME and words such as pseudo.beta=0.3, preset=best, ranked=true.

    Raises:
        ValueError: a word is none of these. Fields and values are checked with the configuration.
    """
    name, *settings = words
    variant = Variant()
    changes: dict[str, dict[str, Any]] = {}
    for word in settings:
        key, equals, value = word.partition("=")
        section, dot, item = key.partition(".")
        if equals and dot:
            changes.setdefault(section, {})[item] = _number(value)
        elif equals and key in ("ranked", "table_top") and value in ("true", "false"):
            variant = replace(variant, **{key: value == "true"})  # type: ignore[arg-type]
        elif equals and key == "preset":
            variant = replace(variant, preset=value)
        else:
            raise ValueError(f"'{word}' is no SECTION.FIELD=VALUE, preset=NAME, ranked=true or table_top=false")
    return name, replace(variant, changes=changes)


def quality(
    sets: Mapping[str, Sequence[Photo]],
    *,
    features: Features,
    half: Half = "all",
    variants: Mapping[str, Variant] = VARIANTS,
    sweeps: Mapping[str, Sequence[float]] = SWEEPS,
    workers: int = 0,
) -> Report:
    """Cut every set by every variant and compare with its ground truth.

    Args:
        sets: photos by the name of their set; sets without depth are cut by MaskCut alone.
        features: where features come from.
        half: which photos.
        variants: by name.
        sweeps: values of single fields of `pseudo`; on all sets with depth together.
        workers: processes that cut; 0 works in this one.

    Returns:
        A row for each set and variant, by masks; whether the order of Table 4 holds; the sweeps.
    """
    chosen = {name: half_of(photos, half) for name, photos in sets.items()}
    deep = [name for name in chosen if name in WITH_DEPTH or name == RENDERED]
    with WorkerPool(workers) as pool:
        cutter = _Cutter(features, pool)
        rows = []
        for name, photos in chosen.items():
            for label, variant in variants.items():
                if name in deep or not needs_depth(variant.config().pseudo):
                    say(f"quality: {name}, {label}")
                    rows.append({"set": name, "variant": label, **cutter.figures(photos, variant)})
        pooled = [photo for name in deep for photo in chosen[name]]
        if len(deep) > 1:
            for label, variant in variants.items():
                rows.append({"set": " + ".join(deep), "variant": label, **cutter.figures(pooled, variant)})
        swept = []
        for item, values in sweeps.items() if pooled else ():
            for value in values:
                say(f"quality: {item} {value:g}")
                figures = cutter.figures(pooled, Variant(changes={"pseudo": {item: value}}))
                swept.append({"field": item, "value": value, **figures})
    tables = [Table("masks against the ground truth", _against_baseline(rows)), Table("order of Table 4", _order(rows))]
    return Report(
        name="quality",
        tables=[*tables, *([Table(f"sweeps, on {' + '.join(deep)}", swept)] if swept else [])],
        notes=[
            f"Photos: {half}; {' '.join(f'{name} {len(photos)}' for name, photos in chosen.items())}. By masks; AR is"
            " AR@100; 'x recall' is recall@0.5 over that of maskcut.",
            "Masks of equal score are ranked largest first. tau_knn of the table tops was chosen on photos of mosd,"
            " both halves of it; maskcut has no such threshold.",
            *(["coco_person has persons labelled only: its precision and AP say nothing."] * ("coco_person" in chosen)),
        ],
    )


class _Cutter:
    """Cuts photos, each with the same settings once."""

    def __init__(self, features: Features, pool: WorkerPool) -> None:
        self._features = features
        self._pool = pool
        self._known: dict[tuple[str, str], list[Prediction]] = {}

    def figures(self, photos: Sequence[Photo], variant: Variant) -> Row:
        """Metrics of a variant on some photos."""
        config = variant.config()
        settings = repr((variant.ranked, config))
        new = [photo for photo in photos if (photo.name, settings) not in self._known]
        for photo, future in self._pool.in_order(_predict, self._tasks(new, config, ranked=variant.ranked)):
            assert future is not None
            self._known[photo.name, settings] = [
                Prediction.of_mask(code, score=score) for code, score in future.result()
            ]
        found = evaluate(
            {number: self._known[photo.name, settings] for number, photo in enumerate(photos)},
            {number: photo.instances for number, photo in enumerate(photos)},
        )
        row: Row = {"photos": found.images, "objects": found.instances, "masks": found.predictions}
        names = {
            "AP": "ap",
            "AP50": "ap50",
            "AR": "ar100",
            "recall@0.5": "recall50",
            "precision@0.5": "precision50",
            "mean best IoU": "mean_best_iou",
        }
        return row | {title: getattr(found.mask, name, None) for title, name in names.items()}

    def _tasks(self, photos: Sequence[Photo], config: Config, *, ranked: bool) -> Iterator[tuple[Photo, _Task]]:
        tau_ncut = config.pseudo.tau_ncut
        if tau_ncut is None:
            tau_ncut = self._features.extractor(config).spec.tau_ncut
        for photo, vectors in zip(photos, self._features.of(photos, config), strict=True):
            cut = CutTask(
                image=resize_square(photo.image, config.pseudo.crf_size),
                size=photo.size,
                features=vectors,
                depth=photo.depth() if needs_depth(config.pseudo) else None,
                config=config.pseudo,
                tau_ncut=tau_ncut,
            )
            yield photo, _Task(cut=cut, confidence=config.confidence if ranked else None)


@dataclass(frozen=True, kw_only=True)
class _Task:
    cut: CutTask
    confidence: ConfidenceConfig | None


def _predict(task: _Task) -> list[tuple[Rle, float]]:
    """The masks of a photo with their scores: what a worker process does."""
    result = cut_image(task.cut)
    codes = [item.segmentation for item in result.instances]
    if task.confidence is None:
        return [(code, 1.0) for code in codes]
    settings = task.confidence
    if settings.tau_knn is None:
        settings = replace(settings, tau_knn=task.cut.config.tau_knn)
    masks = from_cut(result, size=task.cut.size, method=task.cut.config.method)
    counts: NDArray[np.uint8] = score_masks(
        ScoreTask(
            masks=masks,
            depth=task.cut.depth,
            image=task.cut.image,
            config=settings,
            cut=as_dict(task.cut.config),
        )
    )
    maps = spatial_confidence(counts, levels=settings.cuts, floor=settings.floor)
    scores = [mean_confidence(values, item.patch_mask) for values, item in zip(maps, result.instances, strict=True)]
    return list(zip(codes, scores, strict=True))


def _against_baseline(rows: Sequence[Row]) -> list[Row]:
    base = {row["set"]: row["recall@0.5"] for row in rows if row["variant"] == BASELINE}
    return [{**row, "x recall": row["recall@0.5"] / base[row["set"]] if base.get(row["set"]) else None} for row in rows]


def _order(rows: Sequence[Row]) -> list[Row]:
    """Whether each contribution makes the figures better than the one before."""
    found = []
    for name in dict.fromkeys(row["set"] for row in rows):
        mine = {row["variant"]: row for row in rows if row["set"] == name}
        if all(variant in mine for variant in ORDERED):
            cells = {
                figure: all(mine[first][figure] < mine[second][figure] for first, second in pairwise(ORDERED))
                for figure in ("recall@0.5", "AP50", "AP")
            }
            found.append({"set": name, "order": " < ".join(ORDERED), **cells})
    return found


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return {"true": True, "false": False}.get(text, text)
