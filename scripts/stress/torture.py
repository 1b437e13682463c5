"""Kill stages at random moments, again and again, and compare their final output with that of an undisturbed run.

    bash scripts/stress.sh torture --kills 100

There is a guarantee for each kind of interruption. SIGKILL: the same command resumes, and ends with the same bytes.
SIGINT and SIGTERM: also exit code 130 or 143, within two seconds for SIGINT, one line without a traceback, and no
process or unfinished file left. A full disk: exit code 1, one line, nothing left. Prints how often each guarantee was
kept; the exit code is 1 if one was broken.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from stress.torture_runs import FULL, KINDS, STAGES, Bench, Ended, unfinished

LATENCY = 2.0
"""Seconds within which Ctrl-C must end a run."""
SHOWN = 10
"""Broken guarantees that are printed."""


@dataclass
class Figures:
    """Counts over all runs.

    Attributes:
        kills: by kind.
        moments: kills by stage.
        comparisons: how often all stages finished and were compared.
        differing_bytes: of tars, and of manifests without their times.
        lost_samples: samples neither in a tar nor listed as failed.
        leftovers: files other than shards and manifests after a run that finished.
        latencies: seconds from SIGINT to the end of the process.
        broken: other guarantees that were broken, in words.
        seconds: of the whole test.
    """

    kills: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    comparisons: int = 0
    differing_bytes: int = 0
    lost_samples: int = 0
    leftovers: int = 0
    latencies: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def kept(self) -> bool:
        """Whether every guarantee was kept."""
        late = any(value > LATENCY for value in self.latencies)
        return not (self.differing_bytes or self.lost_samples or self.leftovers or self.broken or late)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        return {
            "kept": self.kept,
            "kills": self.kills.total(),
            "kills_by_kind": dict(self.kills),
            "kills_by_stage": dict(self.moments),
            "comparisons": self.comparisons,
            "differing_bytes": self.differing_bytes,
            "lost_samples": self.lost_samples,
            "leftovers": self.leftovers,
            "sigint_seconds_median": round(median(self.latencies), 3) if self.latencies else None,
            "sigint_seconds_max": round(max(self.latencies), 3) if self.latencies else None,
            "broken": self.broken,
            "seconds": round(self.seconds, 1),
        }


def torture(bench: Bench, *, kills: int, chance: random.Random, log: Callable[[str], None]) -> Figures:
    """Run the stages over and over, killing them, and let them finish in the end.

    Args:
        bench: runs the stages.
        kills: number of kills.
        chance: draws the moments.
        log: prints a status line.
    """
    # Keep the output of an undisturbed run.
    figures, begun = Figures(), time.perf_counter()
    log("an undisturbed run")
    bench.run_undisturbed()

    # Start from base shards, and kill each stage until it finishes before it can be killed.
    while figures.kills.total() < kills:
        bench.reset()
        left = set(bench.stages)
        for stage in bench.stages:
            while figures.kills.total() < kills:
                ended = bench.run(stage, kind=KINDS[figures.kills.total() % len(KINDS)], chance=chance)
                if ended.undisturbed:
                    left.remove(stage)
                    break
                figures.kills[ended.kind] += 1
                figures.moments[stage] += 1
                _judge(ended, figures)
                moment = f"{stage}, {ended.kind} after {ended.after:.2f} s, ended {ended.latency:.2f} s later"
                log(f"{figures.kills.total()} of {kills}: {moment}")

        # Let the remaining stages finish, and compare.
        for stage in bench.stages:
            if stage in left and (ended := bench.run(stage)).code != 0:
                figures.broken.append(f"{stage} does not resume: {ended.line}")
        figures.comparisons += 1
        figures.differing_bytes += bench.differing_bytes()
        figures.lost_samples += bench.lost_samples()
        figures.leftovers += len(unfinished(bench.folder))
    figures.seconds = time.perf_counter() - begun
    return figures


def _judge(ended: Ended, figures: Figures) -> None:
    """Note the guarantees that an interrupted run breaks."""
    if ended.kind == "SIGKILL":
        return
    if ended.kind == "SIGINT":
        figures.latencies.append(ended.latency)
    expected = {"SIGINT": 130, "SIGTERM": 143, FULL: 1}[ended.kind]
    where = f"{ended.kind}, {ended.stage} after {ended.after:.2f} s"
    if ended.code != expected:
        figures.broken.append(f"{where}: exit code {ended.code}, not {expected}: {ended.line}")
    if ended.complaints:
        figures.broken.append(f"{where}: {' | '.join(ended.complaints)}")
    if ended.left:
        figures.broken.append(f"{where}: left {', '.join(ended.left)}")
    if ended.processes_left:
        figures.broken.append(f"{where}: processes are left")


def _print(figures: Figures, console: Console) -> None:
    table = Table(title="torture", title_justify="left", show_header=False)
    for name, value in figures.to_json().items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {number}" for key, number in value.items())
        elif isinstance(value, list):
            value = str(len(value))
        table.add_row(name.replace("_", " "), "-" if value is None else str(value))
    console.print(table)
    for line in figures.broken[:SHOWN]:
        console.print(f"broken: {line}", highlight=False, markup=False, soft_wrap=True)


def main(arguments: Sequence[str]) -> int:
    """Run the command line.

    Args:
        arguments: of the command line.

    Returns:
        1 if a guarantee was broken.
    """
    parser = argparse.ArgumentParser(
        prog="stress torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="number of kills (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--stages", default="depth,pseudo,confidence", help=f"of {','.join(STAGES)}, in this order")
    parser.add_argument("--folder", type=Path, help="working folder, which is kept (a temporary one)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    stages = [stage for stage in STAGES if stage in options.stages.split(",")]
    if set(options.stages.split(",")) - set(STAGES):
        parser.error(f"--stages {options.stages}: the stages are {', '.join(STAGES)}")

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    folder = options.folder or Path(tempfile.mkdtemp(prefix="cuts3d-torture-"))
    try:
        with Bench(folder, stages=stages, log=log) as bench:
            figures = torture(bench, kills=options.kills, chance=random.Random(options.seed), log=log)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(figures.to_json(), indent=2))
    else:
        _print(figures, Console())
    return 0 if figures.kept else 1
