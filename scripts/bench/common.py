"""Shared by all benchmarks: interleaved timing, ratios, facts about the machine, tables."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as RichTable
from scipy import linalg  # noqa: F401, so that its BLAS is listed too
from threadpoolctl import threadpool_info, threadpool_limits

from cuts3d_cli.cut.masks import mask_iou
from cuts3d_cli.shards.manifest import package_versions

Row = dict[str, Any]
"""Column -> cell."""

FIGURES = {
    "box AP": ("box", "ap"),
    "box AP50": ("box", "ap50"),
    "mask AP": ("mask", "ap"),
    "mask AP50": ("mask", "ap50"),
}
"""Columns of the benchmarks that train, in percent -> kind and field in the JSON of `cuts3d eval`, in [0, 1]."""


class BenchError(Exception):
    """A benchmark cannot run; the message is one line."""


@dataclass(frozen=True)
class Table:
    """Rows under a title; all rows have the same columns, and a cell may be None."""

    title: str
    rows: Sequence[Row]


@dataclass
class Report:
    """The result of a benchmark.

    Attributes:
        name: of the benchmark.
        tables: its figures.
        notes: how they were measured, a sentence each.
        skipped: what was skipped and why, a line each.
    """

    name: str
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values, figures to six digits."""
        return {
            "tables": {table.title: [_plain(row) for row in table.rows] for table in self.tables},
            "notes": self.notes,
            "skipped": self.skipped,
        }


@dataclass(frozen=True)
class Timed:
    """Seconds and results of each action, in the order of the repeats."""

    seconds: Mapping[str, Sequence[float]]
    results: Mapping[str, Sequence[Any]]


def interleaved(actions: Mapping[str, Callable[[], Any]], *, repeats: int) -> Timed:
    """Time actions in turn, A B A B, so that other load on the machine affects all of them alike.

    Args:
        actions: by name.
        repeats: rounds, at least 1.

    Returns:
        Wall-clock seconds and results of each action, one per round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    results: dict[str, list[Any]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            begun = time.perf_counter()
            result = action()
            seconds[name].append(time.perf_counter() - begun)
            results[name].append(result)
    return Timed(seconds=seconds, results=results)


def ratios(slow: Sequence[float], fast: Sequence[float]) -> Row:
    """Compute how many times longer one action takes than another: median, least and largest over their pairs.

    Args:
        slow: seconds of the one, a figure per round.
        fast: seconds of the other.

    Raises:
        ValueError: the two differ in length.
    """
    pairs = [first / second for first, second in zip(slow, fast, strict=True)]
    return {"ratio": median(pairs), "lowest": min(pairs), "highest": max(pairs)}


def faster(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Return the shorter of two times in each round.

    BLAS in several threads is slower than in one wherever it shares a core, since its threads wait for each other. The
    peer gets the better of the two, so that a busy machine does not flatter ours.
    """
    return [min(pair) for pair in zip(first, second, strict=True)]


def in_one_thread(action: Callable[[], Any]) -> Any:
    """Run an action with its linear algebra in one thread. Returns its result."""
    with threadpool_limits(limits=1):
        return action()


def agreement(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Compute the IoU of two masks, (h, w) bool; 1 where both are empty, since they agree."""
    return mask_iou(first, second) if first.any() or second.any() else 1.0


def spread(values: Iterable[float], *, name: str) -> Row:
    """Return the mean and the least of some figures as two cells, None without figures."""
    found = list(values)
    return {f"{name} mean": mean(found) if found else None, f"{name} least": min(found) if found else None}


def log(line: str) -> None:
    """Print a line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)


def load_average() -> float | None:
    """Return the load average of the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def machine(*, load_before: float | None) -> Row:
    """Collect the facts that the figures depend on; versions are of the packages imported so far.

    Args:
        load_before: the load average before the first benchmark, caused by other processes.
    """
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "blas": [
            {name: library.get(name) for name in ("prefix", "internal_api", "version", "num_threads")}
            for library in threadpool_info()
        ],
        "load_before": load_before,
        "system": platform.platform(),
        "versions": package_versions(),
    }


def print_machine(facts: Row, console: Console) -> None:
    """Print the facts of `machine` in a few lines."""
    console.print(f"{facts['processor']}, {facts['cores']} cores, load before: {facts['load_before']}", highlight=False)
    for library in facts["blas"]:
        version = f" {library['version']}" if library["version"] else ""
        console.print(f"{library['internal_api']}{version}: {library['num_threads']} threads", highlight=False)
    console.print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()), highlight=False)


def print_report(report: Report, console: Console) -> None:
    """Print the tables of a benchmark, its notes, and what was skipped."""
    for table in report.tables:
        rich = RichTable(title=f"\n{report.name}: {table.title}", title_justify="left")
        columns = list(table.rows[0]) if table.rows else []
        for name in columns:
            words = any(isinstance(row[name], str) for row in table.rows)
            rich.add_column(name, justify="left" if words else "right")
        for row in table.rows:
            rich.add_row(*[_cell(row[name]) for name in columns])
        console.print(rich)
    for line in report.notes:
        console.print(line, highlight=False, markup=False)
    for line in report.skipped:
        console.print(f"skipped: {line}", highlight=False, markup=False)


def write_json(path: Path, content: object) -> None:
    """Write JSON to a file that is complete whenever it exists.

    Args:
        path: replaced if it exists.
        content: plain JSON values.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _plain(row: Row) -> Row:
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in row.items()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []  # not Linux
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
