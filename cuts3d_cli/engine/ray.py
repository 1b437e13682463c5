"""A stage's shards as tasks of a Ray cluster, each of them what one process does with one shard."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from cuts3d_cli.config import Config, RunConfig
from cuts3d_cli.engine.driver import stage_result
from cuts3d_cli.engine.replacing import compare_settings
from cuts3d_cli.engine.results import Progress, ShardResult, StageResult
from cuts3d_cli.engine.sharing import Sharing, without_split
from cuts3d_cli.errors import Cuts3dError, Message, Setting, ShardError, UnwritableError, UsageError
from cuts3d_cli.wording import first_line

RETRIES = 3
"""How often a shard's task is started again when its process or its machine dies."""
_POLL = 1.0
_NO_REASON = "no reason was given"


def run_on_ray(
    run: Callable[..., StageResult],
    shards: Sequence[Path],
    *,
    stage: str,
    network: bool,
    config: Config,
    progress: Progress | None = None,
    **arguments: Any,
) -> StageResult:
    """Run a stage on a Ray cluster, one task a shard.

    The shards, weights and checkpoints must have the same paths on all machines of the cluster, and cuts3d must be
    installed there. A task whose process or machine dies is started again; the claims see to it that no two tasks work
    on a shard at once.

    Args:
        run: of the stage; it must be possible to pickle it. Called with the shards, `config` and `arguments`.
        shards: base shards.
        stage: its name.
        network: whether it runs a neural network, which wants a GPU.
        config: all of it; section `run` names the cluster and what a task asks for.
        progress: receives every shard that is finished.
        arguments: further ones of `run`; paths among them are made absolute.

    Returns:
        The results of all shards.

    Raises:
        OtherSettingsError: sidecars are of other settings, and `run.if_exists` is "resume".
        UsageError: Ray is not installed, the cluster cannot be reached, or a task raised it.
        Cuts3dError: a task raised it, or its process died again and again.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError(Setting("run.engine", "ray"), " needs Ray: pip install 'cuts3d[ray]'") from error
    begun = time.perf_counter()
    progress = progress or Progress()
    # Paths of this machine's working folder mean nothing on the others.
    part = [Path(os.path.abspath(shard)) for shard in Sharing.from_config(config.run).part_of(shards)]
    inside = _inside(config)
    arguments = {name: _absolute(value) for name, value in arguments.items()}
    # Results of other settings are refused, or announced, before any task begins.
    compare_settings(lambda comparing: run(part, config=inside, progress=comparing, **arguments), progress=progress)
    progress.begin([(shard, None) for shard in part])
    with _cluster(ray, config.run.ray_address):
        task = ray.remote(_run_shard).options(
            num_cpus=max(1, inside.run.workers or 0),
            num_gpus=_gpus(ray, config.run, network=network),
            max_retries=RETRIES,
            name=f"cuts3d {stage}",
        )
        waiting = {task.remote(run, shard, inside, arguments): shard for shard in part}
        found: dict[Path, ShardResult] = {}
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL)
            for reference in ready:
                shard = waiting.pop(reference)
                found[shard] = _result(ray, reference, shard)
                if (why := found[shard].reason) is not None:
                    progress.broken(shard, why=why)
                else:
                    (progress.skip if found[shard].status == "skipped" else progress.elsewhere)(shard)
    return stage_result(stage, [found[shard] for shard in part], begun=begun)


def _run_shard(
    run: Callable[..., StageResult], shard: Path, config: Config, arguments: dict[str, Any]
) -> StageResult | Cuts3dError:
    """Run a stage on one shard: what a task does. An error is handed back, which Ray would wrap in one of its own."""
    try:
        return run([shard], config=config, **arguments)
    except Cuts3dError as error:
        return error


def _result(ray: Any, reference: Any, shard: Path) -> ShardResult:
    """Return the result of a shard's task; one that cannot be done is broken.

    Raises:
        Cuts3dError: what the task raised that concerns the whole run, or its process died again and again.
    """
    try:
        found: StageResult | Cuts3dError = ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = first_line(error, otherwise=_NO_REASON)
        raise Cuts3dError(f"{shard}: its task on the Ray cluster failed: {reason}") from error
    if isinstance(found, ShardError) and not isinstance(found, UnwritableError):
        return ShardResult(shard=shard, status="broken", reason=Message(*found.parts))
    if isinstance(found, Cuts3dError):
        raise found
    (result,) = found.shards
    return result


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one of this machine alone where no address is known."""
    address = address or os.environ.get("RAY_ADDRESS")
    own = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        reason = first_line(error, otherwise=_NO_REASON)
        raise UsageError(f"the Ray cluster {address or 'of this machine'} cannot be used: {reason}") from error
    try:
        with redirect_stdout(sys.stderr):  # Ray tells of workers that died on stdout, which is for results
            yield
    finally:
        ray.shutdown()


def _inside(config: Config) -> Config:
    """Return the configuration within a task: one shard, in the task's own process unless workers are asked for."""
    sections = {item.name: getattr(config, item.name) for item in fields(config)}
    sections["run"] = replace(without_split(config.run), engine="local", workers=config.run.workers or 0)
    return replace(config, **{name: _with_absolute_paths(section) for name, section in sections.items()})


def _with_absolute_paths(section: Any) -> Any:
    return replace(section, **{item.name: _absolute(getattr(section, item.name)) for item in fields(section)})


def _absolute(value: Any) -> Any:
    return Path(os.path.abspath(value)) if isinstance(value, Path) else value


def _gpus(ray: Any, settings: RunConfig, *, network: bool) -> float:
    """Return the GPUs that a task asks for: as configured, else one where the cluster has any and a network runs."""
    if settings.ray_gpus is not None:
        return settings.ray_gpus
    wanted = network and not settings.device.startswith("cpu")
    return 1.0 if wanted and ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
