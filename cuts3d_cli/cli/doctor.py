"""`cuts3d doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cuts3d_cli.cli.common import FAILURE, Json
from cuts3d_cli.cli.console import stdout
from cuts3d_cli.cli.spelling import spelled
from cuts3d_cli.config import PRESETS, resolve

if TYPE_CHECKING:
    from cuts3d_cli.inspection.doctor import Finding

_Preset: Any = Literal[tuple(PRESETS)]


def doctor(
    preset: Annotated[
        _Preset | None,
        typer.Option(
            "--preset",
            help="Only what a run of this preset needs. Exit code 1 if any of it is missing.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Print versions, devices and weights, what is missing, and how to get it."""
    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.inspection.doctor import findings
    from cuts3d_cli.inspection.doctor_preset import preset_findings

    found = findings() if preset is None else preset_findings(resolve(preset=preset))
    if json:
        print_json([{"state": item.state, "what": item.what, "found": spelled(item.found)} for item in found])
    else:
        _print_table(found, title=f"what preset {preset} needs" if preset else "")
    if preset is not None and any(item.state == "missing" for item in found):
        raise typer.Exit(FAILURE)


def _print_table(found: Sequence[Finding], *, title: str) -> None:
    from rich.text import Text

    from cuts3d_cli.cli.tables import print_words

    colours = {"ok": "green", "missing": "red", "note": "yellow"}
    rows = [(Text(item.state, style=colours[item.state]), item.what, spelled(item.found)) for item in found]
    print_words(rows, title=title, console=stdout)
