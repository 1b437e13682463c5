"""Benchmark of quality: the masks of variants of the method, by the commands, against the ground truth of the sets."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from bench.common import Report, Row, Table, log
from bench.data import RENDERED, WITH_DEPTH, Photo, offline, offline_overrides
from cuts3d_cli.config import Config
from executable import cuts3d, neutral_environment
from scenes.files import write_coco, write_depth

Half = Literal["all", "even", "odd"]
Overrides = Mapping[str, Mapping[str, Any]]
"""Section -> field -> value."""

COMMON: Overrides = {"features": {"size": 644}, "pseudo": {"instances": 3}}
"""Of every variant: a grid of 46x46 and three cuts per image."""
TABLE_TOP: Overrides = {"pseudo": {"tau_knn": 0.035}, "confidence": {"tau_knn_min": 0.032}}
"""For objects a few centimetres apart, which the sets with depth show; the paper's values are for whole scenes. The
spacing of the grid is 0.0314. tau_knn was chosen on photos of mosd, so that neither half of it is held out from it."""
FIGURES = {
    "AP": "ap",
    "AP50": "ap50",
    "AR": "ar100",
    "recall@0.5": "recall50",
    "precision@0.5": "precision50",
    "mean best IoU": "mean_best_iou",
}
"""Column -> field in the JSON of `cuts3d eval`."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to cut.

    Attributes:
        changes: section -> field -> value.
        preset: what they change.
        table_top: start from `TABLE_TOP`, too; False for a preset with values of its own.
        ranked: score the masks by their Spatial Confidence instead of 1.
    """

    changes: Overrides = field(default_factory=dict)
    preset: str = "offline"
    table_top: bool = True
    ranked: bool = False

    @property
    def in_3d(self) -> bool:
        """Whether it may need depth."""
        return self.config().pseudo.method != "maskcut"

    def overrides(self) -> dict[str, dict[str, Any]]:
        """Merge `COMMON`, `TABLE_TOP` and `changes`, in increasing precedence."""
        merged: dict[str, dict[str, Any]] = {}
        for overrides in (COMMON, TABLE_TOP if self.table_top else {}, self.changes):
            for section, fields in overrides.items():
                merged.setdefault(section, {}).update(fields)
        return offline_overrides(merged)

    def config(self) -> Config:
        """Return the whole configuration.

        Raises:
            UsageError: a field is unknown, or its value is invalid.
        """
        return offline(self.overrides(), preset=self.preset)


VARIANTS: dict[str, Variant] = {
    "maskcut": Variant(changes={"pseudo": {"method": "maskcut"}}),
    "+ LocalCut": Variant(changes={"pseudo": {"sharpen": False}}),
    "+ sharpening": Variant(),
    "+ confidence": Variant(ranked=True),
    "with clipped depth": Variant(changes={"pseudo": {"depth_clip": 1.0}}),
    "with super-sink": Variant(changes={"pseudo": {"sink": "background"}}),
    "with super-source": Variant(changes={"pseudo": {"source": "core"}}),
    "best": Variant(preset="best"),
    "maskcut, N = 10": Variant(changes={"pseudo": {"method": "maskcut", "instances": 10}}),
    "objects, N = 3": Variant(preset="objects", table_top=False, changes={"pseudo": {"retries": 6}}),
    "objects": Variant(preset="objects", table_top=False, changes={"pseudo": {"instances": "all"}}),
}
"""The paper's Table 4 in its order, then single options on top of "+ sharpening", then presets, and as many cuts of
MaskCut as `objects` may need."""
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
    """Return all photos, or every second one: one half for tuning, the other for reporting."""
    return list({"all": photos, "even": photos[::2], "odd": photos[1::2]}[half])


def parse_variant(words: Sequence[str]) -> tuple[str, Variant]:
    """Parse a variant from the command line: a name and words such as pseudo.beta=0.3, preset=best, ranked=true.

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
            raise ValueError(f"'{word}' is not SECTION.FIELD=VALUE, preset=NAME, ranked=true or table_top=false")
    return name, replace(variant, changes=changes)


def quality(
    sets: Mapping[str, Sequence[Photo]],
    *,
    folder: Path | None = None,
    half: Half = "all",
    variants: Mapping[str, Variant] = VARIANTS,
    sweeps: Mapping[str, Sequence[float]] = SWEEPS,
    workers: int = 0,
) -> Report:
    """Cut every set by every variant and compare with its ground truth.

    Args:
        sets: photos by the name of their set; sets without depth are cut by MaskCut alone.
        folder: keeps shards with features for further runs; by default a temporary one.
        half: which photos.
        variants: by name.
        sweeps: values of single fields of `pseudo`, on all sets with depth together.
        workers: processes that cut; 0 cuts in the main process.

    Returns:
        A row for each set and variant, by masks; whether the order of Table 4 holds; the sweeps.

    Raises:
        CommandError: a command failed.
    """
    chosen = {name: half_of(photos, half) for name, photos in sets.items()}
    deep = {name: photos for name, photos in chosen.items() if name in WITH_DEPTH or name == RENDERED}
    flat = {name: photos for name, photos in chosen.items() if name not in deep}
    rows: list[Row] = []
    swept: list[Row] = []
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cuts3d-bench-")))
        kinds = [PackedSets(folder, some, workers=workers) for some in (deep, flat) if some]

        # Every variant on all sets that have what it needs.
        for label, variant in variants.items():
            for packed in kinds:
                if packed.sets is deep or not variant.in_3d:
                    log(f"quality: {', '.join(packed.sets)}: {label}")
                    found = packed.figures(variant)
                    rows += [{"set": name, "variant": label, **figures} for name, figures in found.items()]

        # Single fields, on all sets with depth together.
        for item, values in sweeps.items() if deep else ():
            for value in values:
                log(f"quality: {item} {value:g}")
                found = kinds[0].figures(Variant(changes={"pseudo": {item: value}}))
                swept.append({"field": item, "value": value, **list(found.values())[-1]})
    titles = list(dict.fromkeys([*chosen, " + ".join(deep)]))
    rows.sort(key=lambda row: titles.index(row["set"]))
    tables = [Table("masks against the ground truth", _against_baseline(rows)), Table("order of Table 4", _order(rows))]
    return Report(
        name="quality",
        tables=[*tables, *([Table(f"sweeps, on {' + '.join(deep)}", swept)] if swept else [])],
        notes=[
            f"Photos: {half}; {' '.join(f'{name} {len(photos)}' for name, photos in chosen.items())}. By masks; AR is"
            " AR@100; 'x recall' is recall@0.5 over that of maskcut.",
            "Masks of equal score are ranked largest first. tau_knn for table tops was chosen on photos of mosd, both"
            " halves of it; maskcut has no such threshold.",
            *(["coco_person labels persons only: its precision and AP mean nothing."] * ("coco_person" in chosen)),
        ],
    )


