"""What a training says of itself: to who watches it, in metrics.jsonl, and to TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from cuts3d_cli.detector import METRICS
from cuts3d_cli.files import atomic_write_bytes


@dataclass(frozen=True, kw_only=True)
class Step:
    """How training goes, over the last iterations.

    Attributes:
        iteration: how many are done.
        losses: means over the last iterations, by name, and "total".
        learning_rate: of the last iteration.
        images_per_second: over all processes.
        data_seconds: waited for data, an iteration.
        seconds_left: at this pace.
    """

    iteration: int
    losses: Mapping[str, float]
    learning_rate: float
    images_per_second: float
    data_seconds: float
    seconds_left: float


class Watcher(Protocol):
    """Told how training goes; only in the first process."""

    def begin(self, *, start: int, total: int) -> None:
        """Training begins after so many iterations that were done before."""

    def step(self, step: Step) -> None:
        """Some iterations are done."""

    def advance(self, iteration: int) -> None:
        """So many iterations are done."""

    def say(self, line: str) -> None:
        """Something to tell."""


class RunLog:
    """metrics.jsonl and TensorBoard. What a run that goes on does again is taken out first."""

    def __init__(self, folder: Path, *, start: int) -> None:
        """Open both.

        Args:
            folder: of the run.
            start: iterations that are done already.
        """
        from torch.utils.tensorboard import SummaryWriter

        path = folder / METRICS
        kept: list[str] = []
        if start and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # the last line of a run that was killed may be half a line
                    if json.loads(line)["iteration"] <= start:
                        kept.append(line + "\n")
        # In one step: a run that is killed right here keeps its lines.
        atomic_write_bytes(path, "".join(kept).encode())
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        self._board = SummaryWriter(str(folder), purge_step=start)

    def write(self, step: Step) -> None:
        """Add some iterations."""
        facts = {**asdict(step), "losses": dict(sorted(step.losses.items()))}
        self._file.write(json.dumps(facts) + "\n")
        self._file.flush()
        for name, value in step.losses.items():
            self._board.add_scalar(f"loss/{name}", value, step.iteration)
        self._board.add_scalar("learning_rate", step.learning_rate, step.iteration)
        self._board.add_scalar("images_per_second", step.images_per_second, step.iteration)

    def close(self) -> None:
        """Close both."""
        self._file.close()
        self._board.close()
