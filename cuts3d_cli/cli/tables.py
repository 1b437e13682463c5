"""What a command prints when it is done: tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cuts3d_cli.engine.results import StageResult

if TYPE_CHECKING:
    from cuts3d_cli.inspection.fix import Remedy
    from cuts3d_cli.inspection.verify import Verified

SHOWN_FAILURES = 20


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_stage(result: StageResult, *, console: Console, errors: Console) -> None:
    """The closing table of a stage on stdout; failed samples, with their reasons, on stderr.

    Args:
        result: of the run.
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
    if result.stage == "pseudo":
        masks, good = result.count("masks"), result.count("samples_out")
        table.add_row("masks", str(masks))
        table.add_row("masks per image", f"{masks / good:.2f}" if good else "-")
        table.add_row("images without a mask", str(result.count("without_mask")))
        shapeless = result.count("no_structure")
        table.add_row("stopped at 'the rest'", str(result.count("stopped_early") - shapeless))
        if shapeless:
            table.add_row("without structure to cut", str(shapeless))
        for reason, number in result.dropped_by_reason().items():
            table.add_row(f"dropped: {reason}", str(number))
        if result.count("dense_fallbacks"):
            table.add_row("eigenproblems solved densely", str(result.count("dense_fallbacks")))
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


def _shards(result: StageResult) -> str:
    numbers: Counter[str] = Counter(shard.status for shard in result.shards)
    words = {"skipped": "finished before", "elsewhere": "by other processes", "held": "other processes still work on"}
    notes = [f"{numbers[status]} {word}" for status, word in words.items() if numbers[status]]
    return f"{len(result.shards)}" + (f" ({', '.join(notes)})" if notes else "")


def print_failures(
    failed: Sequence[dict[str, str]], *, errors: Console, more: str = "see `failed` in the manifests"
) -> None:
    """The failed samples with their reasons, on stderr.

    Args:
        failed: all of them, of which the first are printed.
        errors: on stderr.
        more: says where all of them are.
    """
    for item in failed[:SHOWN_FAILURES]:
        where = item.get("shard") or ""
        name = item.get("key") or item.get("file") or "?"
        errors.print(
            f"failed: {where + ': ' if where else ''}{name}: {item['reason']}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if len(failed) > SHOWN_FAILURES:
        errors.print(f"... and {len(failed) - SHOWN_FAILURES} more: {more}", highlight=False, soft_wrap=True)


def print_verified(
    found: Verified, remedies: Sequence[Remedy], *, json: bool, console: Console, errors: Console
) -> None:
    """What `cuts3d verify` found, a line a problem, and what to run, on stdout; notes on stderr.

    Args:
        found: problems and notes.
        remedies: what to do about the problems.
        json: print JSON.
        console: on stdout.
        errors: on stderr.
    """
    if json:
        print_json(
            {
                "files": found.files,
                "samples": found.samples,
                "problems": [
                    {"file": str(item.file), "member": item.member, "stage": item.stage, "reason": item.reason}
                    for item in found.problems
                ],
                "remedies": [
                    {"file": str(item.file), "command": item.command, "by_hand": item.obstacle} for item in remedies
                ],
                "notes": found.notes,
            }
        )
        return

    def line(text: str, on: Console = console) -> None:
        on.print(text, highlight=False, markup=False, soft_wrap=True)

    for note in found.notes:
        line(f"note: {note}", errors)
    for problem in found.problems:
        line(problem.line)
    for item in remedies:
        line(f"to mend {item.file}: {item.command}" + (f" (by hand: {item.obstacle})" if item.obstacle else ""))
    count = len(found.problems)
    line(f"{found.files} files, {found.samples} samples: {f'{count} problems' if count else 'all is well'}")
