"""Takes a stage through its shards: skips what is done, writes sidecars and manifests, keeps count."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cuts3d_cli.config import IfExists
from cuts3d_cli.engine.claims import Claim
from cuts3d_cli.engine.results import Outcome, Progress, Silent, StageResult
from cuts3d_cli.engine.sharing import Job, Sharing, share
from cuts3d_cli.errors import ShardError
from cuts3d_cli.shards.manifest import (
    Currency,
    InputDigest,
    Manifest,
    digest_file,
    digest_input,
    is_current,
    load_manifest,
    save_manifest,
)
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.writer import ShardWriter

Outcomes = Callable[[Path], Iterator[Outcome]]


def run_shards(
    shards: Sequence[Path],
    *,
    stage: str,
    config: Mapping[str, Any],
    inputs: Callable[[Path], Mapping[str, Path]],
    outcomes: Outcomes,
    if_exists: IfExists,
    sharing: Sharing | None = None,
    info: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> StageResult:
    """Run a stage over base shards, one sidecar and one manifest each.

    Several processes may run the same stage over the same shards at once; each shard is done by one of them.

    Args:
        shards: base shards.
        stage: name of the stage and of its sidecars.
        config: what shapes the output; it is recorded and hashed.
        inputs: the files that a base shard's sidecar is made from, by role.
        outcomes: yields one outcome a sample, in the order of the base shard.
        if_exists: what happens to sidecars that are there.
        sharing: with other processes; by default every shard is for whoever claims it first.
        info: further facts for the manifest that do not shape the output, such as the device.
        progress: told how far it is.

    Returns:
        What became of every shard.

    Raises:
        ShardError: a shard is damaged, an input is missing, or a sidecar exists and `if_exists` is "fail".
    """
    watcher, sharing = progress or Silent(), sharing or Sharing()
    begun = time.perf_counter()
    shards = sharing.part_of(shards)
    if if_exists == "fail":
        for base in shards:
            if sidecar(base, stage).exists():
                raise ShardError(
                    f"{sidecar(base, stage)} exists: pass --if-exists resume to keep what is finished and matches,"
                    " or --if-exists overwrite to redo all"
                )
    files = {base: dict(inputs(base)) for base in shards}
    # What many shards share, such as weights, is hashed once.
    uses = Counter(path for roles in files.values() for path in roles.values())
    shared = {path: digest_file(path) for path, number in uses.items() if number > 1}
    watcher.begin([(base, _sample_count(base)) for base in shards])

    def state(job: Job) -> Currency | None:
        if not job.tar.exists():
            return None
        given = {role: shared.get(path, path) for role, path in files[job.shard].items()}
        return is_current(job.tar, stage=stage, config=config, inputs=given)

    def work(job: Job, claim: Claim) -> Manifest:
        digests = {role: shared.get(path) or digest_input(path) for role, path in files[job.shard].items()}
        return _run_shard(
            job, claim, stage=stage, config=config, digests=digests, outcomes=outcomes, info=info, watcher=watcher
        )

    results = share(
        [Job(base, sidecar(base, stage)) for base in shards],
        state=state,
        work=work,
        if_exists=if_exists,
        sharing=sharing,
        watcher=watcher,
    )
    return StageResult(stage=stage, shards=results, seconds=time.perf_counter() - begun)


def _run_shard(
    job: Job,
    claim: Claim,
    *,
    stage: str,
    config: Mapping[str, Any],
    digests: dict[str, InputDigest],
    outcomes: Outcomes,
    info: Mapping[str, Any] | None,
    watcher: Progress,
) -> Manifest:
    begun = time.perf_counter()
    counts = {"samples_in": 0, "samples_out": 0, "failed": 0}
    failed: list[dict[str, str]] = []
    dropped: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    written: list[Manifest] = []

    def finish() -> None:
        seconds["total"] = time.perf_counter() - begun
        manifest = Manifest(
            stage=stage,
            config=dict(config),
            inputs=digests,
            counts=counts,
            failed=failed,
            dropped=dropped,
            info=dict(info or {}),
            seconds={step: round(value, 3) for step, value in seconds.items()},
            sha256=writer.sha256,
            size=writer.size,
        )
        publish_manifest(job.tar, manifest, claim=claim)
        written.append(manifest)

    writer = ShardWriter(job.tar, before_publishing=claim.check_before_publishing, after_publishing=finish)
    with writer:
        for outcome in outcomes(job.shard):
            counts["samples_in"] += 1
            if outcome.members is None:
                counts["failed"] += 1
                failed.append({"key": outcome.key, "reason": outcome.failure or "no reason was given"})
            else:
                counts["samples_out"] += 1
                writer.write(outcome.key, outcome.members)
            dropped += [{"key": outcome.key, **item} for item in outcome.dropped]
            for name, number in outcome.counts.items():
                counts[name] = counts.get(name, 0) + number
            for step, value in outcome.seconds.items():
                seconds[step] = seconds.get(step, 0.0) + value
            watcher.advance(failed=outcome.members is None)
            if claim.lost:  # what is left would be computed for nothing
                claim.check()
    return written[0]


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
    """Samples of a base shard, for the progress bar: unknown where its manifest is missing or another program's."""
    try:
        return load_manifest(manifest_path(base)).counts.get("samples_out")
    except ShardError:
        return None
