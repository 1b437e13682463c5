"""Commands of the detector: train, selftrain, predict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from cuts3d_cli.cli.common import (
    DONE,
    FAILED_SAMPLES,
    SHARING_FIELDS,
    Json,
    MoreShards,
    Shards,
    expand_shards,
    run_stage,
    stderr,
    stdout,
)
from cuts3d_cli.cli.options import Only, with_config
from cuts3d_cli.config import Config
from cuts3d_cli.detector import FINAL_WEIGHTS
from cuts3d_cli.errors import UsageError


def _self_training(arguments: Mapping[str, Any]) -> Mapping[str, str]:
    return {"train": "selftrain"} if arguments.get("round") else {}


@with_config("train", Only("run", ("device", "max_image_pixels")), switch=_self_training)
def train(
    shards: Shards = None,
    more_shards: MoreShards = None,
    round: Annotated[
        int,
        typer.Option("--round", min=0, help="0 learns from the pseudo-masks, 1 and on from those of self-training."),
    ] = 0,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder. Default: detector-initial, detector-st1, ...", show_default=False),
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of this machine. Or use torchrun.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in the folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away a run that is in the folder.")] = False,
    init: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--init", help="A trained detector to begin with. From round 1 on: the last.", show_default=False),
    ] = None,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Train a class-agnostic Cascade Mask R-CNN on the masks."""
    from cuts3d_cli.cli.progress import TrainingProgress
    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.detector.train import default_out, run

    if resume and overwrite:
        raise UsageError("--resume and --overwrite cannot both be")
    watcher = TrainingProgress(stderr)
    try:
        result = run(
            expand_shards(shards, more_shards, config),
            round=round,
            out=out,
            config=config.selftrain if round else config.train,
            device=config.run.device,
            max_image_pixels=config.run.max_image_pixels,
            gpus=gpus,
            if_exists="resume" if resume else "overwrite" if overwrite else "fail",
            init=init or (default_out(round - 1) / FINAL_WEIGHTS if round and not resume else None),
            events=watcher,
        )
    finally:
        watcher.close()
    if json:
        print_json(result.to_json())
    else:
        stdout.print(str(result.weights), highlight=False, soft_wrap=True)


@with_config(
    "selftrain", Only("run", ("device", "batch_size", "half", "max_image_pixels", "if_exists", "claim_timeout"))
)
def selftrain(
    shards: Shards = None,
    more_shards: MoreShards = None,
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", "-c", help="The detector to begin with, as `cuts3d train` made it.")
    ] = Path("detector-initial", FINAL_WEIGHTS),
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder in which detector-st1, ... are made.")] = Path("."),
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of this machine.")] = 1,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Train on the detector's own predictions, for some rounds: writes NAME-000.pseudo.st1.tar, detector-st1, ..."""
    from cuts3d_cli.cli.progress import StageProgress, TrainingProgress
    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.recipes.selftrain import run

    watcher = TrainingProgress(stderr)
    try:
        rounds = run(
            expand_shards(shards, more_shards, config),
            checkpoint=checkpoint,
            out=out,
            config=config,
            gpus=gpus,
            events=watcher,
            progress=lambda name: StageProgress(stderr, name=name),
        )
    finally:
        watcher.close()
    if json:
        print_json([item.to_json() for item in rounds])
    else:
        for item in rounds:
            facts = f"{item.masks} masks, {item.predicted} of them predicted, in {item.images} images"
            stdout.print(f"{item.name}: {item.weights} ({facts})", highlight=False, soft_wrap=True)
    raise typer.Exit(FAILED_SAMPLES if any(item.failed for item in rounds) else DONE)


@with_config("predict", Only("run", ("device", "batch_size", "half", "max_image_pixels", "if_exists", *SHARING_FIELDS)))
def predict(
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", "-c", help="A detector that `cuts3d train` made.", show_default=False)
    ],
    shards: Shards = None,
    more_shards: MoreShards = None,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Detect the instances of every image: writes NAME-000.predict.tar beside each shard."""
    from cuts3d_cli.stages.predict import run

    paths = expand_shards(shards, more_shards, config)
    result = run_stage("predict", run, shards=paths, checkpoint=checkpoint, config=config, json=json)
    raise typer.Exit(FAILED_SAMPLES if result.failed else DONE)
