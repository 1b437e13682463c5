"""The results of a detector on several datasets, and the lines of their tables: for people, CSV or Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cuts3d_cli.evaluation.datasets.catalogue import PAPER
from cuts3d_cli.evaluation.metrics import COLUMNS, KindMetrics, Metrics
from cuts3d_cli.evaluation.published import AVERAGE, Setting, published
from cuts3d_cli.wording import be, counted

OURS = "this detector"
"""The method in lines of our own results."""
Row = Literal["box", "mask"]


@dataclass(frozen=True, kw_only=True)
class DatasetResult:
    """The results of a detector on one dataset.

    Attributes:
        name: of the dataset, as on the command line.
        title: of the dataset, for people.
        metrics: the figures, in [0, 1].
        missing: number of images that were left out; if there are any, the figures are not the dataset's.
        failed: {"file": str, "reason": str} of images on which reading or detecting failed; they count as images
            without detections.
        seconds: time of detecting and comparing.
        warnings: one line each.
    """

    name: str
    title: str
    metrics: Metrics
    missing: int
    failed: Sequence[Mapping[str, str]]
    seconds: float
    warnings: Sequence[str]

    @property
    def whole(self) -> bool:
        """True if the detector has seen all images of the dataset."""
        return self.missing == 0 and not self.failed

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values: figures in [0, 1], full precision, null where undefined."""
        return {
            "dataset": self.name,
            "title": self.title,
            "whole": self.whole,
            "missing": self.missing,
            "failed": [dict(item) for item in self.failed],
            **self.metrics.to_json(),
            "seconds": round(self.seconds, 3),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, kw_only=True)
class BenchmarkReport:
    """The results of a detector on some datasets.

    Attributes:
        detector: its name, such as that of its file.
        results: one a dataset, in the order of the request.
    """

    detector: str
    results: Sequence[DatasetResult]

    @property
    def failed(self) -> list[dict[str, str]]:
        """All images that failed, with the dataset they are in."""
        return [{"shard": result.name, **item} for result in self.results for item in result.failed]

    def average(self, row: Row) -> dict[str, float | None] | None:
        """Compute the mean of each figure over the datasets, as in the paper's Table 2.

        Args:
            row: by boxes, or by masks over the datasets that have them.

        Returns:
            Field of `KindMetrics` -> mean, in [0, 1], None where a dataset has no such figure; None in place of all
            with fewer than two datasets.
        """
        rows = [figures for result in self.results if (figures := _figures(result.metrics, row)) is not None]
        if len(rows) < 2:
            return None
        return {field: _mean([getattr(figures, field) for figures in rows]) for field in COLUMNS.values()}

    def to_json(self, *, compare: Setting | None = None) -> dict[str, Any]:
        """Return the report as plain JSON values: figures in [0, 1], full precision, null where undefined.

        Args:
            compare: add published results of this setting, in percent as printed.
        """
        names = [result.name for result in self.results] + ([AVERAGE] if self.of_paper else [])
        return {
            "detector": self.detector,
            "datasets": [result.to_json() for result in self.results],
            "average": {"box": self.average("box"), "mask": self.average("mask")},
        } | (
            {"published": [asdict(row) for name in names for row in published(name, setting=compare)]}
            if compare
            else {}
        )

    @property
    def of_paper(self) -> bool:
        """True if these are the paper's datasets, so that the average compares with that of its Table 2."""
        return {result.name for result in self.results} == set(PAPER)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a table.

    Attributes:
        dataset: its title; an asterisk marks one that was evaluated in part.
        method: `OURS`, or a published one.
        source: the published table; "" for ours.
        values: field of `KindMetrics` -> percent, None where undefined or not published.
    """

    dataset: str
    method: str
    source: str
    values: Mapping[str, float | None]


def lines(report: BenchmarkReport, row: Row, *, compare: Setting | None = None) -> list[Line]:
    """Return the table by boxes or by masks: the datasets, then their average.

    Args:
        report: the results.
        row: by boxes or by masks; datasets without masks are left out of the latter.
        compare: put published results of this setting under ours.
    """
    # Our line of each dataset, then the published ones.
    found: list[Line] = []
    for result in report.results:
        figures = _figures(result.metrics, row)
        if figures is None:
            continue
        title = result.title if result.whole else f"{result.title}*"
        found.append(_ours(title, {field: getattr(figures, field) for field in COLUMNS.values()}))
        found += _theirs(result.title, result.name, row, compare)
    # The average, beside the published one if it is over the same datasets.
    average = report.average(row)
    if average is not None:
        count = sum(_figures(result.metrics, row) is not None for result in report.results)
        mark = "" if all(result.whole for result in report.results) else "*"
        title = f"average of {count}"
        found.append(_ours(title + mark, average))
        if report.of_paper:
            found += _theirs(title, AVERAGE, row, compare)
    return found


def to_csv(report: BenchmarkReport, *, compare: Setting | None = None) -> str:
    """Return the tables as CSV: a line for each dataset, kind and method; ours in percent with full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["dataset", "method", "source", "kind", *COLUMNS])
    for row in _rows(report):
        for line in lines(report, row, compare=compare):
            values = [line.values[field] for field in COLUMNS.values()]
            writer.writerow([line.dataset, line.method, line.source, row, *("" if v is None else v for v in values)])
    return text.getvalue()


