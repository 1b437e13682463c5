"""The page of a report, as HTML, and its data, as JavaScript: what is known goes in, text comes out.

Names, reasons and settings come from strangers' files. In the HTML they are escaped; in the data they are JSON strings
without `<`, which the script puts into the page as text, never as HTML.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from cuts3d_cli._version import __version__
from cuts3d_cli.figures.charts import histogram_svg, rows_svg
from cuts3d_cli.reports.reading import Shelf
from cuts3d_cli.reports.records import PhotoRecord
from cuts3d_cli.shards.manifest import Manifest
from cuts3d_cli.stages.own_results import REPORT_MARK
from cuts3d_cli.wording import counted

_AREAS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Edges of the histogram of areas, shares of the photo."""
_TENTHS = tuple(place / 10 for place in range(11))
_TWENTIETHS = tuple(place / 20 for place in range(21))
_MOST_COLUMNS = 16
"""Bins of the histogram of masks a photo; the last has all that have more."""
_LEAST_SECONDS = 5e-4
"""A photo: steps that take less are left out of the figure."""
_SEVERAL = "differs between the shards"


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """All that a page shows.

    Attributes:
        source: "masks" or "detections".
        stage: that made them.
        made_by: what made them, in a few words.
        scored: whether they have scores that tell them apart.
        min_score: lowest score of those that are shown.
        compared: whether there is a ground truth.
        warnings: one line each.
        records: of the photos, in order.
        settings: stage -> setting -> value, as the manifests have them.
        versions: package -> version.
        seconds: (step, seconds a photo), by stage.
    """

    source: str
    stage: str
    made_by: str
    scored: bool
    min_score: float
    compared: bool
    warnings: Sequence[str]
    records: Sequence[PhotoRecord]
    settings: Mapping[str, Mapping[str, str]]
    versions: Mapping[str, str]
    seconds: Sequence[tuple[str, float]]

    @classmethod
    def of(cls, shelf: Shelf, records: Sequence[PhotoRecord]) -> Gallery:
        """Collect what a page shows from the manifests of shards and the records of their photos."""
        manifests: dict[str, list[Manifest]] = {}
        for stored in shelf.shards:
            for stage, manifest in stored.manifests().items():
                manifests.setdefault(stage, []).append(manifest)
        return cls(
            source=shelf.source,
            stage=shelf.stage,
            made_by=shelf.made_by,
            scored=shelf.scored,
            min_score=shelf.min_score,
            compared=shelf.truth is not None,
            warnings=shelf.notes,
            records=records,
            settings={stage: _agreed(_flat(item.config) for item in items) for stage, items in manifests.items()},
            versions=_agreed(manifest.versions for items in manifests.values() for manifest in items),
            seconds=[row for stage, items in manifests.items() for row in _seconds(stage, items)],
        )


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Return the settings of a manifest by their full names, in words."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[before + name] = value if isinstance(value, str) else json.dumps(value)
    return found


