"""`cuts3d verify`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cuts3d_cli.cli.common import DONE, FAILURE, NETWORK_FIELDS, WORKER_FIELDS, Json, MoreShards, Shards, expand_shards
from cuts3d_cli.cli.console import print_line, say, stderr
from cuts3d_cli.cli.options import fields, with_config
from cuts3d_cli.cli.spelling import command_line, spelled
from cuts3d_cli.config import Config
from cuts3d_cli.errors import Parts, Setting
from cuts3d_cli.wording import counted

if TYPE_CHECKING:
    from cuts3d_cli.inspection.fix import Fix
    from cuts3d_cli.inspection.verify import VerifyReport


def _idle(arguments: Mapping[str, Any], config: Config) -> Mapping[str, Parts]:
    return {} if arguments.get("fix") else {"run": ("without ", Setting("fix", True))}


@with_config(fields("run", *NETWORK_FIELDS, *WORKER_FIELDS), idle=_idle)
def verify(
    shards: Shards = None,
    more_shards: MoreShards = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Write damaged files again, and delete what is left over.")
    ] = False,
    json: Json = False,
    *,
    config: Config,
) -> None:
    """Check shards and all that was made from them: content, manifests, and that they fit. Exit code 1 if not."""
    from cuts3d_cli.cli.progress import StageProgress
    from cuts3d_cli.inspection.fix import find_fixes, repair
    from cuts3d_cli.inspection.verify import run

    paths = expand_shards(shards, more_shards, config)
    with StageProgress(stderr, name="verify") as progress:
        report = run(paths, progress=progress)
    if fix and report.problems:
        with StageProgress(stderr, name="fix") as progress:
            report = repair(paths, report, run_config=config.run, progress=progress, say=say)
    _print(report, find_fixes(report, run_config=config.run), json=json)
    raise typer.Exit(DONE if report.is_well else FAILURE)


def _print(report: VerifyReport, fixes: Sequence[Fix], *, json: bool) -> None:
    """Print what was found, a line a problem, and what to run, on stdout; notes on stderr."""
    from cuts3d_cli.cli.tables import print_json

    if json:
        print_json(
            {
                "files": report.files,
                "samples": report.samples,
                "problems": [
                    {"file": str(item.file), "member": item.member, "stage": item.stage, "reason": item.reason}
                    for item in report.problems
                ],
                "remedies": [
                    {
                        "file": str(item.file),
                        "command": command_of(item),
                        "by_hand": spelled(item.obstacle) if item.obstacle else None,
                    }
                    for item in fixes
                ],
                "mixed": report.mixed,
                "notes": report.notes,
            }
        )
        return
    for note in report.notes:
        say(f"note: {note}")
    for problem in report.problems:
        print_line(problem.line)
    for line in report.mixed:
        print_line(f"mixed: {line}")
    for item in fixes:
        by_hand = f" (by hand: {spelled(item.obstacle)})" if item.obstacle else ""
        print_line(f"to mend {item.file}: {command_of(item)}{by_hand}")
    count = len(report.problems) + len(report.mixed)
    summary = "all is well" if report.is_well else f"{count} problems"
    print_line(f"{counted(report.files, 'file')}, {counted(report.samples, 'sample')}: {summary}")


def command_of(fix: Fix) -> str:
    """Return the command that repairs a file, as it can be typed."""
    return command_line(fix.command) if fix.command is not None else f"rm {shlex.quote(str(fix.file))}"
