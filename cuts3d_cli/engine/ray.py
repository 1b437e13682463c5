"""`--engine ray`: a stage's shards as tasks of a Ray cluster, each of them what one process does with one shard."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cuts3d_cli.config import Config, RunConfig
from cuts3d_cli.engine.results import Progress, ShardResult, Silent, StageResult
from cuts3d_cli.engine.sharing import Sharing, of_all_shards
from cuts3d_cli.errors import Cuts3dError, UsageError
from cuts3d_cli.wording import first_line

RETRIES = 3
"""How often a shard's task is started again when its process or its machine dies."""
_WITHOUT_NETWORK = ("confidence",)
_POLL = 1.0
_NO_REASON = "no reason was given"


@dataclass(frozen=True)
class _Failure:
    """An error of a task as it travels: exceptions of ours are not made for pickling."""

    message: str
    usage: bool


def on_ray(
    run: Callable[..., StageResult],
    *,
    shards: Sequence[Path],
    config: Config,
    progress: Progress | None = None,
    **arguments: Any,
) -> StageResult:
    """Run a stage on a Ray cluster, one task a shard.

    The shards, weights and checkpoints must have the same paths on all machines of the cluster, and cuts3d must be
    installed there. A task whose process or machine dies is started again; the claims see to it that no shard is in the
    works twice.

    Args:
        run: the `run` of a module in `cuts3d_cli.stages`.
        shards: base shards.
        config: all of it; section `run` names the cluster and what a task asks for.
        progress: told of every shard that is finished.
        arguments: further ones of `run`; paths among them are made absolute.

    Returns:
        What became of every shard.

    Raises:
        UsageError: Ray is not installed, the cluster cannot be reached, or a task raised it.
        Cuts3dError: a task raised it, or its process died again and again.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray needs Ray: pip install 'cuts3d[ray]'") from error
    begun = time.perf_counter()
    watcher = progress or Silent()
    settings = config.run
    part = [Path(os.path.abspath(shard)) for shard in Sharing.of(settings).part_of(shards)]
    module, stage = run.__module__, run.__module__.rpartition(".")[2]
    inside = _inside(config)
    arguments = {name: _absolute(value) for name, value in arguments.items() if name != "say"}
    watcher.begin([(shard, None) for shard in part])
    with _cluster(ray, settings.ray_address):
        task = ray.remote(_one_shard).options(
            num_cpus=max(1, inside.run.workers or 0),
            num_gpus=_gpus(ray, settings, stage=stage),
            max_retries=RETRIES,
            name=f"cuts3d {stage}",
        )
        waiting = {task.remote(module, str(shard), inside, arguments): shard for shard in part}
        found: dict[Path, ShardResult] = {}
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL)
            for reference in ready:
                shard = waiting.pop(reference)
                (found[shard],) = _result(ray, reference, shard).shards
                (watcher.skip if found[shard].status == "skipped" else watcher.elsewhere)(shard)
    return StageResult(stage=stage, shards=[found[shard] for shard in part], seconds=time.perf_counter() - begun)


def _one_shard(module: str, shard: str, config: Config, arguments: dict[str, Any]) -> StageResult | _Failure:
    """What a task does: the stage, on one shard."""
    try:
        result: StageResult = importlib.import_module(module).run([Path(shard)], config=config, **arguments)
    except Cuts3dError as error:
        return _Failure(str(error), isinstance(error, UsageError))
    return result


def _result(ray: Any, reference: Any, shard: Path) -> StageResult:
    try:
        found: StageResult | _Failure = ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = first_line(error, otherwise=_NO_REASON)
        raise Cuts3dError(f"{shard}: its task on the Ray cluster failed: {reason}") from error
    if isinstance(found, _Failure):
        raise (UsageError if found.usage else Cuts3dError)(found.message)
    return found


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """A connection to a cluster, or one of this machine alone where no address is known."""
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
    """The configuration within a task: on one shard, in its own process unless told otherwise."""
    run = replace(of_all_shards(config.run), engine="local", workers=config.run.workers or 0)
    return replace(
        config,
        run=run,
        depth=replace(config.depth, weights=_absolute(config.depth.weights)),
        features=replace(config.features, weights=_absolute(config.features.weights)),
    )


def _absolute(value: Any) -> Any:
    return Path(os.path.abspath(value)) if isinstance(value, Path) else value


def _gpus(ray: Any, settings: RunConfig, *, stage: str) -> float:
    """GPUs that a task asks for: as configured, else one where the cluster has any and the stage has a network."""
    if settings.ray_gpus is not None:
        return settings.ray_gpus
    wanted = stage not in _WITHOUT_NETWORK and not settings.device.startswith("cpu")
    return 1.0 if wanted and ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