def _agreed(tables: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Join tables; a value that is not the same in all that have it is named as such."""
    joined: dict[str, str] = {}
    for table in tables:
        for name, value in table.items():
            if joined.setdefault(name, value) != value:
                joined[name] = _SEVERAL
    return joined


def _seconds(stage: str, manifests: Sequence[Manifest]) -> list[tuple[str, float]]:
    """Return (step, seconds a photo) of a stage, of a stage without steps the whole; what takes no time is left out."""
    photos = sum(manifest.counts["samples_in"] for manifest in manifests)
    total: dict[str, float] = {}
    for manifest in manifests:
        for step, value in manifest.seconds.items():
            total[step] = total.get(step, 0.0) + value
    whole = total.pop("total", 0.0)
    named = {f"{stage}: {step}": value for step, value in total.items()} or {stage: whole}
    return [(name, value / photos) for name, value in named.items() if photos and value / photos >= _LEAST_SECONDS]


def data_of(gallery: Gallery | None) -> bytes:
    """Return the data of a page, as a script that it loads: pages that are opened from disk may fetch nothing.

    Args:
        gallery: what the page shows; None while it is being made.
    """
    content: dict[str, Any] = {"finished": gallery is not None}
    records: Sequence[PhotoRecord] = ()
    if gallery is not None:
        names = ("source", "stage", "scored", "compared")
        content |= {name: getattr(gallery, name) for name in names}
        records = gallery.records
    # One photo a line, so that two reports can be compared.
    photos = ",\n".join(json.dumps(record.to_json(), separators=(",", ":")) for record in records)
    head = json.dumps(content, sort_keys=True)[:-1]
    # ASCII alone, and nothing that any reader takes for a tag.
    return REPORT_MARK + f'window.report = {head}, "photos": [\n{photos}\n]}};\n'.replace("<", "\\u003c").encode(
        "ascii"
    )


def page_of(gallery: Gallery, *, template: str) -> bytes:
    """Return the page.

    Args:
        gallery: what it shows.
        template: its HTML, with `$NAME` where something is filled in.
    """
    records = gallery.records
    noun = "detection" if gallery.source == "detections" else "mask"
    failed = sum(record.failed is not None for record in records)
    without = sum(not record.masks and record.failed is None for record in records)
    number = sum(len(record.masks) for record in records)
    facts = [counted(len(records), "photo"), counted(number, noun)]
    facts += [f"{counted(without, 'photo')} without a {noun}"] if without else []
    facts += [f"{counted(failed, 'photo')} failed"] if failed else []
    if gallery.min_score:
        facts.append(f"shown from score {gallery.min_score:g}")
    if gallery.compared:
        facts += _compared(records)
    filled = {
        "title": escape(f"{noun.capitalize()}s of {counted(len(records), 'photo')}"),
        "made_by": escape(gallery.made_by),
        "facts": "".join(f"<li>{escape(fact)}</li>" for fact in facts),
        "warnings": "".join(f'<p class="warning">{escape(line)}</p>' for line in gallery.warnings),
        "figures": "".join(_figures(gallery, noun)),
        "settings": "".join(_table(stage, rows) for stage, rows in gallery.settings.items() if rows),
        "versions": _table("versions", gallery.versions),
        "version": escape(__version__),
    }
    return string.Template(template).substitute(filled).encode()


def _compared(records: Sequence[PhotoRecord]) -> list[str]:
    """Return how masks compare with the ground truth, in a few facts."""
    judged = [record for record in records if record.truth is not None]
    instances = sum(record.truth.instances for record in judged if record.truth)
    missed = sum(record.truth.missed for record in judged if record.truth)
    false = sum(item.verdict == "false" for record in judged for item in record.masks)
    return [
        f"ground truth of {counted(len(judged), 'photo')}",
        f"{instances - missed} of {instances} objects found at IoU 0.5",
        f"{false} false",
    ]


def _figures(gallery: Gallery, noun: str) -> Iterable[str]:
    """Yield the figures that there is something to draw for."""
    shown = [record for record in gallery.records if record.thumbnail]
    masks = [item for record in shown for item in record.masks]
    if shown:
        yield _figure(f"{noun.capitalize()}s a photo", *_whole_numbers([len(record.masks) for record in shown]))
    if masks:
        areas = _binned([item.area for item in masks], _AREAS)
        yield _figure(f"Area of a {noun}, % of the photo", areas, [f"{edge * 100:g}" for edge in _AREAS])
    if masks and gallery.scored:
        scores = _binned([item.score for item in masks], _TWENTIETHS)
        yield _figure("Score", scores, [f"{edge:g}" for edge in _TWENTIETHS])
    depths = [record.depth for record in shown if record.depth is not None]
    if depths:
        yield _figure(
            "Known depth, % of the photo",
            _binned(depths, _TENTHS),
            [f"{edge * 100:g}" for edge in _TENTHS],
        )
    best = [record.truth.best for record in shown if record.truth and record.truth.best is not None]
    if best:
        yield _figure(
            "Best IoU with the objects, mean a photo", _binned(best, _TENTHS), [f"{edge:g}" for edge in _TENTHS]
        )
    if gallery.seconds:
        label = "seconds a photo by step: " + ", ".join(f"{step} {value:.3g}" for step, value in gallery.seconds)
        yield _captioned("Seconds a photo, by step", rows_svg(gallery.seconds, unit="s", label=label))


def _figure(caption: str, counts: Sequence[int], ticks: Sequence[str]) -> str:
    places = list(pairwise(ticks)) if len(ticks) > len(counts) else [(tick, "") for tick in ticks]
    bins = ", ".join(
        f"{low}{' to ' + high if high else ''}: {count}"
        for (low, high), count in zip(places, counts, strict=True)
        if count
    )
    return _captioned(caption, histogram_svg(counts, ticks, label=f"{caption}: {bins}"))


def _captioned(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def _binned(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """Count values by bins; one on an edge is in the upper bin, but on the last edge in the last one."""
    counts = [0] * (len(edges) - 1)
    for value in values:
        place = sum(value >= edge for edge in edges[1:-1])
        counts[place] += 1
    return counts


def _whole_numbers(values: Sequence[int]) -> tuple[list[int], list[str]]:
    """Count whole numbers from 0; the last bin has all that are larger."""
    most = min(max(values), _MOST_COLUMNS)
    counts = [0] * (most + 1)
    for value in values:
        counts[min(value, most)] += 1
    ticks = [str(place) for place in range(most + 1)]
    if max(values) > most:
        ticks[-1] += "+"
    return counts, ticks


def _table(name: str, rows: Mapping[str, str]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>' for key, value in rows.items()
    )
    return f"<table><caption>{escape(name)}</caption>{body}</table>"
