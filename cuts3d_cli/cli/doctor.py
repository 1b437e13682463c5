"""`cuts3d doctor`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from cuts3d_cli.cli.common import Json
from cuts3d_cli.cli.console import stdout
from cuts3d_cli.cli.spelling import spelled
from cuts3d_cli.config import PRESETS, resolve

_Preset: Any = Literal[tuple(PRESETS)]


def doctor(
    preset: Annotated[
        _Preset | None,
        typer.Option("--preset", help="Only what a run of this preset needs.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Print versions, devices and weights, what is missing, and how to get it."""
    from rich.text import Text

    from cuts3d_cli.cli.tables import print_json, print_words
    from cuts3d_cli.inspection.doctor import findings
    from cuts3d_cli.inspection.doctor_preset import preset_findings

    found = findings() if preset is None else preset_findings(resolve(preset=preset))
    if json:
        print_json([{"state": item.state, "what": item.what, "found": spelled(item.found)} for item in found])
        return
    colours = {"ok": "green", "missing": "red", "note": "yellow"}
    rows = [(Text(item.state, style=colours[item.state]), item.what, spelled(item.found)) for item in found]
    print_words(rows, title=f"what preset {preset} needs" if preset else "", console=stdout)
