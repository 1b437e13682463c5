"""Commands that show and check what is there: viz, verify, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from cuts3d_cli.cli.common import (
    DONE,
    FAILURE,
    Json,
    MoreShards,
    Shards,
    expand_shards,
    say,
    stderr,
    stdout,
)
from cuts3d_cli.cli.options import Only, with_config
from cuts3d_cli.config import Config
from cuts3d_cli.errors import UsageError

VIZ_FIELDS = ("device", "batch_size", "half", "workers", "max_image_pixels", "graphs", "if_exists")
"""Fields of section `run` that drawing has a use for."""


@with_config("pseudo", "features", "depth", Only("run", VIZ_FIELDS))
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
    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.inspection import viz as stage

    if (image is None) == (shards is None):
        raise UsageError("name one photo, or --shards with --key")
    if shards is None and key is not None:
        raise UsageError("--key goes with --shards")
    if checkpoint is not None:
        from cuts3d_cli.inspection.detections import draw_detections

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


@with_config(Only("run", ("device", "batch_size", "half", "workers", "worker_memory")))
def verify(
    shards: Shards = None,
    more_shards: MoreShards = None,
    fix: Annotated[bool, typer.Option("--fix", help="Make damaged files anew, and delete what is left over.")] = False,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Check shards and all that was made from them: content, manifests, and that they fit. Exit code 1 if not."""
    from cuts3d_cli.cli.progress import StageProgress
    from cuts3d_cli.cli.tables import print_verified
    from cuts3d_cli.inspection import fix as mending
    from cuts3d_cli.inspection import verify as stage

    paths = expand_shards(shards, more_shards, config)
    with StageProgress(stderr, name="verify") as progress:
        found = stage.run(paths, progress=progress)
    if fix and found.problems:
        with StageProgress(stderr, name="fix") as progress:
            found = mending.fix(paths, found, run_config=config.run, progress=progress, say=say)
    remedies = mending.remedies(found, run_config=config.run)
    print_verified(found, remedies, json=json, console=stdout, errors=stderr)
    raise typer.Exit(FAILURE if found.problems else DONE)


def inspect(
    path: Annotated[Path, typer.Argument(help="A shard, a sidecar, or a manifest.", show_default=False)],
    limit: Annotated[int, typer.Option("--limit", "-l", help="Samples to show.", min=0)] = 10,
    json: Json = False,
) -> None:
    """Print what is inside a shard, sidecar or manifest."""
    from cuts3d_cli.cli.inspect_tables import run

    run(path, limit=limit, json=json, console=stdout)
