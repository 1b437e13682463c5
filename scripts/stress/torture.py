"""Interrupt commands again and again, mostly while they write, and compare their final output with undisturbed runs.

    bash scripts/stress.sh torture --kills 1000

A command runs in a fork of a process that has imported everything once. It is struck at one of its operations on
files, drawn at random: before it, in the middle of a write, or some lines of code later; one run in seven at a random
time, and now and then while the executable itself starts. Then the same command runs to its end, which may be struck
once more.

There is a guarantee for each kind of interruption. SIGKILL, also of the first process alone and of one on another
machine: the same command resumes, and ends with the same bytes. SIGINT, SIGTERM and SIGHUP: also exit code 130, 143 or
129, within two seconds except for trainings, which leave a checkpoint; one line without a traceback, and no process or
unfinished file left. A full disk: exit code 1, one line, nothing left. A worker that dies, any other
process that the command has started, as a reader or one of several with `--gpus`, and a clock that jumps while two
processes share the work: nothing changes at all. In the end, `cuts3d verify` is content, and no temporary file, no
claim and no process is left. Prints how often each guarantee was kept; the exit code is 1 if one was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
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

from stress.forks import memory_folder
from stress.torture_runs import Bench, Ended, unfinished
from stress.torture_stages import STAGES
from stress.troubles import SIGNALS, Trouble, draw

LATENCY = 2.0
"""Seconds within which a signal must end a run that is no training."""
CHAIN = 0.25
"""Chance that the run after an interruption is interrupted, too."""
ANEW_EVERY = 25
"""One in so many kills is of the executable itself, while it starts."""
SHOWN = 10
"""Broken guarantees that are printed."""


@dataclass
class Figures:
    """Counts over all runs.

    Attributes:
        kills: interruptions by kind.
        stages: interruptions by stage.
        operations: interruptions by the operation on files at which they came.
        missed: runs that ended before what was to happen to them.
        comparisons: how often a stage finished and was compared.
        differing: files that differ from those of the undisturbed run, in words.
        leftovers: files other than results after a run that finished, in words.
        latencies: seconds from a signal to the end of the process, trainings excepted.
        broken: other guarantees that were broken, in words.
        seconds: of the whole test.
        processor_seconds: that it computed, with all its processes.
    """

    kills: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    comparisons: int = 0
    differing: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0
    processor_seconds: float = 0.0

    @property
    def kept(self) -> bool:
        """Whether every guarantee was kept."""
        return not (self.differing or self.leftovers or self.broken)

    def bad_lines(self) -> list[str]:
        """Return a line for everything that was not as it must be."""
        kinds = {"broken": self.broken, "differs": self.differing, "left": self.leftovers}
        return [f"{kind}: {line}" for kind, lines in kinds.items() for line in lines]

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        return {
            "kept": self.kept,
            "kills": self.kills.total(),
            "kills_by_kind": dict(self.kills.most_common()),
            "kills_by_stage": dict(self.stages.most_common()),
            "kills_by_operation": dict(self.operations.most_common()),
            "runs_that_ended_before": self.missed,
            "comparisons": self.comparisons,
            "differing_files": self.differing,
            "leftovers": self.leftovers,
            "signal_seconds_median": round(median(self.latencies), 3) if self.latencies else None,
            "signal_seconds_max": round(max(self.latencies), 3) if self.latencies else None,
            "broken": self.broken,
            "seconds": round(self.seconds, 1),
            "processor_seconds": round(self.processor_seconds, 1),
        }


def torture(
    bench: Bench, stages: Sequence[str], *, kills: int, chance: random.Random, log: Callable[[str], None]
) -> Figures:
    """Interrupt stages over and over, and let each finish in the end.

    Args:
        bench: runs the stages; is prepared.
        stages: names of `STAGES`.
        kills: number of interruptions.
        chance: draws the stages, the kinds and the moments.
        log: prints a status line.
    """
    figures, begun, used = Figures(), time.perf_counter(), _processor_seconds()
    while figures.kills.total() < kills:
        # Interrupt a stage, once or several times in turn.
        stage = chance.choices(stages, [STAGES[name].share for name in stages])[0]
        bench.reset(stage)
        known = figures.bad_lines()
        troubles: list[Trouble] = []
        finished = False
        while not finished and (not troubles or chance.random() < CHAIN) and figures.kills.total() < kills:
            trouble = _draw(bench, stage, anew=figures.kills.total() % ANEW_EVERY == ANEW_EVERY - 1, chance=chance)
            troubles.append(trouble)
            ended = bench.run(stage, trouble)
            finished = ended.code == 0
            note(ended, figures)

        # Let it finish, and compare.
        where = f"{stage} ({'; then '.join(map(str, troubles))})"
        elsewhere = any(trouble.elsewhere for trouble in troubles)
        if elsewhere:
            time.sleep(bench.claim_seconds)  # what is left of another machine can only be waited for
        if not finished or elsewhere:
            last = bench.run(stage, impatient=elsewhere)
            if last.code != 0 or last.complaints:
                figures.broken.append(
                    f"{where}: does not resume, {last.code}: {'; '.join(last.complaints) or last.line}"
                )
        figures.comparisons += 1
        figures.differing += [f"{where}: {name}" for name in bench.differences(stage)]
        figures.leftovers += [f"{where}: {name}" for name in unfinished(bench.folder)]
        if problem := bench.verify():
            figures.broken.append(f"{where}: {problem}")
        for line in figures.bad_lines():
            if line not in known:
                log(line)
        log(f"{figures.kills.total()} of {kills} interruptions, {time.perf_counter() - begun:.0f} s: {where}")
    figures.seconds = time.perf_counter() - begun
    figures.processor_seconds = _processor_seconds() - used
    return figures


def _processor_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _draw(bench: Bench, stage: str, *, anew: bool, chance: random.Random) -> Trouble:
    facts, about = bench.undisturbed[stage], STAGES[stage]
    return draw(
        chance,
        points=facts.points,
        seconds=facts.seconds,
        workers=about.workers,
        shared=about.shared,
        team=about.team,
        anew=anew,
    )


def note(ended: Ended, figures: Figures) -> None:
    """Count a run to which something happened, and note the guarantees that it breaks."""
    trouble = ended.trouble
    assert trouble is not None, "nothing happened to the run"
    bears = trouble.kind in ("dead worker", "dead process", "clock jump")  # these must change nothing
    if not ended.struck or (ended.code == 0 and not bears):
        figures.missed += 1
    else:
        figures.kills[trouble.kind] += 1
        figures.stages[ended.stage] += 1
        figures.operations[ended.struck.partition(" ")[0] if trouble.moment else ended.struck] += 1

    # See that it ended as it must.
    where = f"{ended.stage} ({trouble}) at {ended.struck or 'its end'}"
    expected = {"SIGKILL": -9, "full disk": 1, **SIGNALS}.get(trouble.kind, 0)
    if ended.code not in (0, expected):
        figures.broken.append(f"{where}: exit code {ended.code}, not {expected}: {ended.line}")
    figures.broken += [f"{where}: {complaint}" for complaint in ended.complaints]
    if trouble.kind == "SIGKILL":
        return
    if ended.left:
        figures.broken.append(f"{where}: left {', '.join(ended.left)}")
    if ended.iterations and not ended.checkpoints and trouble.kind in SIGNALS:
        figures.broken.append(f"{where}: {ended.iterations} iterations, and no checkpoint")
    if trouble.kind in SIGNALS and ended.struck and STAGES[ended.stage].training is None:
        figures.latencies.append(ended.latency)
        if ended.latency > LATENCY:
            figures.broken.append(f"{where}: it took {ended.latency:.2f} s to end")


def _print(figures: Figures, console: Console) -> None:
    table = Table(title="torture", title_justify="left", show_header=False)
    for name, value in figures.to_json().items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {number}" for key, number in value.items())
        elif isinstance(value, list):
            value = str(len(value))
        table.add_row(name.replace("_", " "), "-" if value is None else str(value))
    console.print(table)
    for line in figures.bad_lines()[:SHOWN]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


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
    parser.add_argument("--kills", type=int, default=50, help="number of interruptions (50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--stages", default=",".join(STAGES), help=f"some of {','.join(STAGES)} (all)")
    parser.add_argument("--folder", type=Path, help="working folder, which is kept (a temporary one)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    stages = options.stages.split(",")
    if not set(stages) <= set(STAGES):
        parser.error(f"--stages {options.stages}: the stages are {', '.join(STAGES)}")

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    # Under nohup, SIGHUP is ignored, and what is started here would ignore it, too.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="cuts3d-torture-", dir=memory_folder()))
    try:
        bench = Bench(folder, log=log)
        bench.prepare(stages)
        figures = torture(bench, stages, kills=options.kills, chance=random.Random(options.seed), log=log)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(figures.to_json(), indent=2))
    else:
        _print(figures, Console())
    return 0 if figures.kept else 1
