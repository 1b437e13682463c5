"""Commands that show results: viz, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from cuts3d_cli.commands.common import Json, Shards, expand_shards, say, stdout
from cuts3d_cli.config import Config
from cuts3d_cli.errors import UsageError
from cuts3d_cli.options import with_config


@with_config("pseudo", "features", "depth", "run")
def viz(
    image: Annotated[Optional[Path], typer.Argument(help="A photo.", show_default=False)] = None,  # noqa: UP045
    depth_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--depth", help="Its depth map: a 16-bit PNG or a .npy, larger is farther.", show_default=False),
    ] = None,
    shards: Shards = None,
    key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--key", help="With --shards: the sample to draw.", show_default=False),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="The picture. Default: NAME.cuts3d.png here.", show_default=False),
    ] = None,
    checkpoint: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--checkpoint", "-c", help="Draw what this detector finds, as `cuts3d train` made it.", show_default=False
        ),
    ] = None,
    open_picture: Annotated[bool, typer.Option("--open", help="Open the picture when it is done.")] = False,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Draw how one photo is cut: depth, Spatial Importance, each cut, and the masks; or what a detector finds in it."""
    from cuts3d_cli.report import print_json
    from cuts3d_cli.stages import viz as stage

    if (image is None) == (shards is None):
        raise UsageError("name one photo, or --shards with --key")
    if shards is None and key is not None:
        raise UsageError("--key goes with --shards")
    if checkpoint is not None:
        from cuts3d_cli.stages.detections import draw_detections

        if image is None or depth_file is not None:
            raise UsageError("--checkpoint goes with one photo, and not with --depth")
        drawn = draw_detections(image, checkpoint=checkpoint, out=out, config=config, say=say)
    elif image is not None:
        drawn = stage.draw_photo(image, depth_file=depth_file, out=out, config=config, say=say)
    else:
        if key is None or depth_file is not None:
            raise UsageError("--shards goes with --key, and not with --depth")
        drawn = stage.draw_sample(expand_shards(shards, None, config), key=key, out=out, say=say)
    if json:
        print_json(drawn.to_json())
    else:
        stdout.print(str(drawn.path), highlight=False, soft_wrap=True)
    if open_picture:
        typer.launch(str(drawn.path))


def inspect(
    path: Annotated[Path, typer.Argument(help="A shard, a sidecar, or a manifest.", show_default=False)],
    limit: Annotated[int, typer.Option("--limit", "-l", help="Samples to show.", min=0)] = 10,
    json: Json = False,
) -> None:
    """Print what is inside a shard, sidecar or manifest."""
    from cuts3d_cli.stages.inspect import run

    run(path, limit=limit, json=json, console=stdout)
