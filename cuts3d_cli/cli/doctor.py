"""`cuts3d doctor`."""

from __future__ import annotations

from cuts3d_cli.cli.common import Json
from cuts3d_cli.cli.console import stdout
from cuts3d_cli.cli.spelling import spelled


def doctor(json: Json = False) -> None:
    """Print versions, devices and weights, what is missing, and how to get it."""
    from rich.table import Table
    from rich.text import Text

    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.inspection.doctor import findings

    found = findings()
    if json:
        print_json([{"state": item.state, "what": item.what, "found": spelled(item.found)} for item in found])
        return
    table = Table(show_header=False)
    table.add_column("state")
    table.add_column("what")
    table.add_column("found", overflow="fold")
    colours = {"ok": "green", "missing": "red", "note": "yellow"}
    for item in found:
        table.add_row(Text(item.state, style=colours[item.state]), item.what, spelled(item.found))
    stdout.print(table)
