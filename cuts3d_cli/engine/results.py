"""What a stage reports: one outcome per sample, one result per shard and per run, and its progress."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from cuts3d_cli.errors import Message, ShardError, parts_of
from cuts3d_cli.wording import listed

Status = Literal["done", "skipped", "elsewhere", "held", "broken"]
Stamp = tuple[int, int, int] | None
"""What tells one finished tar from the next of the same name; None where it is not finished."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of one sample.

    Attributes:
        key: of the sample.
        members: extension -> bytes, to be written; None if the sample failed.
        failure: the reason, where it failed.
        facts: further facts about a failed sample, for its entry in the manifest.
        dropped: masks that were found and not kept: {"iteration": int, "reason": str}.
        counts: added up over the shard, e.g. masks.
        seconds: added up over the shard, by step.
    """

    key: str
    members: Mapping[str, bytes] | None = None
    failure: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    dropped: Sequence[Mapping[str, Any]] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """The result of one shard.

    Attributes:
        shard: the base shard.
        status: "done" by this run; "skipped", since it was finished before; "elsewhere", finished by another process
            that runs beside this one; "held" by another process, and nobody waited for it; "broken", since it cannot be
            done, for the `reason`.
        counts, failed, dropped, seconds: of its manifest; empty where it is held or broken.
        reason: why it is broken.
    """

    shard: Path
    status: Status
    counts: Mapping[str, int] = field(default_factory=dict)
    failed: Sequence[Mapping[str, str]] = ()
    dropped: Sequence[Mapping[str, Any]] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    reason: Message | None = None


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """The result of a run.

    Attributes:
        stage: its name.
        shards: in the order they were given.
        seconds: wall-clock, of the whole run.
    """

    stage: str
    shards: Sequence[ShardResult]
    seconds: float

    @property
    def failed(self) -> list[dict[str, str]]:
        """Return all failed samples, each with its shard."""
        return [{"shard": str(shard.shard), **item} for shard in self.shards for item in shard.failed]

    @property
    def broken(self) -> list[ShardResult]:
        """Return the shards that could not be done."""
        return [shard for shard in self.shards if shard.status == "broken"]

    def check_complete(self) -> None:
        """Check that no shard is broken, where what follows needs all of them.

        Raises:
            ShardError: some are; the line names them, or the reason of the only one.
        """
        broken = self.broken
        if broken and len(broken) == len(self.shards):
            more = f" (and {len(broken) - 1} more shards likewise)" if len(broken) > 1 else ""
            raise ShardError(*parts_of(broken[0].reason), more)
        if broken:
            names = listed([item.shard.name for item in broken])
            raise ShardError(f"{len(broken)} of {len(self.shards)} shards could not be done: {names}")

    def count(self, name: str) -> int:
        """Return a count, added up over the shards."""
        return sum(shard.counts.get(name, 0) for shard in self.shards)

    def dropped_by_reason(self) -> dict[str, int]:
        """Return how many masks were dropped, by reason."""
        reasons: dict[str, int] = {}
        for shard in self.shards:
            for item in shard.dropped:
                reasons[item["reason"]] = reasons.get(item["reason"], 0) + 1
        return dict(sorted(reasons.items()))

    def step_seconds(self) -> dict[str, float]:
        """Return seconds by step, added up over the shards that this run has done and over worker processes."""
        total: dict[str, float] = {}
        for shard in self.shards:
            if shard.status == "done":
                for step, value in shard.seconds.items():
                    total[step] = total.get(step, 0.0) + value
        return total

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        names = sorted({name for shard in self.shards for name in shard.counts})
        return {
            "stage": self.stage,
            "seconds": round(self.seconds, 3),
            "counts": {name: self.count(name) for name in names},
            "dropped": self.dropped_by_reason(),
            "failed": self.failed,
            "step_seconds": {step: round(value, 3) for step, value in self.step_seconds().items()},
            "shards": [
                {
                    "shard": str(shard.shard),
                    "status": shard.status,
                    "counts": dict(shard.counts),
                    **({"reason": str(shard.reason)} if shard.reason is not None else {}),
                }
                for shard in self.shards
            ],
        }


class Work(Protocol):
    """The shards of a run that are to be done, as `Progress.conduct` receives them.

    Attributes:
        stamps: of each tar when the run began.
    """

    stamps: dict[Path, Stamp]

    def look(self) -> list[Path]:
        """Settle the shards that need no work. Returns the base shards of the others, in order."""

    def settle(self, result: ShardResult) -> None:
        """Settle a shard that needs no work any more, with its result."""

    def credit(self, shards: Collection[Path]) -> None:
        """Count base shards that were finished meanwhile as done by this run."""

    def do(self) -> None:
        """Do the shards that are left."""


class Progress:
    """Receives what happens in a stage; this one ignores it. Subclasses show or record what they want of it.

    The number of a shard's samples is None where the shard has no manifest.
    """

    def compared(self) -> None:
        """Receive that no finished results of other settings forbid the work; nothing is touched yet."""

    def replacing(self, what: Message) -> None:
        """Receive a line that says which finished results of other settings are about to be replaced."""

    def begin(self, shards: Sequence[tuple[Path, int | None]]) -> None:
        """Receive the shards to come, each with the number of its samples."""

    def skip(self, shard: Path) -> None:
        """Receive a shard that was finished before."""

    def due(self, shard: Path, *, why: str) -> None:
        """Receive a shard that will be worked on unless another process holds it; nothing is touched yet.

        Args:
            shard: the base shard.
            why: as in `start`.
        """

    def start(self, shard: Path, *, why: str) -> None:
        """Receive a shard on which work begins.

        Args:
            shard: the base shard.
            why: why a tar that exists is written again, in a few words; else empty.
        """

    def advance(self, *, failed: bool, shard: Path | None = None) -> None:
        """Receive that one more sample is done.

        Args:
            failed: whether it failed.
            shard: its base shard, where several are under way; None for the one that was started last.
        """

    def finish(self, shard: Path) -> None:
        """Receive that the current shard is complete."""

    def elsewhere(self, shard: Path) -> None:
        """Receive a shard that another process has finished."""

    def broken(self, shard: Path, *, why: Message) -> None:
        """Receive a shard that cannot be done; the others are done nevertheless."""

    def give_up(self, shard: Path, *, why: str) -> None:
        """Receive that another process takes over a shard that is under way."""

    def wait(self, shards: Sequence[Path], *, owners: Sequence[str]) -> None:
        """Receive, again and again, the shards that other processes hold once nothing else is left."""

    def conduct(self, work: Work) -> None:
        """Let the work begin, and return when it is done; who has further processes lets them take part."""
        work.do()
