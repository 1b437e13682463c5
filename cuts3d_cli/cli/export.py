"""`cuts3d export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from cuts3d_cli.cli.common import FoundGeneration, FoundSource, Json, MoreShards, Shards, expand_shards
from cuts3d_cli.cli.console import print_line, say, stderr, stdout
from cuts3d_cli.config import resolve
from cuts3d_cli.exports.formats import FORMATS

if TYPE_CHECKING:
    from cuts3d_cli.exports.exporting import Exported

_Name: Any = Literal[tuple(FORMATS)]


def export(
    to: Annotated[
        _Name, typer.Option("--to", metavar="FORMAT", help=f"One of {', '.join(FORMATS)}.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder to write into; for a format of one file also a file.", show_default=False
        ),
    ],
    shards: Shards = None,
    more_shards: MoreShards = None,
    source: FoundSource = "masks",
    generation: FoundGeneration = None,
    min_score: Annotated[
        float, typer.Option("--min-score", min=0.0, max=1.0, help="Leave out instances of a lower score.")
    ] = 0.0,
    category: Annotated[
        str | None, typer.Option("--category", help="Name of the only category.", show_default="object")
    ] = None,
    photos: Annotated[
        bool | None,
        typer.Option("--photos/--no-photos", help="Write the photos as well.", show_default="on for yolo and fiftyone"),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            help="By how many pixels polygons may deviate from the edges of masks; 0 for exact ones.",
            show_default="1",
        ),
    ] = None,
    photo_prefix: Annotated[
        str | None,
        typer.Option(
            "--photo-prefix", help="What Label Studio finds the photos by.", show_default="/data/local-files/?d="
        ),
    ] = None,
    if_exists: Annotated[
        Literal["resume", "overwrite", "fail"],
        typer.Option(
            "--if-exists",
            help="What to do about files that are there: resume keeps those of the same content and refuses others, "
            "overwrite replaces them, fail stops at any.",
        ),
    ] = "resume",
    json: Json = False,
) -> None:
    """Export stored masks or detections to other programs. Cuts nothing, needs no network.

    \b
      cuts3d export shards --to coco --out masks.json
      cuts3d export shards --to labelme --out photos
      cuts3d export shards --to yolo --out dataset --source detections --min-score 0.5
    """
    from cuts3d_cli.cli.progress import StageProgress
    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.exports.exporting import Request
    from cuts3d_cli.exports.exporting import export as run

    request = Request(
        to=to,
        out=out,
        source=source,
        generation=generation,
        min_score=min_score,
        category=category,
        photos=photos,
        photo_prefix=photo_prefix,
        tolerance=tolerance,
        if_exists=if_exists,
    )
    paths = expand_shards(shards, more_shards, resolve())
    with StageProgress(stderr, name="export") as progress:
        report = run(paths, request, say=say, progress=progress)
    if json:
        print_json(report.to_json())
    else:
        _print(report)


def _print(report: Exported) -> None:
    """Print what was exported as a table on stdout."""
    rows = {
        "photos": report.photos,
        "instances": report.instances,
        "photos without an instance": report.empty,
        "photos that failed, left out": report.failed,
        "instances of a lower score, left out": report.below,
        "files written": report.written,
        "files that were there, the same": report.same,
    }
    print_line(f"{report.out}: {report.to}")
    table = Table(show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    for what, number in rows.items():
        if number or what in ("photos", "instances", "files written"):
            table.add_row(what, str(number))
    stdout.print(table)
