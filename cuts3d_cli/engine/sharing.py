"""How processes share the shards of a run: each claims the next free one, or each has its fixed part."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from cuts3d_cli.config import Config, IfExists, RunConfig
from cuts3d_cli.engine.claims import Claim, ClaimLostError, HeldElsewhere, claim, claimed_or_left, tidy
from cuts3d_cli.engine.results import Progress, ShardResult, Stamp, Status
from cuts3d_cli.errors import Message, Setting, SettingError, ShardError, UnwritableError, UsageError
from cuts3d_cli.shards.freshness import Freshness
from cuts3d_cli.shards.manifest import Manifest, load_manifest
from cuts3d_cli.shards.names import manifest_path

_T = TypeVar("_T")
_Rest = TypeVar("_Rest")

RANK_VARIABLES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))
"""Where a process's rank and the number of processes are looked for: torchrun's variables, then SLURM's."""
_SHORTEST_POLL, _LONGEST_POLL = 0.2, 5.0


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How a process shares shards with others.

    Attributes:
        timeout: seconds without a heartbeat after which another process's shard is taken over.
        wait: whether to wait, at the end, for shards that others hold; else they are reported as held.
        rank: of this process, from 0, where the split is fixed.
        world_size: number of processes that a fixed split is for; 1 where each process may take every shard.
    """

    timeout: float = RunConfig.claim_timeout
    wait: bool = True
    rank: int = 0
    world_size: int = 1

    @classmethod
    def from_config(cls, config: RunConfig, *, environment: Mapping[str, str] = os.environ) -> Sharing:
        """Return the sharing that a configuration asks for.

        A fixed split takes its numbers from the configuration, else from variables of torchrun or SLURM. Without one
        those variables mean nothing: a batch script may have them while only one process runs.

        Raises:
            UsageError: a fixed split without its numbers, or impossible ones.
        """
        rank, size = config.rank, config.world_size
        if config.split == "claims" and rank is None and size is None:
            return cls(timeout=config.claim_timeout, wait=config.wait)
        for names in RANK_VARIABLES:
            if rank is None and size is None and all(name in environment for name in names):
                rank, size = (_number(name, environment[name]) for name in names)
        if rank is None or size is None:
            given = (Setting("run.rank"), " and ", Setting("run.world_size"))
            raise UsageError("a fixed split needs ", *given, ", or variables of torchrun or SLURM")
        if not 0 <= rank < size:
            raise SettingError("run.rank", f"{rank} of {size} processes is impossible: ranks go from 0 to {size - 1}")
        return cls(timeout=config.claim_timeout, wait=config.wait, rank=rank, world_size=size)

    def part_of(self, items: Sequence[_T]) -> list[_T]:
        """Return those of all items that this process may take."""
        return list(items[self.rank :: self.world_size])


def without_split(config: RunConfig) -> RunConfig:
    """Return a configuration without a fixed split that waits for other processes: what follows needs every shard."""
    return replace(config, split="claims", rank=None, world_size=None, wait=True)


def on_gpus(config: Config, gpus: int) -> Config:
    """Return a configuration of which each stage works on so many GPUs of this machine at once."""
    return replace(config, run=replace(config.run, gpus=gpus))


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"variable {name} is '{text}': it must be a whole number") from error


class Job(NamedTuple):
    """A tar to write, and the base shard by which progress and results name it."""

    shard: Path
    tar: Path


class Done(NamedTuple):
    """A shard that is finished, by whomever."""

    result: ShardResult


State = Callable[[Job], Freshness | None]
"""Checks whether an existing tar is what would be written now; None where there is none."""
IsOfOthers = Callable[[Job], bool]
"""Tells whether an existing tar is finished, and of other settings."""
Write = Callable[[Job, Claim], Manifest]
"""Writes a tar and its manifest. Raises ClaimLostError before it publishes what another process has taken over."""


def share(
    jobs: Sequence[Job],
    *,
    state: State,
    is_of_others: IsOfOthers,
    write: Write,
    if_exists: IfExists,
    sharing: Sharing,
    progress: Progress,
) -> list[ShardResult]:
    """Do the jobs that are to be done, each shard in one process at a time.

    A shard that cannot be done, or that another run of other settings has written meanwhile, is broken. At the end all
    others are of this run's settings.

    Args:
        jobs: of this process's part.
        state: checks a tar.
        is_of_others: compares a tar's settings.
        write: does one job.
        if_exists: "resume" and "replace" leave what is fresh; else only that is left which another process, that does
            the same, has finished since this function began. "resume" and "fail" replace nothing of other settings.
        sharing: with other processes.
        progress: receives progress events.

    Returns:
        The results of the shards, in order.

    Raises:
        UnwritableError: nothing can be written.
    """
    queue = _ShardQueue(
        jobs,
        state=state,
        is_of_others=is_of_others,
        write=write,
        if_exists=if_exists,
        sharing=sharing,
        progress=progress,
    )
    return queue.run()


_OTHER_RUN = Message("another run has written it meanwhile, with other settings: let one of them end first")


class _ShardQueue:
    """Goes over the shards that are left, again and again, until each is finished by this process or another.

    It is the `results.Work` that progress conducts.

    Attributes:
        stamps: of each tar when the run began.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        state: State,
        is_of_others: IsOfOthers,
        write: Write,
        if_exists: IfExists,
        sharing: Sharing,
        progress: Progress,
    ) -> None:
        self._state = state
        self._is_of_others = is_of_others
        self._write = write
        self._resumes = if_exists in ("resume", "replace")
        self._replaces = if_exists in ("replace", "overwrite")
        self._sharing = sharing
        self._progress = progress
        self._jobs = jobs
        self._left = list(jobs)
        self._results: dict[Path, ShardResult] = {}
        self.stamps: dict[Path, Stamp] = {job.tar: _stamp(job.tar) for job in jobs}
        self._stamps_after: dict[Path, Stamp] = {}
        self._has_leftovers = claimed_or_left(job.tar for job in jobs)

    def run(self) -> list[ShardResult]:
        self._progress.conduct(self)
        # What was finished first may have been replaced while the rest was done.
        for job in self._jobs:
            if _stamp(job.tar) != self._stamps_after.get(job.tar, _stamp(job.tar)) and self._is_of_others(job):
                self._results[job.tar] = self._broken(job, _OTHER_RUN).result
        return [self._results[job.tar] for job in self._jobs]

    def look(self) -> list[Path]:
        left: list[Job] = []
        for job in self._left:
            found = self._tried(job, self._check)
            if isinstance(found, Done):
                self._results[job.tar] = found.result
            else:
                left.append(job)
        self._left = left
        return [job.shard for job in left]

    def settle(self, result: ShardResult) -> None:
        self._results |= {job.tar: result for job in self._left if job.shard == result.shard}
        self._left = [job for job in self._left if job.shard != result.shard]

    def credit(self, shards: Collection[Path]) -> None:
        for tar, result in self._results.items():
            if result.status == "elsewhere" and result.shard in shards:
                self._results[tar] = replace(result, status="done")

    def do(self) -> None:
        while self._left:
            # Try every shard that is left; those that other processes hold stay.
            held: dict[Job, str] = {}
            for job in self._left:
                outcome = self._tried(job, self._do_shard)
                if isinstance(outcome, Done):
                    self._results[job.tar] = outcome.result
                else:
                    held[job] = outcome.owner
            # Where nothing could be done, wait for the others, or report what they hold.
            if len(held) == len(self._left):
                if not self._sharing.wait:
                    self._results |= {job.tar: _result(job, "held") for job in held}
                    return
                self._progress.wait([job.shard for job in held], owners=list(held.values()))
                time.sleep(min(max(self._sharing.timeout / 10, _SHORTEST_POLL), _LONGEST_POLL))
            self._left = list(held)

    def _tried(self, job: Job, step: Callable[[Job], Done | _Rest]) -> Done | _Rest:
        """Take a step with a shard; one that is damaged, or lacks an input, is broken."""
        try:
            return step(job)
        except UnwritableError:
            raise
        except ShardError as error:
            return self._broken(job, Message(*error.parts))

    def _do_shard(self, job: Job) -> Done | HeldElsewhere:
        # Look before claiming: what is finished needs no claim.
        found = self._check(job)
        if isinstance(found, Done):
            return found
        self._progress.due(job.shard, why=self._reason(found))
        claimed = claim(job.tar, timeout=self._sharing.timeout)
        if isinstance(claimed, HeldElsewhere):
            return claimed
        with claimed:
            # Between the look and the claim another process may have finished it.
            if _stamp(job.tar) != self.stamps[job.tar]:
                found = self._check(job)
                if isinstance(found, Done):
                    return found
            claimed.sweep()
            self._progress.start(job.shard, why=self._reason(found))
            try:
                manifest = self._write(job, claimed)
            except ClaimLostError as error:
                self._progress.give_up(job.shard, why=str(error))
                return HeldElsewhere(owner="another process")
            self._stamps_after[job.tar] = _stamp(job.tar)
            self._progress.finish(job.shard)
            return Done(_result(job, "done", manifest))

    def _reason(self, freshness: Freshness | None) -> str:
        """Return why a tar that exists is written again, in a few words."""
        return f"redone, {freshness.reason}" if self._resumes and freshness is not None else ""

    def _check(self, job: Job) -> Done | Freshness | None:
        """Return the result of a shard that needs no work, else what is wrong with the tar, or None without one."""
        stamp = _stamp(job.tar)
        is_new = stamp != self.stamps[job.tar]
        if not (self._resumes or is_new):
            return None
        freshness = self._state(job)
        if freshness is None:
            return None
        if not freshness.is_current:
            if not self._replaces and self._is_of_others(job):
                return self._broken(job, _OTHER_RUN)
            return freshness
        if is_new:
            self._progress.elsewhere(job.shard)
        else:
            self._progress.skip(job.shard)
            if job.tar in self._has_leftovers:
                tidy(job.tar, timeout=self._sharing.timeout)
        self._stamps_after[job.tar] = stamp
        return Done(_result(job, "elsewhere" if is_new else "skipped", load_manifest(manifest_path(job.tar))))

    def _broken(self, job: Job, why: Message) -> Done:
        self._progress.broken(job.shard, why=why)
        return Done(ShardResult(shard=job.shard, status="broken", reason=why))


def _stamp(tar: Path) -> Stamp:
    """Return what tells one finished tar from the next of the same name; None where it is not finished."""
    try:
        state = manifest_path(tar).stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


def _result(job: Job, status: Status, manifest: Manifest | None = None) -> ShardResult:
    if manifest is None:
        return ShardResult(shard=job.shard, status=status)
    return ShardResult(
        shard=job.shard,
        status=status,
        counts=manifest.counts,
        failed=manifest.failed,
        dropped=manifest.dropped,
        seconds=manifest.seconds,
    )
