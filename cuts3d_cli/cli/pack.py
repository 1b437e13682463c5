"""`cuts3d pack`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cuts3d_cli.cli.common import (
    NETWORK_FIELDS,
    OUTPUT_FIELDS,
    RAY_FIELDS,
    SHARING_FIELDS,
    WORKER_FIELDS,
    Json,
    leave_after,
    say_how_to_go_on,
    show,
)
from cuts3d_cli.cli.console import say
from cuts3d_cli.cli.options import fields, with_config
from cuts3d_cli.config import Config
from cuts3d_cli.errors import Parts, Setting, UsageError

if TYPE_CHECKING:
    from cuts3d_cli.engine.results import StageResult


INTRINSICS_HELP = (
    "File with the camera of the photos, of all or of each: fx, fy, or a matrix K, in JSON, YAML or plain numbers, as"
    " of OpenCV, ROS, BOP, COCO, TUM or Open3D. For --cloud perspective."
)
"""Of the option `--intrinsics`."""
OF_MAPS = ("depth_scale", "depth_invalid", "depth_orientation")
"""Fields of section `pack` that say what depth maps mean."""


def _idle(arguments: Mapping[str, Any], config: Config) -> Mapping[str, Parts]:
    if arguments.get("depth_dir"):
        return {}
    return {f"pack.{name}": ("without ", Setting("depth_dir")) for name in OF_MAPS}


@with_config(
    "pack",
    fields(
        "run",
        *OUTPUT_FIELDS,
        *SHARING_FIELDS,
        "engine",
        idle=(*NETWORK_FIELDS, *WORKER_FIELDS, *RAY_FIELDS[1:], "graphs"),
    ),
    idle=_idle,
)
def pack(
    source: Annotated[
        Path, typer.Argument(help="A folder of photos (any layout), or a COCO JSON.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards.", show_default=False)],
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="Shards are named NAME-000.tar, ... Default: the name of the source.", show_default=False
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder that a COCO JSON's file names start from.", show_default=False),
    ] = None,
    depth_dir: Annotated[
        Path | None,
        typer.Option(
            "--depth-dir",
            help="Folder of depth maps, named like the photos: 16-bit PNG, TIFF, .npy, .npz or PFM.",
            show_default=False,
        ),
    ] = None,
    intrinsics: Annotated[Path | None, typer.Option("--intrinsics", help=INTRINSICS_HELP, show_default=False)] = None,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Pack photos into base shards. Unreadable photos are listed and left out (exit code 3)."""
    from cuts3d_cli.stages.pack import Packing, run

    if config.run.engine != "local":
        raise UsageError("pack does not run on a cluster: it reads and writes, and computes nothing")
    say_how_to_go_on(config)
    packing = Packing(
        source=source,
        out=out,
        name=name or source.resolve().stem,
        images=images,
        depth_dir=depth_dir,
        intrinsics=intrinsics,
    )
    result = show("pack", partial(run, packing, config=config, say=say), json=json, rows=_rows)
    leave_after(result)


def _rows(result: StageResult) -> dict[str, str]:
    """Return rows about the photos and their depth maps, for the table that packing ends with."""
    from cuts3d_cli.stages.pack_notes import WITH_CAMERA, PackResult

    assert isinstance(result, PackResult)
    rows = {"no photos, passed over": result.passed_over, "keys made longer": result.keys_made_longer}
    shown = {what: str(number) for what, number in rows.items() if number}
    if with_map := result.count("with_depth"):
        shown |= {"with a depth map": str(with_map), "without": str(result.count("without_depth"))}
    if with_camera := result.count(WITH_CAMERA):
        shown["with intrinsics"] = str(with_camera)
    return shown
