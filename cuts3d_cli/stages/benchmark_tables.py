"""What `cuts3d eval --checkpoint` and `cuts3d eval --list` print for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cuts3d_cli.evaluation.datasets import Availability
from cuts3d_cli.evaluation.metrics import COLUMNS
from cuts3d_cli.evaluation.published import Setting
from cuts3d_cli.evaluation.report import BenchmarkReport, Row, lines, method_of, notes, percent


def print_report(report: BenchmarkReport, *, console: Console, compare: Setting | None = None) -> None:
    """The tables on stdout, in percent with one decimal: by boxes, and by masks where there are any.

    Args:
        report: to print.
        console: on stdout.
        compare: puts published results of this setting under ours.
    """
    rows: tuple[Row, ...] = ("box", "mask")
    for row in rows:
        found = lines(report, row, compare=compare)
        if not found:
            continue
        table = Table(title=Text(f"{row}: {report.detector}"), title_justify="left")
        table.add_column("dataset")
        if compare:
            table.add_column("method")
        for column in COLUMNS:
            table.add_column(column, justify="right")
        for place, line in enumerate(found):
            repeated = place > 0 and found[place - 1].dataset.rstrip("*") == line.dataset
            if compare and place and not repeated:
                table.add_section()
            names = ["" if repeated else line.dataset, *([method_of(line)] if compare else [])]
            table.add_row(*map(Text, names), *(percent(line.values[field]) for field in COLUMNS.values()))
        console.print(table)
    for note in notes(report):
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def print_datasets(found: Sequence[Availability], *, root: Path, console: Console) -> None:
    """Which benchmarks are below a folder, what is missing of the others, and where to get it."""
    table = Table(title=Text(f"datasets in {root}"), title_justify="left")
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
    console.print(table)
    for item in found:
        if item.note:
            text = f"{item.benchmark.name}: {item.note}; from {item.benchmark.page}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
