"""`cuts3d depth`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cuts3d_cli.cli.common import (
    NETWORK_FIELDS,
    OUTPUT_FIELDS,
    RAY_FIELDS,
    SHARING_FIELDS,
    TEAM_FIELDS,
    WORKER_FIELDS,
    Json,
    MoreShards,
    Shards,
    expand_shards,
    leave_after,
    run_stage,
)
from cuts3d_cli.cli.options import fields, with_config
from cuts3d_cli.config import Config
from cuts3d_cli.errors import Parts, Setting


def _idle(arguments: Mapping[str, Any], config: Config) -> Mapping[str, Parts]:
    """Return what has no effect where no network runs."""
    of_sensor: Parts = ("with ", Setting("depth.backend", config.depth.backend))
    return {"run.precision": of_sensor} if config.depth.backend == "sensor" else {}


@with_config(
    "depth",
    fields(
        "run",
        *NETWORK_FIELDS,
        *OUTPUT_FIELDS,
        *TEAM_FIELDS,
        *SHARING_FIELDS,
        *RAY_FIELDS,
        *WORKER_FIELDS,
        idle=("graphs",),
    ),
    idle=_idle,
)
def depth(shards: Shards = None, more_shards: MoreShards = None, json: Json = False, *, config: Config) -> None:
    """Estimate the depth of every image: writes NAME-000.depth.tar beside each shard."""
    result = run_stage("depth", expand_shards(shards, more_shards, config), config=config, json=json)
    leave_after(result)
