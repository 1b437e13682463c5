"""What a stage reports: one outcome a sample, one record a shard, one result a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one sample.

    Attributes:
        key: of the sample.
        members: extension -> bytes, to be written; None if the sample failed.
        failure: the reason, where it failed.
        dropped: masks that were found and not kept: {"iteration": int, "reason": str}.
        counts: added up over the shard, e.g. masks.
        seconds: added up over the shard, by step.
    """

    key: str
    members: Mapping[str, bytes] | None = None
    failure: str | None = None
    dropped: Sequence[Mapping[str, Any]] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What became of one shard.

    Attributes:
        shard: the base shard.
        status: done here and now; skipped, finished before; finished elsewhere, by another process that runs beside
            this one; held by another process, and nobody waited for it.
        counts, failed, dropped, seconds: of its manifest; empty where it is held.
    """

    shard: Path
    status: Literal["done", "skipped", "elsewhere", "held"]
    counts: Mapping[str, int]
    failed: Sequence[Mapping[str, str]]
    dropped: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What became of a run.

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
        """All failed samples, with the shard they are in."""
        return [{"shard": str(shard.shard), **item} for shard in self.shards for item in shard.failed]

    def count(self, name: str) -> int:
        """A count added up over the shards."""
        return sum(shard.counts.get(name, 0) for shard in self.shards)

    def dropped_by_reason(self) -> dict[str, int]:
        """How many masks were dropped for which reason."""
        reasons: dict[str, int] = {}
        for shard in self.shards:
            for item in shard.dropped:
                reasons[item["reason"]] = reasons.get(item["reason"], 0) + 1
        return dict(sorted(reasons.items()))

    def step_seconds(self) -> dict[str, float]:
        """Seconds by step, added up over the shards that were worked on, and over worker processes."""
        total: dict[str, float] = {}
        for shard in self.shards:
            if shard.status == "done":
                for step, value in shard.seconds.items():
                    total[step] = total.get(step, 0.0) + value
        return total

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        names = sorted({name for shard in self.shards for name in shard.counts})
        return {
            "stage": self.stage,
            "seconds": round(self.seconds, 3),
            "counts": {name: self.count(name) for name in names},
            "dropped": self.dropped_by_reason(),
            "failed": self.failed,
            "step_seconds": {step: round(value, 3) for step, value in self.step_seconds().items()},
            "shards": [
                {"shard": str(shard.shard), "status": shard.status, "counts": dict(shard.counts)}
                for shard in self.shards
            ],
        }


class Progress(Protocol):
    """Told how far a stage has come. Samples of a shard are unknown (None) where it has no manifest."""

    def begin(self, shards: Sequence[tuple[Path, int | None]]) -> None:
        """The shards to come, with the number of their samples."""

    def skip(self, shard: Path) -> None:
        """A finished shard is left as it is."""

    def due(self, shard: Path, *, why: str) -> None:
        """A shard is to be worked on, unless another process does: nothing is touched yet. `why` as in `start`."""

    def start(self, shard: Path, *, why: str) -> None:
        """Work on a shard begins; `why` says in a few words why a sidecar that was there is done again."""

    def advance(self, *, failed: bool) -> None:
        """One sample of the current shard is done."""

    def finish(self, shard: Path) -> None:
        """The current shard is whole."""

    def elsewhere(self, shard: Path) -> None:
        """Another process has finished a shard."""

    def give_up(self, shard: Path, *, why: str) -> None:
        """Another process has taken the current shard over."""

    def wait(self, shards: Sequence[Path], *, owners: Sequence[str]) -> None:
        """Nothing is left but what other processes work on. Told again and again."""


class Silent:
    """A progress that nobody watches."""

    def begin(self, shards: Sequence[tuple[Path, int | None]]) -> None:
        """See `Progress`."""

    def skip(self, shard: Path) -> None:
        """See `Progress`."""

    def due(self, shard: Path, *, why: str) -> None:
        """See `Progress`."""

    def start(self, shard: Path, *, why: str) -> None:
        """See `Progress`."""

    def advance(self, *, failed: bool) -> None:
        """See `Progress`."""

    def finish(self, shard: Path) -> None:
        """See `Progress`."""

    def elsewhere(self, shard: Path) -> None:
        """See `Progress`."""

    def give_up(self, shard: Path, *, why: str) -> None:
        """See `Progress`."""

    def wait(self, shards: Sequence[Path], *, owners: Sequence[str]) -> None:
        """See `Progress`."""
