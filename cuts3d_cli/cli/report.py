"""`cuts3d report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cuts3d_cli.cli.common import (
    WORKER_FIELDS,
    FoundGeneration,
    FoundSource,
    Json,
    MoreShards,
    Shards,
    expand_shards,
    leave,
)
from cuts3d_cli.cli.console import print_line, say, stderr, stdout
from cuts3d_cli.cli.options import fields, with_config
from cuts3d_cli.config import Config

if TYPE_CHECKING:
    from cuts3d_cli.reports.gallery import Reported


@with_config(fields("run", *WORKER_FIELDS, "max_image_pixels"))
def report(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder to write into; a report in it is replaced.", show_default=False),
    ],
    shards: Shards = None,
    more_shards: MoreShards = None,
    source: FoundSource = "masks",
    generation: FoundGeneration = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(
            "--ground-truth",
            "--gt",
            help="Show what was found beside this COCO JSON, the worst photos first.",
            show_default=False,
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score",
            min=0.0,
            max=1.0,
            help="Leave out what has a lower score.",
            show_default="0, and 0.5 for detections",
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(
            "--steps",
            min=0,
            help="Draw the picture of every step of so many photos: with a ground truth the worst, else the first.",
        ),
    ] = 500,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page when it is done.")] = False,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Make a gallery of what shards hold: one page to open in a browser. Cuts nothing, needs no network.

    \b
      cuts3d report shards --out report
      cuts3d report shards --out report --ground-truth instances.json
      cuts3d report shards --out report --source detections --ground-truth instances.json
    """
    from cuts3d_cli.cli.progress import StageProgress
    from cuts3d_cli.cli.tables import print_failures, print_json
    from cuts3d_cli.reports.gallery import Request
    from cuts3d_cli.reports.gallery import report as run

    request = Request(
        out=out, source=source, generation=generation, min_score=min_score, ground_truth=ground_truth, steps=steps
    )
    paths = expand_shards(shards, more_shards, config)
    with StageProgress(stderr, name="report") as progress:
        found = run(paths, request, run=config.run, say=say, progress=progress)
    if json:
        print_json(found.to_json())
    else:
        _print(found)
        print_failures(found.failed, errors=stderr, more="the page has all of them")
    if open_page:
        typer.launch(str(found.page))
    leave(failed=any(item["stage"] == "drawing" for item in found.failed))


def _print(found: Reported) -> None:
    """Print what was reported as a table on stdout."""
    print_line(str(found.page))
    table = Table(show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    for what, number in {
        "photos": found.photos,
        "masks or detections": found.masks,
        "photos without any": found.without,
        "photos that failed": len(found.failed),
        "photos with a picture of every step": found.steps,
    }.items():
        table.add_row(what, str(number))
    stdout.print(table)
