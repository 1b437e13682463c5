"""What a training reports: events for whoever watches, metrics.jsonl, and TensorBoard."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from cuts3d_cli.detector import BEST_WEIGHTS, METRICS
from cuts3d_cli.detector.evaluating import Results, deciding_figure
from cuts3d_cli.errors import Message
from cuts3d_cli.files import atomic_write_bytes, explained
from cuts3d_cli.json_reading import Fields, as_object, parse_json
from cuts3d_cli.wording import percent

SLOW_SHARE = 0.2
"""A training that waits for data for more than this share of its time is limited by it..."""
SLOW_STEPS = 3
"""... if so many steps in a row do."""
_MEGABYTE = 2**20
_KINDS = {"box": "bbox", "mask": "segm"}
"""Kinds of figures -> their names in detectron2."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Metrics of the iterations since the last step.

    Attributes:
        iteration: number of finished iterations.
        losses: means by name, and their "total", over all processes.
        metrics: means of what detectron2 counts, by its names: "stage0/fast_rcnn/cls_accuracy", ...
        learning_rate: of the last iteration.
        images_per_second: over all processes.
        seconds: time of an iteration.
        data_seconds: of which the slowest process waited for data.
        memory_mb: the most memory that a process has used so far, of its GPU, or of the machine where it has none.
        seconds_left: time to the end at this pace.
    """

    iteration: int
    losses: Mapping[str, float]
    metrics: Mapping[str, float]
    learning_rate: float
    images_per_second: float
    seconds: float
    data_seconds: float
    memory_mb: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """An evaluation while training.

    Attributes:
        iteration: number of finished iterations.
        results: data set -> figures.
        score: the one that decides which weights are the best; None where it is undefined.
        best: whether it is the best so far.
    """

    iteration: int
    results: Results
    score: float | None
    best: bool

    @classmethod
    def of(cls, iteration: int, results: Results, *, best: float | None) -> Scores:
        """Judge results.

        Args:
            iteration: number of finished iterations.
            results: data set -> figures.
            best: the best score so far; None where there is none.
        """
        score = deciding_figure(results)
        better = score is not None and (best is None or score > best)
        return cls(iteration=iteration, results=results, score=score, best=better)

    def __str__(self) -> str:
        """Return them as a line: AP in percent, of masks where there are any."""
        each = [
            f"{name} {kind} AP {percent(result[kind]['ap'])}"
            for name, result in self.results.items()
            for kind in _KINDS
            if result.get(kind) is not None
        ]
        note = f" (best so far: {BEST_WEIGHTS})" if self.best else ""
        return f"iteration {self.iteration}: {', '.join(each)}{note}"


class Averages:
    """Mean losses and rates since the last step.

    Args:
        images_per_batch: over all processes.
        device: of this process.
    """

    def __init__(self, *, images_per_batch: int, device: torch.device) -> None:
        self._images_per_batch, self._device = images_per_batch, device
        self._clear()

    def _clear(self) -> None:
        self._started = time.perf_counter()
        self._losses: dict[str, torch.Tensor] = {}
        self._facts: dict[str, list[float]] = {}
        self._count, self._waited = 0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        asked = time.perf_counter()
        yield
        self._waited += time.perf_counter() - asked

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time of the block."""
        begun = time.perf_counter()
        yield
        self._started += time.perf_counter() - begun

    def add(self, losses: Mapping[str, torch.Tensor], facts: Mapping[str, float]) -> None:
        """Add the losses of one iteration, scalars, without waiting for the device, and further figures."""
        for name, value in losses.items():
            known = self._losses.get(name)
            self._losses[name] = value.float() if known is None else known + value
        for name, fact in facts.items():
            self._facts.setdefault(name, []).append(fact)
        self._count += 1

    def step(
        self, iteration: int, *, learning_rate: float, iterations_left: int, gather: Callable[[Any], Sequence[Any]]
    ) -> Step | None:
        """Return the means of all processes and start over.

        Args:
            iteration: number of finished iterations.
            learning_rate: of the last one.
            iterations_left: to the end.
            gather: returns what the processes have, in the first one.

        Returns:
            The step in the first process, None in the others.
        """
        # Gather the means of the processes.
        count = max(self._count, 1)
        losses = {name: float(value) / count for name, value in self._losses.items()}
        facts = {name: math.fsum(values) / len(values) for name, values in self._facts.items()}
        every = gather((losses, facts, self._waited / count, _memory(self._device)))
        seconds = (time.perf_counter() - self._started) / count
        self._clear()
        if not every:
            return None
        # Average them; a training is as slow as its slowest process.
        return Step(
            iteration=iteration,
            losses=_mean([own[0] for own in every]),
            metrics=_mean([own[1] for own in every]),
            learning_rate=learning_rate,
            images_per_second=round(self._images_per_batch / seconds, 3),
            seconds=round(seconds, 4),
            data_seconds=round(max(own[2] for own in every), 4),
            memory_mb=round(max(own[3] for own in every), 1),
            seconds_left=round(iterations_left * seconds, 1),
        )