def to_markdown(report: BenchmarkReport, *, compare: Setting | None = None) -> str:
    """Return the tables as Markdown, in percent with one decimal."""
    parts = []
    for row in _rows(report):
        heads = ["dataset", *(["method"] if compare else []), *(f"{column} {row}" for column in COLUMNS)]
        cells = [heads, ["---"] * (len(heads) - len(COLUMNS)) + ["---:"] * len(COLUMNS)]
        for line in lines(report, row, compare=compare):
            names = [line.dataset, *([method_of(line)] if compare else [])]
            cells.append(
                [name.replace("|", "\\|") for name in names] + [one_decimal(line.values[f]) for f in COLUMNS.values()]
            )
        parts.append("\n".join(f"| {' | '.join(line_cells)} |" for line_cells in cells))
    return "\n\n".join(parts) + "\n" + "".join(f"\n\\{note}\n" for note in notes(report))


def notes(report: BenchmarkReport) -> list[str]:
    """Return the notes that belong under the tables."""
    found = []
    for result in report.results:
        if result.missing:
            images = f"{counted(result.missing, 'image')} of {result.title} {'was' if result.missing == 1 else 'were'}"
            found.append(f"* {images} left out: these are not its figures")
        if result.failed:
            found.append(
                f"* {counted(len(result.failed), 'image')} of {result.title} failed, and"
                f" {be(len(result.failed))} counted as without detections"
            )
    return found


def method_of(line: Line) -> str:
    """Return the method with its source."""
    return f"{line.method} ({line.source})" if line.source else line.method


def one_decimal(value: float | None) -> str:
    """Return a value with one decimal, or a dash where it is undefined."""
    return "-" if value is None else f"{value:.1f}"


def _rows(report: BenchmarkReport) -> Iterator[Row]:
    """Yield the tables that a report has: by boxes, and by masks if a dataset has them."""
    yield "box"
    if any(result.metrics.mask is not None for result in report.results):
        yield "mask"


def _figures(metrics: Metrics, row: Row) -> KindMetrics | None:
    return metrics.box if row == "box" else metrics.mask


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None if a value is undefined."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _ours(dataset: str, values: Mapping[str, float | None]) -> Line:
    shares = {field: None if value is None else 100 * value for field, value in values.items()}
    return Line(dataset=dataset, method=OURS, source="", values=shares)


def _theirs(title: str, name: str, row: Row, setting: Setting | None) -> list[Line]:
    """Return the published lines of a dataset."""
    if setting is None:
        return []
    return [
        Line(
            dataset=title,
            method=item.method,
            source=item.source,
            values={field: values.get(field) for field in COLUMNS.values()},
        )
        for item in published(name, setting=setting)
        for values in [item.box if row == "box" else item.mask]
        if values
    ]
