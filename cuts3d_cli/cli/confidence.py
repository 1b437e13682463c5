"""`cuts3d confidence`."""

from __future__ import annotations

from cuts3d_cli.cli.common import Json, MoreShards, Shards, expand_shards, leave, run_stage
from cuts3d_cli.cli.options import with_config
from cuts3d_cli.config import Config


@with_config("confidence", "run")
def confidence(shards: Shards = None, more_shards: MoreShards = None, json: Json = False, *, config: Config) -> None:
    """Score how sure every mask is, patch by patch: writes NAME-000.confidence.tar beside each shard."""
    result = run_stage("confidence", expand_shards(shards, more_shards, config), config=config, json=json)
    leave(failed=result.failed)
