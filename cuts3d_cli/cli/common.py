"""What the commands share: exit codes, where they print, the options for shards, and running a stage."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from cuts3d_cli.config import Config

DONE, FAILURE, USAGE, FAILED_SAMPLES = 0, 1, 2, 3
SHARING_FIELDS = ("claim_timeout", "wait", "split", "rank", "world_size", "engine", "ray_address")
"""Fields of section `run` that say how processes share the shards."""

stdout = Console()
stderr = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Shards = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer resolves it at run time
    typer.Option(
        "--shards",
        help="Base shards: 'in1k-<000..999>.tar' or 'in1k-{000..999}.tar' (quoted), a glob, a folder, a list, a tar.",
        show_default=False,
    ),
]
MoreShards = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(help="More shards, as when the shell has expanded {000..999}.", show_default=False),
]


def say(line: str) -> None:
    """Print a line on stderr as it is."""
    stderr.print(line, highlight=False, markup=False, soft_wrap=True)


def expand_shards(shards: list[str] | None, more: list[str] | None, config: Config) -> list[Path]:
    """The shards that were named, on the command line or in the configuration, else the one set that is here."""
    from cuts3d_cli.shards.names import expand, only_set

    specs = [*(shards or []), *(more or [])] or ([config.run.shards] if config.run.shards else [])
    if specs:
        return expand(specs)
    found = only_set(Path())
    say(f"shards: {found[0]}" + (f" to {found[-1]} ({len(found)})" if len(found) > 1 else ""))
    return found


def run_stage(stage: str, run: Any, *, json: bool, **arguments: Any) -> Any:
    """Run a stage with a progress bar and print what became of it."""
    from cuts3d_cli.cli.progress import StageProgress
    from cuts3d_cli.cli.tables import print_failures, print_json, print_stage

    if "config" in arguments and arguments["config"].run.engine == "ray":
        from cuts3d_cli.engine.ray import on_ray

        run = functools.partial(on_ray, run)
    with StageProgress(stderr, name=stage) as progress:
        result = run(progress=progress, **arguments)
    if json:
        print_json(result.to_json())
        print_failures(result.failed, errors=stderr)
    else:
        print_stage(result, console=stdout, errors=stderr)
    return result
