"""Commands that lead from photos to masks: pack, depth, features, pseudo, confidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from cuts3d_cli.cli.common import DONE, FAILED_SAMPLES, Json, MoreShards, Shards, expand_shards, run_stage, say
from cuts3d_cli.cli.options import with_config
from cuts3d_cli.config import Config
from cuts3d_cli.errors import UsageError


@with_config("pack", "run")
def pack(
    source: Annotated[
        Path, typer.Argument(help="A folder of photos (any layout), or a COCO JSON.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards.", show_default=False)],
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--name", help="Shards are named NAME-000.tar, ... Default: the name of the source.", show_default=False
        ),
    ] = None,
    images: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--images", help="Folder that a COCO JSON's file names start from.", show_default=False),
    ] = None,
    depth_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--depth-dir", help="Folder of sensor depth maps, named like the photos.", show_default=False),
    ] = None,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Pack photos into base shards. Unreadable photos are listed and left out (exit code 3)."""
    from cuts3d_cli.engine.sharing import Sharing
    from cuts3d_cli.stages.pack import run

    if config.run.engine != "local":
        raise UsageError("pack does not run on a cluster: it reads and writes, and computes nothing")
    result = run_stage(
        "pack",
        run,
        json=json,
        source=source,
        out=out,
        name=name or source.resolve().stem,
        images=images,
        depth_dir=depth_dir,
        depth_scale=config.pack.depth_scale,
        shard_size=config.pack.shard_size,
        max_image_pixels=config.run.max_image_pixels,
        if_exists=config.run.if_exists,
        sharing=Sharing.of(config.run),
    )
    raise typer.Exit(FAILED_SAMPLES if result.failed else DONE)


@with_config("depth", "run")
def depth(shards: Shards = None, more_shards: MoreShards = None, json: Json = False, *, config: Config) -> None:
    """Estimate the depth of every image: writes NAME-000.depth.tar beside each shard."""
    from cuts3d_cli.stages.depth import run

    result = run_stage("depth", run, shards=expand_shards(shards, more_shards, config), config=config, json=json)
    raise typer.Exit(FAILED_SAMPLES if result.failed else DONE)


@with_config("features", "run")
def features(shards: Shards = None, more_shards: MoreShards = None, json: Json = False, *, config: Config) -> None:
    """Compute the patch features of every image: writes NAME-000.features.tar. `pseudo` does without."""
    from cuts3d_cli.stages.features import run

    paths = expand_shards(shards, more_shards, config)
    result = run_stage("features", run, shards=paths, config=config, json=json, say=say)
    raise typer.Exit(FAILED_SAMPLES if result.failed else DONE)


@with_config("pseudo", "features", "run")
def pseudo(
    shards: Shards = None,
    more_shards: MoreShards = None,
    export_coco: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--export-coco", help="Also write all masks into one COCO JSON.", show_default=False),
    ] = None,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Cut the pseudo-masks of every image: writes NAME-000.pseudo.tar beside each shard."""
    from cuts3d_cli.engine.sharing import Sharing
    from cuts3d_cli.stages.pseudo import run

    if export_coco and (Sharing.of(config.run).world_size > 1 or not config.run.wait):
        raise UsageError("--export-coco needs all shards: run it again without a fixed split and without --no-wait")
    paths = expand_shards(shards, more_shards, config)
    result = run_stage("pseudo", run, shards=paths, config=config, json=json, say=say)
    if export_coco:
        from cuts3d_cli.stages.export import export_coco as export

        exported = export(paths, export_coco)
        say(f"{export_coco}: {exported.annotations} masks of {exported.images} images")
    raise typer.Exit(FAILED_SAMPLES if result.failed else DONE)


@with_config("confidence", "run")
def confidence(shards: Shards = None, more_shards: MoreShards = None, json: Json = False, *, config: Config) -> None:
    """Score how sure every mask is, patch by patch: writes NAME-000.confidence.tar beside each shard."""
    from cuts3d_cli.stages.confidence import run

    result = run_stage("confidence", run, shards=expand_shards(shards, more_shards, config), config=config, json=json)
    raise typer.Exit(FAILED_SAMPLES if result.failed else DONE)
