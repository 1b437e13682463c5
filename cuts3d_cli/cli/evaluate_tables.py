"""What `cuts3d eval` prints: tables that fit a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cuts3d_cli.cli.console import print_line
from cuts3d_cli.cli.tables import print_failures, print_json
from cuts3d_cli.evaluation.datasets.loading import Availability
from cuts3d_cli.evaluation.metrics import COLUMNS, KindMetrics, Metrics
from cuts3d_cli.evaluation.published import Setting, published
from cuts3d_cli.evaluation.report import (
    OURS,
    BenchmarkReport,
    Row,
    lines,
    method_of,
    notes,
    one_decimal,
    to_csv,
    to_markdown,
)
from cuts3d_cli.evaluation.shards import Evaluation
from cuts3d_cli.wording import counted
from cuts3d_cli.wording import percent as share

Kind = Literal["table", "json", "csv", "markdown"]


def print_benchmark(
    report: BenchmarkReport, *, kind: Kind, console: Console, errors: Console, compare: Setting | None = None
) -> None:
    """Print the figures on stdout; images that could not be read on stderr.

    Args:
        report: to print.
        kind: a table for people, or one of the formats for machines and documents.
        console: on stdout.
        errors: on stderr.
        compare: puts published results of this setting under ours.
    """
    if kind == "json":
        print_json(report.to_json(compare=compare))
    elif kind == "csv":
        print(to_csv(report, compare=compare), end="")
    elif kind == "markdown":
        print(to_markdown(report, compare=compare), end="")
    else:
        print_report(report, console=console, compare=compare)
    for result in report.results:
        if compare and not published(result.name, setting=compare):
            line = f"there are no published {compare} figures of {result.title}"
            print_line(line, console=errors)
    print_failures(report.failed, errors=errors, more="--json prints all of them as `failed`")


def print_report(report: BenchmarkReport, *, console: Console, compare: Setting | None = None) -> None:
    """Print the tables on stdout, in percent with one decimal: by boxes, and by masks where there are any.

    Args:
        report: to print.
        console: on stdout.
        compare: puts published results of this setting under ours.
    """
    print_line(f"{report.detector}, percent", console=console)
    rows: tuple[Row, ...] = ("box", "mask")
    for row in rows:
        found = lines(report, row, compare=compare)
        if not found:
            continue
        table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
        table.add_column(row, no_wrap=True, overflow="ellipsis")
        for column in COLUMNS:
            table.add_column(column, justify="right", no_wrap=True)
        for place, line in enumerate(found):
            ours = line.method == OURS
            if compare and place and ours:
                table.add_section()
            # Published figures stand below ours, whose line has the dataset's name.
            name = Text(line.dataset if ours else f"  {method_of(line)}", style="" if ours else "dim")
            table.add_row(name, *(one_decimal(line.values[field]) for field in COLUMNS.values()))
        console.print(table)
    for note in notes(report):
        print_line(note, console=console)


def print_datasets(found: Sequence[Availability], *, root: Path, console: Console) -> None:
    """Print which benchmarks are below a folder, what belongs where, what is missing, and where to get it."""
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in ("name", "dataset", "has", "photos", "state"):
        table.add_column(column, justify="right" if column == "photos" else "left")
    for item in found:
        benchmark = item.benchmark
        table.add_row(
            benchmark.name,
            benchmark.title,
            "masks" if benchmark.masks else "boxes",
            f"{min(item.count, benchmark.images)}/{benchmark.images}",
            item.state,
        )
    known = "" if root.is_dir() else ": there is no such folder; name yours with --root"
    print_line(f"datasets in {root}{known}", console=console)
    console.print(table)
    for item in found:
        for line in _place(item):
            print_line(line, console=console)


def _place(item: Availability) -> list[str]:
    """Return where a benchmark is, or what is missing of it and where that belongs."""
    name, benchmark = item.benchmark.name, item.benchmark
    if item.state == "ready" and item.annotations and item.photos:
        return [f"{name}: {' and '.join(map(str, (*item.annotations, *item.photos)))}"]
    return [f"{name}: {item.note}", f"  from {benchmark.page}"]


def print_evaluation(result: Evaluation, *, console: Console) -> None:
    """Print the figures of masks in shards as a table, in percent with one decimal."""
    metrics = result.metrics
    rows = {"box": metrics.box} | ({"mask": metrics.mask} if metrics.mask is not None else {})
    empty = f" ({result.empty} without annotations)" if result.empty else ""
    print_line(
        f"{result.ground_truth}: {counted(metrics.images, 'image')}{empty},"
        f" {counted(metrics.instances, 'instance')}, {metrics.crowds} crowd"
        f" regions, {counted(metrics.predictions, 'mask')}; percent",
        console=console,
    )
    left_out = {
        f"of {counted(result.missing + metrics.images, 'image')} of the ground truth": result.missing,
        "images of the shards": result.extra,
        "masks of such images": result.unmatched,
        f"of {counted(result.annotations, 'annotation')}": result.dropped,
    }
    if any(left_out.values()):
        counts = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
        print_line(f"left out: {counts}", console=console)
    table = Table()
    table.add_column("")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, figures in rows.items():
        table.add_row(name, *(share(getattr(figures, value)) for value in COLUMNS.values()))
    console.print(table)
    for name, figures in rows.items():
        print_line(_closing_line(name, figures, metrics), console=console)


def _closing_line(name: str, figures: KindMetrics, metrics: Metrics) -> str:
    ignored = f", {figures.ignored} in crowd regions" if figures.ignored else ""
    return (
        f"{name}: recall@0.5 {share(figures.recall50)}, precision@0.5 {share(figures.precision50)}, mean best IoU"
        f" {share(figures.mean_best_iou)} ({figures.matched} of {metrics.instances} found by"
        f" {counted(metrics.predictions, 'mask')}{ignored})"
    )
