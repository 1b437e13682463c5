"""Progress bars on stderr, or plain lines where stderr is no terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from cuts3d_cli.cli.console import plain_console, print_line
from cuts3d_cli.cli.pace import Pace
from cuts3d_cli.cli.spelling import COMMANDS, running, set_running, spelled
from cuts3d_cli.engine.results import Progress
from cuts3d_cli.errors import Message
from cuts3d_cli.wording import counted

_QUIET_SECONDS = 60.0
"""Where stderr is no terminal: seconds between two lines about one shard."""


class _Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        pace: Pace | None = task.fields["pace"]
        rate = pace.rate if pace else None
        return Text("- images/s" if rate is None else f"{rate:.2f} images/s", style="progress.data.speed")


class _Remaining(ProgressColumn):
    """The time that is left, as hours, minutes and seconds."""

    def render(self, task: Task) -> Text:
        pace: Pace | None = task.fields["pace"]
        left = pace.seconds_left(task.remaining) if pace and task.remaining is not None else None
        return Text("-:--:--" if left is None else _duration(left), style="progress.remaining")


@dataclass
class _UnderWay:
    """A shard that is worked on.

    Attributes:
        begun: when, as `time.perf_counter` tells it.
        said: when a line last spoke of it.
        done: its finished images.
        failed: those of them that failed.
    """

    begun: float = 0.0
    said: float = 0.0
    done: int = 0
    failed: int = 0


class StageProgress(Progress):
    """Shows a bar for the current shard and one for all of them; of several shards at once, the one of all."""

    def __init__(self, console: Console, *, name: str, unit: str = "shard") -> None:
        """Show nothing yet.

        Args:
            console: on stderr.
            name: of the stage.
            unit: what it works through.
        """
        self._console = console
        self._name = name
        self._unit = unit
        self._sizes: dict[Path, int | None] = {}
        self._left = 0
        self._failed = 0
        self._under_way: dict[Path, _UnderWay] = {}
        self._total: int | None = None
        self._left_out = self._all_done = 0
        self._pace: Pace | None = None
        self._latest = Path()
        self._waited_for: set[str] = set()
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            _Remaining(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._all: TaskID | None = None
        self._one: TaskID | None = None

    def __enter__(self) -> StageProgress:
        if self._console.is_terminal:  # rich ends a bar that was never shown with an empty line, in some versions
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def replacing(self, what: Message) -> None:
        """Tell which finished results of other settings are about to be replaced."""
        self._say(spelled(what))

    def begin(self, shards: Sequence[tuple[Path, int | None]]) -> None:
        """Show the bar of all shards."""
        self._sizes = dict(shards)
        self._left = len(shards)
        sizes = list(self._sizes.values())
        total = None if None in sizes else sum(size or 0 for size in sizes)
        self._total = total
        self._one = self._bars.add_task(self._unit, total=None, note="", pace=None, visible=False)
        self._all = self._bars.add_task(f"{self._name}: all", total=total, note=self._note(), pace=None)

    def skip(self, shard: Path) -> None:
        """Tell that a shard was finished before."""
        self._leave_out(shard, why="finished before, skipped")

    def elsewhere(self, shard: Path) -> None:
        """Tell that another process has finished a shard."""
        self._leave_out(shard, why="finished by another process")

    def _leave_out(self, shard: Path, *, why: str) -> None:
        self._left -= 1
        size = self._sizes.get(shard)
        self._left_out += size or 0
        if self._all is not None:
            task = next(task for task in self._bars.tasks if task.id == self._all)
            if task.total is not None and size is not None:
                self._bars.update(self._all, total=task.total - size)
            self._bars.update(self._all, note=self._note())
        self._say(f"{shard.name}: {why}")

    def start(self, shard: Path, *, why: str) -> None:
        """Show the bar of a shard."""
        if why:
            self._say(f"{shard.name}: {why}")
        now = time.perf_counter()
        self._under_way[shard], self._latest = _UnderWay(begun=now, said=now), shard
        if self._pace is None:  # one for all shards: it goes on from a shard to the next
            self._pace = Pace()
            for bar in (self._one, self._all):
                if bar is not None:
                    self._bars.update(bar, pace=self._pace)
        if self._one is not None and self._all is not None:
            # The bar is that of the only shard; of several the note of all tells.
            alone = len(self._under_way) == 1
            self._bars.reset(self._one, total=self._sizes.get(shard), description=shard.name, visible=alone)
            self._bars.update(self._all, note=self._note())

    def advance(self, *, failed: bool, shard: Path | None = None) -> None:
        """Move the bars on."""
        shard = shard or self._latest
        own = self._under_way.setdefault(shard, _UnderWay())
        own.done += 1
        own.failed += failed
        self._all_done += 1
        self._failed += failed
        if self._pace is not None:
            self._pace.add()
        for task in (self._one, self._all):
            if task is not None:
                self._bars.update(task, advance=1, note=self._note() if task == self._all else "")
        if not self._console.is_terminal and time.perf_counter() - own.said > _QUIET_SECONDS:
            own.said = time.perf_counter()
            size = self._sizes.get(shard)
            of = f" of {size}" if size is not None else ""
            self._say(f"{shard.name}: {own.done}{of} images so far{self._outlook()}{self._note(', ')}")

    def finish(self, shard: Path) -> None:
        """Tell that a shard is complete."""
        self._left -= 1
        own = self._under_way.pop(shard, _UnderWay())
        if self._all is not None:
            self._bars.update(self._all, note=self._note())
        if not self._console.is_terminal:
            rate = own.done / max(time.perf_counter() - own.begun, 1e-9)
            self._say(f"{shard.name}: {counted(own.done, 'image')}, {rate:.2f} images/s{self._note(', ')}")

    def give_up(self, shard: Path, *, why: str) -> None:
        """Take back what the bar of all shards has counted."""
        self._take_back(shard)
        self._say(why)

    def broken(self, shard: Path, *, why: Message) -> None:
        """Tell why a shard cannot be done; of a single one, the error at the end tells it."""
        self._take_back(shard)
        if len(self._sizes) == 1:
            return
        self._leave_out(shard, why=f"cannot be done: {spelled(why)}")

    def _take_back(self, shard: Path) -> None:
        if (own := self._under_way.pop(shard, None)) is not None:
            self._all_done -= own.done
            self._failed -= own.failed
            if self._all is not None:
                self._bars.update(self._all, advance=-own.done, note=self._note())

    def wait(self, shards: Sequence[Path], *, owners: Sequence[str]) -> None:
        """Tell, once, which shards are waited for and who holds them."""
        left = {shard.name for shard in shards}
        if left != self._waited_for:
            who = ", ".join(sorted(set(owners))[:3]) or "another process"
            self._say(f"waiting for {counted(len(left), 'shard')} that others work on: {who}")
        self._waited_for = left

    def _outlook(self) -> str:
        """Return the rate, and how long the run will go on, as the rest of a line."""
        if self._pace is None or self._pace.rate is None:
            return ""
        more = ""
        if self._total is not None:
            seconds = self._pace.seconds_left(max(self._total - self._left_out - self._all_done, 0))
            more = f", {_duration(seconds)} left" if seconds is not None else ""
        return f", {self._pace.rate:.2f} images/s{more}"

    def _say(self, line: str) -> None:
        print_line(line, console=self._console)

    def _note(self, before: str = "") -> str:
        """Return what is left and what has failed, after some words; nothing where there is neither."""
        parts = [f"{counted(self._left, self._unit)} to go"] if self._left else []
        if len(self._under_way) > 1 and self._console.is_terminal:
            parts.append(f"{len(self._under_way)} at once")
        parts += [f"{self._failed} failed"] if self._failed else []
        return before + ", ".join(parts) if parts else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class TrainingProgress:
    """Shows how training goes. Fits `cuts3d_cli.detector.run_log.TrainingEvents`.

    It can be handed to another process as long as no bar is shown.

    Args:
        console: on stderr; None makes one where it is used.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Show nothing yet."""
        self._console = console
        self._bar: Bars | None = None
        self._task: TaskID | None = None

    def begin(self, *, start: int, total: int) -> None:
        """Show a bar that begins after the iterations that were done before."""
        self.close()
        self._bar = Bars(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._out(),
            disable=not self._out().is_terminal,
        )
        self._task = self._bar.add_task("training", total=total, completed=start, note="")
        self._bar.start()

    def advance(self, iteration: int) -> None:
        """Move the bar on."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=iteration)

    def step(self, step: Any) -> None:
        """Show the losses of the latest iterations."""
        note = (
            f"loss {step.losses['total']:.3f}, learning rate {step.learning_rate:.2g},"
            f" {step.images_per_second:.1f} images/s"
        )
        if self._out().is_terminal and self._bar is not None and self._task is not None:
            self._bar.update(self._task, note=note)
        else:
            self.say(f"iteration {step.iteration}: {note}, {step.seconds_left:.0f} s left")

    def say(self, line: str | Message) -> None:
        """Print a line."""
        print_line(spelled(line), console=self._out())

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __getstate__(self) -> dict[str, Any]:
        # Consoles and bars hold locks; the process that gets this makes its own. Its lines are for the same user.
        name = running()
        return {"_console": None, "_bar": None, "_task": None, "running": (name, COMMANDS.get(name or ""))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        name, command = state.pop("running")
        if command is not None:
            COMMANDS[name] = command
        set_running(name)
        self.__dict__ |= state

    def _out(self) -> Console:
        if self._console is None:
            self._console = plain_console(stderr=True)
        return self._console
