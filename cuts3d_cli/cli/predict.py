"""`cuts3d predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cuts3d_cli.cli.common import (
    CHECKPOINT_HELP,
    NETWORK_FIELDS,
    OUTPUT_FIELDS,
    RAY_FIELDS,
    SHARING_FIELDS,
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


@with_config("predict", fields("run", *NETWORK_FIELDS, *OUTPUT_FIELDS, *SHARING_FIELDS, *RAY_FIELDS, *WORKER_FIELDS))
def predict(
    checkpoint: Annotated[Path, typer.Option("--checkpoint", "-c", help=CHECKPOINT_HELP, show_default=False)],
    shards: Shards = None,
    more_shards: MoreShards = None,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Detect the instances of every image: writes NAME-000.predict.tar beside each shard."""
    paths = expand_shards(shards, more_shards, config)
    result = run_stage("predict", paths, config=config, json=json, checkpoint=checkpoint)
    leave_after(result)
