"""`cuts3d train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cuts3d_cli import interrupts
from cuts3d_cli.cli.common import CHECKPOINT_HELP, Gpus, Json, MoreShards, Shards, expand_shards, gpus_of_training
from cuts3d_cli.cli.console import print_line, stderr
from cuts3d_cli.cli.options import fields, with_config
from cuts3d_cli.config import Config
from cuts3d_cli.detector import CHECKPOINTS, FINAL_WEIGHTS, METRICS
from cuts3d_cli.errors import Parts, Setting, UsageError


def _self_training(arguments: Mapping[str, Any]) -> Mapping[str, str]:
    return {"train": "selftrain"} if arguments.get("round") else {}


def _idle(arguments: Mapping[str, Any], config: Config) -> Mapping[str, Parts]:
    """Return what has no effect on a training that starts from a detector."""
    if not (arguments.get("init") or (arguments.get("round") and not arguments.get("resume"))):
        return {}
    why = ("with ", Setting("init") if arguments.get("init") else Setting("round", arguments["round"]))
    return dict.fromkeys(("train.backbone_weights", "selftrain.backbone_weights"), why)


def _way_on(folder: Path, *, overwrite: bool) -> Callable[[], str]:
    """Return what says how to go on with a training that begins, once a signal has come."""

    def changes() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (*folder.glob(CHECKPOINTS), *folder.glob(METRICS))}

    before = changes()

    def way() -> str:
        new = [path.name for path, when in changes().items() if before.get(path) != when]
        if not new:
            return interrupts.SAME_AGAIN
        if new == [METRICS]:
            return "run the same command with --overwrite to begin again"
        return f"run the same command with --resume{' in place of --overwrite' if overwrite else ''} to go on"

    return way


@with_config(
    "train", fields("eval", "root"), fields("run", "device", "max_image_pixels"), redirect=_self_training, idle=_idle
)
def train(
    shards: Shards = None,
    more_shards: MoreShards = None,
    round: Annotated[
        int,
        typer.Option("--round", min=0, help="0 learns from the pseudo-masks, 1 and on from those of self-training."),
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder. Default: detector-initial, detector-st1, ...", show_default=False),
    ] = None,
    gpus: Gpus = "1",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in the folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away a run that is in the folder.")] = False,
    init: Annotated[
        Path | None,
        typer.Option(
            "--init", help=f"What to begin with. {CHECKPOINT_HELP} From round 1 on: the last.", show_default=False
        ),
    ] = None,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Train a class-agnostic Mask R-CNN on the masks, cascaded or plain."""
    from cuts3d_cli.cli.progress import TrainingProgress
    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.detector.processes import rank_by_torchrun
    from cuts3d_cli.detector.train import default_out, run
    from cuts3d_cli.evaluation.training import evaluation_of

    if resume and overwrite:
        problem = "--resume goes on with the run in the folder, and --overwrite deletes it: pass one of them"
        raise UsageError(problem)
    folder = out or default_out(round)
    if not resume:
        interrupts.go_on_by(_way_on(folder, overwrite=overwrite))
    settings = config.selftrain if round else config.train
    device, count = gpus_of_training(gpus, config)
    watcher = TrainingProgress(stderr)
    try:
        result = run(
            expand_shards(shards, more_shards, config),
            round=round,
            out=folder,
            config=settings,
            device=device,
            max_image_pixels=config.run.max_image_pixels,
            gpus=count,
            if_exists="resume" if resume else "overwrite" if overwrite else "fail",
            init=init or (default_out(round - 1) / FINAL_WEIGHTS if round and not resume else None),
            events=watcher,
            evaluation=evaluation_of(settings, root=config.eval.root),
        )
    finally:
        watcher.close()
    if rank_by_torchrun():  # the first process prints
        return
    if json:
        print_json(result.to_json())
    else:
        print_line(str(result.weights))