class PackedSets:
    """Sets of photos in shards, with a ground truth for each set and for all of them together.

    Args:
        folder: for a folder of these photos; shards that are there already are used again.
        sets: photos by the name of their set.
        workers: processes that cut.

    Attributes:
        sets: the photos.
    """

    def __init__(self, folder: Path, sets: Mapping[str, Sequence[Photo]], *, workers: int) -> None:
        """Write photos, depth and ground truth, and pack them."""
        self.sets = sets
        self._workers = workers
        self._known: dict[str, dict[str, Row]] = {}
        pooled = [photo for photos in sets.values() for photo in photos]
        digest = hashlib.sha256()
        for photo in pooled:
            digest.update(photo.name.encode() + photo.image.tobytes())
        self._folder = (folder / f"quality-{digest.hexdigest()[:12]}").resolve()
        self._shards = self._folder / "shards"
        self._truths = {name: self._write_truth(name, photos) for name, photos in sets.items()}
        if len(sets) > 1:
            self._truths[" + ".join(sets)] = self._write_truth("all", pooled)
        for photo in pooled:
            self._write_photo(photo)
        maps = ("--depth-dir", "depth") if any(photo.metres is not None for photo in pooled) else ()
        self._run("pack", "images", *maps, "--out", self._shards, "--name", "photos")

    def figures(self, variant: Variant) -> dict[str, Row]:
        """Cut by a variant and evaluate, unless the same settings were evaluated before.

        Args:
            variant: the settings.

        Returns:
            Figures in [0, 1] for each set, and for all of them together if there are several.
        """
        known = repr((variant.ranked, variant.config()))
        if known not in self._known:
            self._write_settings(variant)
            networks = ["depth", "features"] if variant.in_3d else ["features"]
            for command in (*networks, "pseudo", *(["confidence"] if variant.ranked else [])):
                workers = ("--workers", self._workers) if command in ("pseudo", "confidence") else ()
                words = ("--preset", variant.preset, "--if-exists", "replace")
                self._run(command, "--shards", self._shards, *words, *workers)
            self._known[known] = {name: self._evaluate(truth) for name, truth in self._truths.items()}
            # Masks without confidence all have the score 1; what is there now would be stale for the next variant.
            for path in self._shards.glob("*.confidence.*"):
                path.unlink()
        return self._known[known]

    def _run(self, *arguments: object) -> str:
        return cuts3d(*arguments, folder=self._folder, environment=neutral_environment())

    def _evaluate(self, truth: Path) -> Row:
        found = json.loads(self._run("eval", "--shards", self._shards, "--gt", truth, "--json"))
        counts = {"photos": found["images"], "objects": found["instances"], "masks": found["predictions"]}
        return counts | {title: found["mask"][name] for title, name in FIGURES.items()}

    def _write_settings(self, variant: Variant) -> None:
        """Write the settings into the cuts3d.toml that the commands read."""
        lines = []
        for section, fields in variant.overrides().items():
            lines.append(f"[{section}]")
            lines += [f"{name} = {_toml(value)}" for name, value in fields.items() if value is not None]
        (self._folder / "cuts3d.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _write_truth(self, name: str, photos: Sequence[Photo]) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.json"
        write_coco(path, [(f"{photo.name}.png", photo.size, photo.instances) for photo in photos])
        return path

    def _write_photo(self, photo: Photo) -> None:
        image, depth = (self._folder / part / f"{photo.name}.png" for part in ("images", "depth"))
        for path in (image, depth):
            path.parent.mkdir(parents=True, exist_ok=True)
        if not image.is_file():  # a new file would make the shards stale
            photo.image.save(image)
            if photo.metres is not None:
                write_depth(depth, photo.metres)


def _against_baseline(rows: Sequence[Row]) -> list[Row]:
    base = {row["set"]: row["recall@0.5"] for row in rows if row["variant"] == BASELINE}
    return [{**row, "x recall": row["recall@0.5"] / base[row["set"]] if base.get(row["set"]) else None} for row in rows]


def _order(rows: Sequence[Row]) -> list[Row]:
    """Check whether each contribution improves the figures of the one before."""
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


def _toml(value: Any) -> str:
    """Return a value as TOML writes it; its strings, numbers and lists are those of JSON."""
    return json.dumps(list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value)
