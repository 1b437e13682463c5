"""Kill trainings at random moments, let them resume, and compare the result with that of an undisturbed training.

    bash scripts/stress.sh torture-train --kills 10

A training of a very small detector is killed (SIGKILL, with its loader processes) one to three times, each time after a
random iteration and a random part of the next, and resumes with --resume. In the end its weights must be the same bytes
as those of the undisturbed one, its metrics.jsonl must hold the same losses, and no unfinished file may be left. Every
other training reads with a loader process. Prints a row for each; the exit code is 1 if one differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from executable import FINAL_WEIGHTS, CommandError, command, cuts3d
from scenes.shards import cut_masks, write_shards

METRICS = "metrics.jsonl"
"""File of losses in the folder of a training."""
ITERATIONS, CHECKPOINT_EVERY = 14, 3
SCENES = 8
"""Rendered scenes to train on."""
PATIENCE = 600.0
"""Seconds after which a training without progress is considered broken."""
DETECTOR: dict[str, Any] = {
    "max_iter": ITERATIONS,
    "checkpoint_every": CHECKPOINT_EVERY,
    "log_every": 1,
    "images_per_batch": 2,
    "min_sizes": "48,64",
    "max_size": 96,
    "warmup_iter": 2,
    "decay_steps": 10,
    "precise_bn": 2,
    "rpn_pre_nms": 50,
    "rpn_post_nms": 20,
    "roi_batch": 16,
    "fpn_channels": 16,
    "box_head_width": 16,
    "mask_head_width": 16,
}
"""Changes to preset `tiny`."""


class TortureError(Exception):
    """A training failed, apart from what is compared."""


@dataclass(kw_only=True)
class Trial:
    """One training that was killed.

    Attributes:
        kills: finished iterations at each kill.
        loaders: number of loader processes.
        same_weights: whether the final weights are the same bytes as those of the undisturbed training.
        same_losses: whether metrics.jsonl holds the same iterations and losses.
        left: unfinished files in its folder.
        problem: why it did not resume; None if it did.
    """

    kills: list[int] = field(default_factory=list)
    loaders: int = 0
    same_weights: bool = False
    same_losses: bool = False
    left: list[str] = field(default_factory=list)
    problem: str | None = None

    @property
    def good(self) -> bool:
        """Whether it ended as if it had never been killed."""
        return self.same_weights and self.same_losses and not self.left and self.problem is None


class Bench:
    """Runs trainings on the same shards.

    Args:
        shards: with masks and confidence.
        folder: of the trainings; each has a subfolder.

    Attributes:
        whole: folder of the undisturbed training.
    """

    def __init__(self, shards: Path, folder: Path) -> None:
        """Name the folders; create nothing."""
        self.shards = shards
        self.whole = folder / "whole"
        self._folder = folder

    def run_undisturbed(self) -> None:
        """Train without an interruption.

        Raises:
            TortureError: the training fails.
        """
        code, said = _finish(self._start(self.whole, loaders=0))
        if code != 0:
            raise TortureError(f"the undisturbed training ends with exit code {code}: {said}")

    def trial(self, number: int, *, kills: int, chance: random.Random) -> Trial:
        """Train with kills, and compare.

        Args:
            number: of the trial, which names its folder.
            kills: number of kills; fewer if the training ends before.
            chance: draws the moments.
        """
        out = self._folder / f"{number:03d}"
        trial = Trial(loaders=number % 2)
        try:
            for _ in range(kills):
                if not self._kill(out, trial, chance):
                    break
            if not (out / FINAL_WEIGHTS).is_file():
                code, said = _finish(self._start(out, loaders=trial.loaders))
                if code != 0:
                    raise TortureError(f"it does not resume, exit code {code}: {said}")
        except TortureError as error:
            trial.problem = str(error)
            return trial
        trial.same_weights = (out / FINAL_WEIGHTS).read_bytes() == (self.whole / FINAL_WEIGHTS).read_bytes()
        trial.same_losses = _losses(out) == _losses(self.whole)
        trial.left = sorted(path.name for path in out.iterdir() if path.name.startswith("."))
        return trial

    def _kill(self, out: Path, trial: Trial, chance: random.Random) -> bool:
        """Start or resume a training and kill it. Returns False if it ended before."""
        # Draw the moment: before the first iteration, after any of them, or while the end is written.
        process = self._start(out, loaders=trial.loaders)
        begin = _newest_checkpoint(out)
        target = chance.randint(begin, ITERATIONS)
        share = chance.random()

        # Wait for the iteration, then for a part of the next, as long as iterations took so far.
        until, moved, seen = time.monotonic() + PATIENCE, time.monotonic(), begin
        pace = 0.5
        while process.poll() is None and time.monotonic() < until:
            done = len(_losses(out))
            if done > seen:
                pace, moved, seen = (time.monotonic() - moved) / (done - seen), time.monotonic(), done
            begun = done > begin or target == begin
            if begun and done >= target:
                time.sleep(share * min(pace, 5.0))
                break
            time.sleep(0.01)

        # Kill it, unless it has ended.
        ended = process.poll() is not None
        _kill_group(process)
        code, said = _finish(process)
        if ended and code != 0:
            raise TortureError(f"it does not resume, exit code {code}: {said}")
        if not ended:
            trial.kills.append(len(_losses(out)))
        return not ended

    def _start(self, out: Path, *, loaders: int) -> subprocess.Popen[str]:
        words: list[object] = ["train", "--shards", self.shards, "--preset", "tiny", "--device", "cpu", "--out", out]
        words += [f"--set={name}={value}" for name, value in {**DETECTOR, "loader_workers": loaders}.items()]
        if any(out.glob("checkpoint-*.pth")):
            words.append("--resume")
        elif out.exists() and any(out.iterdir()):
            words.append("--overwrite")
        return subprocess.Popen(
            command(*words),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a process group of its own, which is killed as a whole
        )


def torture(bench: Bench, *, kills: int, chance: random.Random, log: Callable[[str], None]) -> list[Trial]:
    """Train again and again until the number of kills is reached.

    Args:
        bench: runs the trainings.
        kills: number of kills in all.
        chance: draws how often each training is killed, and when.
        log: prints a status line.
    """
    log("an undisturbed training")
    bench.run_undisturbed()
    trials: list[Trial] = []
    left = kills
    while left > 0:
        trial = bench.trial(len(trials), kills=min(chance.randint(1, 3), left), chance=chance)
        trials.append(trial)
        # A training that ended before it could be killed counts too, or a fast machine would never finish.
        left -= max(len(trial.kills), 1)
        log(f"training {len(trials)}, killed after {trial.kills or 'none'}: {'the same' if trial.good else 'DIFFERS'}")
    return trials


def make_shards(folder: Path) -> Path:
    """Pack rendered scenes, cut their masks and score them. Returns the folder of the shards.

    Raises:
        CommandError: a command failed.
    """
    shards = write_shards(folder, "torture", count=SCENES, seed=0, cuts3d=cuts3d)
    cut_masks(shards, cuts3d=cuts3d)
    return shards


def _losses(out: Path) -> list[dict[str, Any]]:
    """Return the iterations and losses of metrics.jsonl, without an incomplete line at its end."""
    found = []
    path = out / METRICS
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []:
        if line.endswith("\n"):
            facts = json.loads(line)
            found.append({"iteration": facts["iteration"], "losses": facts["losses"]})
    return found


def _newest_checkpoint(out: Path) -> int:
    """Return the iterations of the newest checkpoint, 0 if there is none."""
    return max((int(path.stem.rpartition("-")[2]) for path in out.glob("checkpoint-*.pth")), default=0)


def _finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process. Returns its exit code and the last line of its stderr."""
    try:
        said = process.communicate(timeout=PATIENCE)[1]
    except subprocess.TimeoutExpired as error:
        _kill_group(process)
        process.communicate()
        raise TortureError(f"it had not ended after {PATIENCE:g} s") from error
    return process.returncode, (said.strip().splitlines() or [""])[-1]


