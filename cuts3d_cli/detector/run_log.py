"""What a training reports: events for whoever watches, metrics.jsonl, and TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cuts3d_cli.detector import METRICS
from cuts3d_cli.errors import Message
from cuts3d_cli.files import atomic_write_bytes
from cuts3d_cli.json_reading import Fields, as_object, parse_json

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Step:
    """Metrics of the iterations since the last step.

    Attributes:
        iteration: number of finished iterations.
        losses: means by name, and their "total".
        learning_rate: of the last iteration.
        images_per_second: over all processes.
        data_seconds: time spent waiting for data, per iteration.
        seconds_left: time to the end at this pace.
    """

    iteration: int
    losses: Mapping[str, float]
    learning_rate: float
    images_per_second: float
    data_seconds: float
    seconds_left: float


class Averages:
    """Mean losses and rates since the last step.

    Args:
        images_per_batch: over all processes.
    """

    def __init__(self, *, images_per_batch: int) -> None:
        self._images_per_batch = images_per_batch
        self._clear()

    def _clear(self) -> None:
        self._started = time.perf_counter()
        self._sums: dict[str, torch.Tensor] = {}
        self._count, self._waited = 0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        asked = time.perf_counter()
        yield
        self._waited += time.perf_counter() - asked

    def add(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Add the losses of one iteration, scalars, without waiting for the device."""
        for name, value in losses.items():
            known = self._sums.get(name)
            self._sums[name] = value.detach().float() if known is None else known + value.detach()
        self._count += 1

    def step(self, iteration: int, *, learning_rate: float, iterations_left: int) -> Step:
        """Return the means and start over."""
        seconds = time.perf_counter() - self._started
        step = Step(
            iteration=iteration,
            losses={name: round(float(value) / self._count, 6) for name, value in self._sums.items()},
            learning_rate=learning_rate,
            images_per_second=round(self._count * self._images_per_batch / seconds, 3),
            data_seconds=round(self._waited / self._count, 4),
            seconds_left=round(iterations_left * seconds / self._count, 1),
        )
        self._clear()
        return step


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
    """

    def __init__(self, folder: Path, *, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / METRICS
        kept: list[str] = []
        if start and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # a killed run may leave half a line at the end
                    if Fields(as_object(parse_json(line.encode()))).whole("iteration") <= start:
                        kept.append(line + "\n")
        # Atomically: a run that is killed right here keeps its lines.
        atomic_write_bytes(path, "".join(kept).encode())
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        self._board = SummaryWriter(str(folder), purge_step=start)

    def write(self, step: Step) -> None:
        """Append the metrics of the last iterations."""
        facts = {**asdict(step), "losses": dict(sorted(step.losses.items()))}
        self._file.write(json.dumps(facts) + "\n")
        self._file.flush()
        for name, value in step.losses.items():
            self._board.add_scalar(f"loss/{name}", value, step.iteration)
        self._board.add_scalar("learning_rate", step.learning_rate, step.iteration)
        self._board.add_scalar("images_per_second", step.images_per_second, step.iteration)

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._board.close()
