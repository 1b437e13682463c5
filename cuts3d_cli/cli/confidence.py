"""`cuts3d confidence`."""

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
from cuts3d_cli.config import Config, spread
from cuts3d_cli.errors import Command, Parts, Setting


def _idle(arguments: Mapping[str, Any], config: Config) -> Mapping[str, Parts]:
    """Return what has no effect where no photo is read, and where one process needs no device."""
    source = config.confidence.source
    idle: dict[str, Parts] = {}
    if source != "crf":
        idle["run.max_image_pixels"] = ("with ", Setting("confidence.source", source))
    if spread(config.run).gpus == 1:
        idle["run.device"] = ("on ", Command("confidence"))
    return idle


@with_config(
    "confidence",
    fields(
        "run",
        *WORKER_FIELDS,
        *OUTPUT_FIELDS,
        *TEAM_FIELDS,
        *SHARING_FIELDS,
        *RAY_FIELDS,
        "device",
        idle=(*NETWORK_FIELDS, "graphs"),
    ),
    idle=_idle,
)
def confidence(shards: Shards = None, more_shards: MoreShards = None, json: Json = False, *, config: Config) -> None:
    """Score how sure every mask is, patch by patch: writes NAME-000.confidence.tar beside each shard."""
    result = run_stage("confidence", expand_shards(shards, more_shards, config), config=config, json=json)
    leave_after(result)
