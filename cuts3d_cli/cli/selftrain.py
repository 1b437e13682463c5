"""`cuts3d selftrain`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cuts3d_cli.cli.common import (
    CHECKPOINT_HELP,
    NETWORK_FIELDS,
    OUTPUT_FIELDS,
    Gpus,
    Json,
    MoreShards,
    Shards,
    expand_shards,
    gpus_of_training,
    leave,
    say_how_to_go_on,
)
from cuts3d_cli.cli.console import print_line, stderr
from cuts3d_cli.cli.options import fields, with_config
from cuts3d_cli.config import Config
from cuts3d_cli.detector import FINAL_WEIGHTS
from cuts3d_cli.wording import counted


@with_config(
    "selftrain",
    fields("eval", "root"),
    fields("predict", "detectron2_config", "test_settings", "test_min_size", "test_max_size", "nms"),
    fields("run", *NETWORK_FIELDS, *OUTPUT_FIELDS, "claim_timeout"),
)
def selftrain(
    shards: Shards = None,
    more_shards: MoreShards = None,
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", "-c", help=f"The detector to begin with. {CHECKPOINT_HELP}")
    ] = Path("detector-initial", FINAL_WEIGHTS),
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder in which detector-st1, ... are made.")] = Path("."),
    gpus: Gpus = "1",
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Train on the detector's own predictions, for some rounds: writes NAME-000.pseudo.st1.tar, detector-st1, ..."""
    from cuts3d_cli.cli.progress import StageProgress, TrainingProgress
    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.recipes.selftrain import run

    device, count = gpus_of_training(gpus, config)
    config = replace(config, run=replace(config.run, device=device))
    say_how_to_go_on(config)
    watcher = TrainingProgress(stderr)
    try:
        rounds = run(
            expand_shards(shards, more_shards, config),
            checkpoint=checkpoint,
            out=out,
            config=config,
            gpus=count,
            events=watcher,
            progress=lambda name: StageProgress(stderr, name=name),
        )
    finally:
        watcher.close()
    if json:
        print_json([item.to_json() for item in rounds])
    else:
        for item in rounds:
            facts = (
                f"{counted(item.masks, 'mask')}, {item.predicted} of them predicted in place of"
                f" {item.replaced} others, in {counted(item.images, 'image')}; {counted(item.failed, 'image')} failed"
            )
            print_line(f"{item.name}: {item.weights} ({facts})")
    leave(failed=any(item.failed for item in rounds))
