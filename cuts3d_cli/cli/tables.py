"""What a command prints when it is done: tables for people, JSON for machines."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cuts3d_cli.cli.console import print_line
from cuts3d_cli.engine.results import StageResult

SHOWN_FAILURES = 20


def print_json(value: Any) -> None:
    """Print one JSON document on stdout, with escapes where its encoding lacks a letter."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print(text)


def print_words(rows: Sequence[Sequence[str | Text]], *, title: str = "", head: bool = False, console: Console) -> None:
    """Print a table that breaks no word, so that paths can be copied.

    Where its words do not fit side by side, it is printed as plain columns, in lines as long as they must be.

    Args:
        rows: of cells, one number in all of them; the first one names the columns if `head`.
        title: what it shows, which may be a path, too.
        head: as said.
        console: on stdout.
    """
    if title:
        print_line(title, console=console)
    columns = range(len(rows[0]))
    longest = [max(_longest_word(str(row[index])) for row in rows) for index in columns]
    widths = [max(cell_len(str(row[index])) for row in rows) for index in columns]
    # With a border and a blank on each side of a cell.
    room = console.width - 3 * len(columns) - 1
    if sum(longest) <= room:
        table = Table(show_header=head)
        for first, width in zip(rows[0], _narrowed(widths, longest, room=room), strict=True):
            table.add_column(first if head else "", width=width)
        for row in rows[1:] if head else rows:
            table.add_row(*row)
        console.print(table)
        return
    for row in rows:
        cells = [
            Text.assemble(cell, " " * (width - cell_len(str(cell)))) for cell, width in zip(row, widths, strict=True)
        ]
        line = Text("  ").join(cells)
        line.rstrip()
        console.print(line, highlight=False, soft_wrap=True)


def _narrowed(widths: Sequence[int], longest: Sequence[int], *, room: int) -> list[int]:
    """Return widths of columns that fit into some room together: the widest one gives way, but for its longest word.

    The table's own rule may take a column below its least width first, and then draws the table too wide.

    Args:
        widths: of the columns where no cell is wrapped.
        longest: word of each, which together fit.
        room: for the text of all columns.
    """
    narrowed = list(widths)
    while sum(narrowed) > room:
        wide = max((i for i, width in enumerate(narrowed) if width > longest[i]), key=narrowed.__getitem__)
        narrowed[wide] -= 1
    return narrowed


def _longest_word(text: str) -> int:
    """Return the columns that the longest word takes; a path is one, whatever blanks it has."""
    return cell_len(text) if Path(text).is_absolute() else max(map(cell_len, text.split()), default=0)


def print_stage(
    result: StageResult, *, rows: Mapping[str, str] | None = None, console: Console, errors: Console
) -> None:
    """Print the table that a stage ends with on stdout; failed samples, with their reasons, on stderr.

    Args:
        result: of the run.
        rows: further rows, what -> value; None for one of every count of the manifests.
        console: on stdout.
        errors: on stderr.
    """
    table = Table(title=f"cuts3d {result.stage}", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_row("shards", _shards(result))
    images = result.count("samples_in")
    table.add_row("images", str(images))
    table.add_row("failed", str(result.count("failed")))
    for what, value in (count_rows(result) if rows is None else rows).items():
        table.add_row(what, value)
    done = sum(shard.counts.get("samples_in", 0) for shard in result.shards if shard.status == "done")
    table.add_section()
    table.add_row("seconds", f"{result.seconds:.1f}")
    if done:
        table.add_row("images per second", f"{done / result.seconds:.2f}")
        for step, seconds in result.step_seconds().items():
            if step != "total":
                table.add_row(f"  {step}, seconds per image", f"{seconds / done:.3f}")
    console.print(table)
    print_failures(result.failed, errors=errors)


def count_rows(result: StageResult) -> dict[str, str]:
    """Return a row of every count of the manifests, but for those that every stage's table begins with."""
    names = {name for shard in result.shards for name in shard.counts} - {"samples_in", "samples_out", "failed"}
    return {name.replace("_", " "): str(result.count(name)) for name in sorted(names)}


def _shards(result: StageResult) -> str:
    numbers: Counter[str] = Counter(shard.status for shard in result.shards)
    words = {
        "skipped": "finished before",
        "elsewhere": "by other processes",
        "held": "other processes still work on",
        "broken": "could not be done",
    }
    notes = [f"{numbers[status]} {word}" for status, word in words.items() if numbers[status]]
    return f"{len(result.shards)}" + (f" ({', '.join(notes)})" if notes else "")


def print_failures(
    failed: Sequence[dict[str, str]], *, errors: Console, more: str = "see `failed` in the manifests"
) -> None:
    """Print failed samples with their reasons on stderr.

    Args:
        failed: all of them, of which the first are printed.
        errors: on stderr.
        more: says where all of them are.
    """
    for item in failed[:SHOWN_FAILURES]:
        where = item.get("shard") or ""
        name = item.get("key") or item.get("file") or "?"
        print_line(f"failed: {where + ': ' if where else ''}{name}: {item['reason']}", console=errors)
    if len(failed) > SHOWN_FAILURES:
        print_line(f"... and {len(failed) - SHOWN_FAILURES} more: {more}", console=errors)
