"""Takes a stage through its shards: skips what is done, writes tars and manifests, keeps count."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cuts3d_cli.config import IfExists
from cuts3d_cli.engine.claims import Claim
from cuts3d_cli.engine.replacing import OwnSettings, settle
from cuts3d_cli.engine.results import Outcome, Progress, ShardResult, StageResult
from cuts3d_cli.engine.sharing import Job, Sharing, share
from cuts3d_cli.errors import Message, OccupiedError, Setting, ShardError
from cuts3d_cli.shards.freshness import Freshness, check_freshness, check_unchanged, digest_input
from cuts3d_cli.shards.manifest import (
    InputDigest,
    Manifest,
    digest_file,
    load_manifest,
    save_manifest,
)
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.writer import ShardWriter
from cuts3d_cli.timing import add_seconds

Inputs = Callable[[Path], Mapping[str, Path | InputDigest]]
"""Base shard -> what its tar is made from, by role: files, or digests of what is no single file."""
Outcomes = Callable[[Path], Iterator[Outcome]]
"""Base shard -> one outcome a sample, in order."""


def run_shards(
    shards: Sequence[Path],
    *,
    stage: str,
    config: Mapping[str, Any],
    inputs: Callable[[Path], Mapping[str, Path]],
    outcomes: Outcomes,
    if_exists: IfExists,
    files: Mapping[str, str] | None = None,
    derived: Collection[str] = (),
    sharing: Sharing | None = None,
    info: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
) -> StageResult:
    """Run a stage over base shards, one sidecar and one manifest each.

    Several processes may run the same stage over the same shards at once; each shard is done by one of them. A shard
    that cannot be done stops no other: it is part of the result, as broken.

    Args:
        shards: base shards.
        stage: name of the stage and of its sidecars.
        config: what shapes the output; it is recorded and hashed.
        inputs: the files that a base shard's sidecar is made from, by role.
        outcomes: yields one outcome a sample, in the order of the base shard.
        if_exists: what happens to sidecars that exist.
        files: role of an input that the user names -> its setting, as in {"weights": "features.weights"}.
        derived: values of the configuration that follow from the inputs, as in "confidence.tau_knn".
        sharing: with other processes; by default every shard is for whoever claims it first.
        info: further facts for the manifest that do not shape the output, such as the device; or what gives them when
            a shard's outcomes are through.
        progress: receives progress events.

    Returns:
        The results of all shards.

    Raises:
        OtherSettingsError: sidecars are of other settings, and `if_exists` is "resume".
        OccupiedError: a sidecar exists and `if_exists` is "fail".
        ShardError: no shard can be done, or nothing can be written.
    """
    begun = time.perf_counter()
    progress, sharing = progress or Progress(), sharing or Sharing()
    jobs = [Job(base, sidecar(base, stage)) for base in sharing.part_of(shards)]
    if if_exists == "fail":
        for job in jobs:
            refuse_existing(job.tar)
    # Results of other settings are refused, or announced, before anything else is looked for.
    own = OwnSettings(stage=stage, config=config, files=files or {}, derived=derived)
    settle({job.tar: own.other_values(job.tar) for job in jobs}, if_exists=if_exists, progress=progress)
    progress.compared()
    # Look for all inputs before the work begins. What many shards share, such as weights, is hashed once.
    found, broken = _look_for_inputs(jobs, inputs)
    uses = Counter(path for roles in found.values() for path in roles.values())
    shared = {path: digest_file(path) for path, number in uses.items() if number > 1}

    def given(base: Path) -> Mapping[str, Path | InputDigest]:
        return {role: shared.get(path, path) for role, path in found[base].items()}

    healthy = [job for job in jobs if job not in broken]
    others = {job.tar: own.other_files(job.tar, given(job.shard)) for job in healthy}
    settle(others, if_exists=if_exists, progress=progress)
    progress.begin([(job.shard, _sample_count(job.shard)) for job in jobs])
    for result in broken.values():
        progress.broken(result.shard, why=result.reason or Message())
    # Do what can be done.
    done = run_jobs(
        healthy,
        own=own,
        inputs=given,
        outcomes=outcomes,
        if_exists=if_exists,
        sharing=sharing,
        info=info,
        progress=progress,
    )
    results = {result.shard: result for result in (*done, *broken.values())}
    return stage_result(stage, [results[job.shard] for job in jobs], begun=begun)


def stage_result(stage: str, shards: Sequence[ShardResult], *, begun: float) -> StageResult:
    """Return the result of a run.

    Args:
        stage: its name.
        shards: the results of all its shards.
        begun: when it began, as `time.perf_counter` tells it.

    Raises:
        ShardError: all shards are broken.
    """
    result = StageResult(stage=stage, shards=shards, seconds=time.perf_counter() - begun)
    if len(result.broken) == len(shards):
        result.check_complete()
    return result


def _look_for_inputs(
    jobs: Sequence[Job], inputs: Callable[[Path], Mapping[str, Path]]
) -> tuple[dict[Path, dict[str, Path]], dict[Job, ShardResult]]:
    """Return the inputs of each base shard, and those that lack one or are not what their own manifests say."""
    found: dict[Path, dict[str, Path]] = {}
    broken: dict[Job, ShardResult] = {}
    for job in jobs:
        try:
            check_unchanged(job.shard)  # first: what was made from a damaged shard is not to blame
            found[job.shard] = dict(inputs(job.shard))
        except ShardError as error:
            broken[job] = ShardResult(shard=job.shard, status="broken", reason=Message(*error.parts))
    return found, broken


def run_jobs(
    jobs: Sequence[Job],
    *,
    own: OwnSettings,
    inputs: Inputs,
    outcomes: Outcomes,
    if_exists: IfExists,
    sharing: Sharing,
    info: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None,
    progress: Progress,
) -> list[ShardResult]:
    """Write the tars of some shards, unless they are fresh, each with its manifest.

    Args:
        jobs: of this process's part. `settle` has let their results of other settings be replaced, or found none.
        own: the stage and its settings.
        inputs: what a tar is made from, by role.
        outcomes, if_exists, sharing, info, progress: as `run_shards`.

    Returns:
        The results of the shards, in order.

    Raises:
        UnwritableError: nothing can be written.
    """

    def state(job: Job) -> Freshness | None:
        if not job.tar.exists():
            return None
        return check_freshness(job.tar, stage=own.stage, config=own.config, inputs=inputs(job.shard))

    def is_of_others(job: Job) -> bool:
        return bool(own.other_values(job.tar) or own.other_files(job.tar, inputs(job.shard)))

    def write(job: Job, claim: Claim) -> Manifest:
        digests = {
            role: given if isinstance(given, InputDigest) else digest_input(given)
            for role, given in inputs(job.shard).items()
        }
        facts = {"stage": own.stage, "config": dict(own.config), "inputs": digests, "info": info or {}}
        return _write_shard(job.tar, outcomes(job.shard), facts=facts, claim=claim, progress=progress)

    return share(
        jobs,
        state=state,
        is_of_others=is_of_others,
        write=write,
        if_exists=if_exists,
        sharing=sharing,
        progress=progress,
    )


def refuse_existing(tar: Path) -> None:
    """Raise OccupiedError if a tar exists."""
    if tar.exists():
        resume, overwrite = Setting("run.if_exists", "resume"), Setting("run.if_exists", "overwrite")
        raise OccupiedError(
            f"{tar} exists: ", resume, " keeps what is finished and matches, ", overwrite, " writes all of it again"
        )


def _write_shard(
    tar: Path,
    outcomes: Iterator[Outcome],
    *,
    facts: Mapping[str, Any],
    claim: Claim,
    progress: Progress,
) -> Manifest:
    """Write a tar and its manifest.

    Args:
        tar: to write.
        outcomes: one a sample.
        facts: of the manifest, besides what is counted here.
        claim: on the tar.
        progress: receives progress events.

    Raises:
        ClaimLostError: another process has taken the shard over.
        ShardError: the tar or manifest cannot be written.
    """
    tally = _Tally()
    written: list[Manifest] = []

    def finish() -> None:
        info = facts["info"]() if callable(facts["info"]) else facts["info"]
        known = {**facts, "info": dict(info)}
        manifest = Manifest(**known, **tally.facts(), sha256=writer.sha256, size=writer.size)
        publish_manifest(tar, manifest, claim=claim)
        written.append(manifest)

    writer = ShardWriter(tar, before_publishing=claim.check_before_publishing, after_publishing=finish)
    with writer:
        for outcome in outcomes:
            tally.add(outcome)
            if outcome.members is not None:
                writer.write(outcome.key, outcome.members)
            progress.advance(failed=outcome.members is None)
            if claim.lost:  # what is left would be computed for nothing
                claim.check()
    return written[0]


class _Tally:
    """Adds up the outcomes of a shard's samples for its manifest."""

    def __init__(self) -> None:
        self._counts = {"samples_in": 0, "samples_out": 0, "failed": 0}
        self._failed: list[dict[str, str]] = []
        self._dropped: list[dict[str, Any]] = []
        self._seconds: dict[str, float] = {}
        self._begun = time.perf_counter()

    def add(self, outcome: Outcome) -> None:
        self._counts["samples_in"] += 1
        if outcome.members is None:
            self._counts["failed"] += 1
            reason = outcome.failure or "no reason was given"
            self._failed.append({"key": outcome.key, **outcome.facts, "reason": reason})
        else:
            self._counts["samples_out"] += 1
        self._dropped += [{"key": outcome.key, **item} for item in outcome.dropped]
        for name, number in outcome.counts.items():
            self._counts[name] = self._counts.get(name, 0) + number
        self._seconds = add_seconds(self._seconds, outcome.seconds)

    def facts(self) -> dict[str, Any]:
        seconds = {**self._seconds, "total": time.perf_counter() - self._begun}
        return {
            "counts": self._counts,
            "failed": self._failed,
            "dropped": self._dropped,
            "seconds": {step: round(value, 3) for step, value in seconds.items()},
        }


def publish_manifest(tar: Path, manifest: Manifest, *, claim: Claim) -> None:
    """Mark a tar as finished, or take it away: on a full disk nothing is left.

    Raises:
        ClaimLostError: another process has taken the shard over, and the tar is its.
        ShardError: the manifest cannot be written.
    """
    claim.check()
    try:
        save_manifest(manifest_path(tar), manifest)
    except BaseException:
        if not manifest_path(tar).exists():
            tar.unlink(missing_ok=True)
        raise


def _sample_count(base: Path) -> int | None:
    """Return the samples of a base shard; None where its manifest is missing or another program's."""
    try:
        return load_manifest(manifest_path(base)).counts.get("samples_out")
    except ShardError:
        return None