class DataWatch:
    """Notices, once, that a training is limited by how fast its data come."""

    def __init__(self) -> None:
        self._steps = self._slow = 0

    def limit(self, step: Step) -> float | None:
        """Look at the next step.

        Args:
            step: of the first process; in the first one of a run, the loaders start.

        Returns:
            The share of the time that it waited for data, if it and those before it waited too long; else None.
        """
        self._steps += 1
        share = step.data_seconds / step.seconds if step.seconds else 0.0
        if self._steps > 1 and self._slow < SLOW_STEPS:
            self._slow = self._slow + 1 if share > SLOW_SHARE else 0
            if self._slow == SLOW_STEPS:
                return share
        return None


def _mean(every: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over the processes that have it."""
    names = sorted({name for own in every for name in own})
    values = {name: [own[name] for own in every if name in own] for name in names}
    return {name: round(math.fsum(found) / len(found), 6) for name, found in values.items()}


def _memory(device: torch.device) -> float:
    """Return the most memory that this process has used: of its GPU, or of the machine; in megabytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MEGABYTE
    if os.name != "posix":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MEGABYTE if sys.platform == "darwin" else 1024)


class TrainingEvents(Protocol):
    """Receives the events of a training; in its first process alone."""

    def begin(self, *, start: int, total: int) -> None:
        """Receive that the iterations begin, of which `start` of `total` were finished before."""

    def step(self, step: Step) -> None:
        """Receive the metrics of the last iterations."""

    def advance(self, iteration: int) -> None:
        """Receive that one more iteration is finished, `iteration` by now."""

    def say(self, line: str | Message) -> None:
        """Print a status line."""


class RunLog:
    """metrics.jsonl and TensorBoard. Iterations that a resumed run repeats are taken out first.

    Args:
        folder: of the run.
        start: number of iterations that were finished before.

    Attributes:
        scored: iterations after which the detector was evaluated.
        best: the best score so far; None where there is none.
    """

    def __init__(self, folder: Path, *, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / METRICS
        kept: list[str] = []
        self.scored: set[int] = set()
        self.best: float | None = None
        for line in path.read_text(encoding="utf-8").splitlines() if start and path.exists() else ():
            with suppress(ValueError):  # a killed run may leave half a line at the end
                facts = Fields(as_object(parse_json(line.encode())))
                iteration = facts.whole("iteration")
                if iteration <= start:
                    if facts.has("results"):
                        self._note(iteration, facts.share("score") if facts.has("score") else None)
                    kept.append(line + "\n")
        # Atomically: a run that is killed right here keeps its lines.
        atomic_write_bytes(path, "".join(kept).encode())
        self._path = path
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        # TensorBoard's own thread keeps an error that it has, and the next call here raises it.
        self._hook = threading.excepthook
        threading.excepthook = self._unless_kept
        self._board = SummaryWriter(str(folder), purge_step=start)

    def write(self, step: Step) -> None:
        """Append the metrics of the last iterations.

        Raises:
            FileError: they cannot be written.
        """
        facts = asdict(step)
        self._append(facts)
        scalars = {f"loss/{name}": value for name, value in facts.pop("losses").items()} | facts.pop("metrics") | facts
        for name, value in scalars.items():
            if name not in ("iteration", "seconds_left"):
                self._add(name, value, step.iteration)

    def write_scores(self, scores: Scores) -> None:
        """Append the figures of an evaluation; in TensorBoard in percent, by detectron2's names.

        Raises:
            FileError: they cannot be written.
        """
        self._append(asdict(scores))
        for dataset, result in scores.results.items():
            for kind, name in _KINDS.items():
                for figure in ("ap", "ap50", "ap75", "ar100"):
                    value = (result.get(kind) or {}).get(figure)
                    if value is not None:
                        self._add(f"{dataset}/{name}/{figure.upper()}", 100 * value, scores.iteration)
        self._note(scores.iteration, scores.score)

    def close(self) -> None:
        """Close both files.

        Raises:
            FileError: what was left to write cannot be written.
        """
        with explained(self._path):
            try:
                self._file.close()
                self._board.close()
            finally:
                threading.excepthook = self._hook

    def _append(self, facts: Mapping[str, Any]) -> None:
        with explained(self._path):
            self._file.write(json.dumps(facts) + "\n")
            self._file.flush()

    def _add(self, name: str, value: float, iteration: int) -> None:
        """Add a figure to those of TensorBoard, which lie beside the metrics."""
        with explained(self._path.with_name("events.out.tfevents")):
            self._board.add_scalar(name, value, iteration)

    def _unless_kept(self, arguments: Any) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            self._hook(arguments)

    def _note(self, iteration: int, score: float | None) -> None:
        self.scored.add(iteration)
        if score is not None and (self.best is None or score > self.best):
            self.best = score
