"""How processes share the shards of a run: each claims the next free one, or each has its fixed part."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from cuts3d_cli.config import IfExists, RunConfig
from cuts3d_cli.engine.claims import Claim, ClaimLostError, claim, claimed_or_left, tidy
from cuts3d_cli.engine.results import Progress, ShardResult
from cuts3d_cli.errors import UsageError
from cuts3d_cli.shards.manifest import Currency, Manifest, load_manifest
from cuts3d_cli.shards.names import manifest_path

_T = TypeVar("_T")

RANK_VARIABLES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))
"""Where a process's rank and the number of processes are looked for: torchrun's variables, then SLURM's."""
_SHORTEST_POLL, _LONGEST_POLL = 0.2, 5.0


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How a process shares shards with others.

    Attributes:
        timeout: seconds without a sign of life after which a shard is taken over.
        wait: for shards that others work on, at the end; else they are reported.
        rank: of this process, from 0, where the split is fixed.
        world_size: number of processes that a fixed split is for; 1 where each process may take every shard.
    """

    timeout: float = RunConfig.claim_timeout
    wait: bool = True
    rank: int = 0
    world_size: int = 1

    @classmethod
    def of(cls, config: RunConfig, *, environment: Mapping[str, str] = os.environ) -> Sharing:
        """As configured.

        A fixed split takes its numbers from the configuration, else from variables of torchrun or SLURM. Without one
        those variables mean nothing: a batch script may have them while only one process runs.

        Raises:
            UsageError: a fixed split without its numbers, or impossible ones.
        """
        given = (config.rank, config.world_size)
        if config.split == "claims" and given == (None, None):
            return cls(timeout=config.claim_timeout, wait=config.wait)
        rank, size = given
        for names in RANK_VARIABLES:
            if rank is None and size is None and all(name in environment for name in names):
                rank, size = (_number(name, environment[name]) for name in names)
        if rank is None or size is None:
            raise UsageError("a fixed split needs --rank and --world-size, or variables of torchrun or SLURM")
        if not 0 <= rank < size:
            raise UsageError(f"rank {rank} of {size} processes is impossible: ranks go from 0 to {size - 1}")
        return cls(timeout=config.claim_timeout, wait=config.wait, rank=rank, world_size=size)

    def part_of(self, items: Sequence[_T]) -> list[_T]:
        """Those of all items that this process may take."""
        return list(items[self.rank :: self.world_size])


def of_all_shards(config: RunConfig) -> RunConfig:
    """The same without a fixed split, and waiting for what other processes work on: what follows needs every shard."""
    return replace(config, split="claims", rank=None, world_size=None, wait=True)


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"variable {name} is '{text}': it must be a whole number") from error


class Job(NamedTuple):
    """A tar to write, and the shard that it is told of by."""

    shard: Path
    tar: Path


State = Callable[[Job], Currency | None]
"""Whether a tar that is there is what would be written now; None where there is none."""
Work = Callable[[Job, Claim], Manifest]
"""Writes a tar and its manifest, and raises ClaimLostError before publishing what another process has taken over."""


def share(
    jobs: Sequence[Job], *, state: State, work: Work, if_exists: IfExists, sharing: Sharing, watcher: Progress
) -> list[ShardResult]:
    """Do what is to be done, each shard in one process at a time.

    Args:
        jobs: of this process's part.
        state: of a tar.
        work: does one.
        if_exists: "resume" leaves what is current; else only what was finished since this function began, by another
            process that does the same, is left.
        sharing: with other processes.
        watcher: told how far it is.

    Returns:
        What became of the shards, in order.
    """
    return _Round(state=state, work=work, if_exists=if_exists, sharing=sharing, watcher=watcher).run(jobs)


class _Round:
    def __init__(self, *, state: State, work: Work, if_exists: IfExists, sharing: Sharing, watcher: Progress) -> None:
        self._state = state
        self._work = work
        self._keeps = if_exists == "resume"
        self._sharing = sharing
        self._watcher = watcher
        self._before: dict[Path, _Stamp] = {}
        self._untidy: set[Path] = set()

    def run(self, jobs: Sequence[Job]) -> list[ShardResult]:
        self._before = {job.tar: _stamp(job.tar) for job in jobs}
        self._untidy = claimed_or_left(job.tar for job in jobs)
        results: dict[Path, ShardResult] = {}
        left = list(jobs)
        while left:
            held: dict[Job, str] = {}
            for job in left:
                found = self._take(job)
                if isinstance(found, str):
                    held[job] = found
                else:
                    results[job.tar] = found
            if len(held) == len(left):
                if not self._sharing.wait:
                    results |= {job.tar: _result(job, "held") for job in held}
                    break
                self._watcher.wait([job.shard for job in held], owners=list(held.values()))
                time.sleep(min(max(self._sharing.timeout / 10, _SHORTEST_POLL), _LONGEST_POLL))
            left = list(held)
        return [results[job.tar] for job in jobs]

    def _take(self, job: Job) -> ShardResult | str:
        """What became of a shard, or who has it."""
        state = self._look(job)
        if isinstance(state, ShardResult):
            return state
        self._watcher.due(job.shard, why=self._reason(state))
        taken = claim(job.tar, timeout=self._sharing.timeout)
        if not isinstance(taken, Claim):
            return taken.by
        with taken:
            # Between the look and the claim another process may have finished it.
            if _stamp(job.tar) != self._before[job.tar]:
                state = self._look(job)
                if isinstance(state, ShardResult):
                    return state
            taken.sweep()
            self._watcher.start(job.shard, why=self._reason(state))
            try:
                manifest = self._work(job, taken)
            except ClaimLostError as error:
                self._watcher.give_up(job.shard, why=str(error))
                return "another process"
            self._watcher.finish(job.shard)
            return _result(job, "done", manifest)

    def _reason(self, state: Currency | None) -> str:
        """Why a tar that is there is done again, in a few words."""
        return f"redone, {state.reason}" if self._keeps and state is not None else ""

    def _look(self, job: Job) -> ShardResult | Currency | None:
        """The result of a shard that nothing is to be done for, else what is wrong with what is there."""
        since = _stamp(job.tar) != self._before[job.tar]
        if not (self._keeps or since):
            return None
        state = self._state(job)
        if state is None or not state.current:
            return state
        if since:
            self._watcher.elsewhere(job.shard)
        else:
            self._watcher.skip(job.shard)
            if job.tar in self._untidy:
                tidy(job.tar, timeout=self._sharing.timeout)
        return _result(job, "elsewhere" if since else "skipped", load_manifest(manifest_path(job.tar)))


_Stamp = tuple[int, int, int] | None


def _stamp(tar: Path) -> _Stamp:
    """What tells one finished tar from the next of the same name; None where it is not finished."""
    try:
        state = manifest_path(tar).stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


def _result(
    job: Job, status: Literal["done", "skipped", "elsewhere", "held"], manifest: Manifest | None = None
) -> ShardResult:
    return ShardResult(
        shard=job.shard,
        status=status,
        counts=manifest.counts if manifest else {},
        failed=manifest.failed if manifest else (),
        dropped=manifest.dropped if manifest else (),
        seconds=manifest.seconds if manifest else {},
    )