def _kill_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):  # it has ended, and so have all of its group
        os.killpg(process.pid, signal.SIGKILL)


def main(arguments: Sequence[str]) -> int:
    """Run the command line.

    Args:
        arguments: of the command line.

    Returns:
        1 if a training differs.
    """
    parser = argparse.ArgumentParser(
        prog="stress torture-train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="number of kills (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--shards", type=Path, help=f"with masks and confidence ({SCENES} rendered scenes)")
    parser.add_argument("--folder", type=Path, help="working folder, which is kept (a temporary one)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    folder = options.folder or Path(tempfile.mkdtemp(prefix="cuts3d-torture-train-"))
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    try:
        bench = Bench(options.shards or make_shards(folder), folder)
        trials = torture(bench, kills=options.kills, chance=random.Random(options.seed), log=log)
    except (TortureError, CommandError) as error:
        sys.exit(f"torture-train: {error}")
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    kept = all(trial.good for trial in trials)
    if options.json:
        figures = {
            "kept": kept,
            "kills": sum(len(trial.kills) for trial in trials),
            "seconds": round(time.perf_counter() - begun, 1),
            "trainings": [{**asdict(trial), "good": trial.good} for trial in trials],
        }
        print(json.dumps(figures, indent=2))
    else:
        _print(trials)
    return 0 if kept else 1


def _print(trials: Sequence[Trial]) -> None:
    table = Table(
        title=f"trainings of {ITERATIONS} iterations, a checkpoint every {CHECKPOINT_EVERY}", title_justify="left"
    )
    for column in ("killed after iterations", "loader processes", "same weights", "same losses", "left", "problem"):
        table.add_column(column)
    for trial in trials:
        table.add_row(
            ", ".join(map(str, trial.kills)) or "-",
            str(trial.loaders),
            "yes" if trial.same_weights else "NO",
            "yes" if trial.same_losses else "NO",
            ", ".join(trial.left) or "-",
            trial.problem or "-",
        )
    Console().print(table)
