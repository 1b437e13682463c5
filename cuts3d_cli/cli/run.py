"""`cuts3d run`: follows a recipe."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cuts3d_cli.cli.common import NETWORK_FIELDS, OUTPUT_FIELDS, WORKER_FIELDS, Json, leave, say_how_to_go_on
from cuts3d_cli.cli.console import print_line, say, stderr, stdout
from cuts3d_cli.cli.effects import check_effects
from cuts3d_cli.config import Config, section_fields, section_types
from cuts3d_cli.errors import Parts
from cuts3d_cli.wording import percent, size_of

if TYPE_CHECKING:
    from cuts3d_cli.evaluation.metrics import KindMetrics
    from cuts3d_cli.recipes.plan import Plan
    from cuts3d_cli.recipes.run import RecipeResult

COLUMNS = {"AP": "ap", "AP50": "ap50", "AR@100": "ar100"}


def run(
    recipe: Annotated[
        Path, typer.Argument(help="A TOML file with a section [recipe]; docs/pipeline.md has one.", show_default=False)
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what there is to do, what is finished, and the disk it needs.")
    ] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="SECTION.FIELD=VALUE", help="Set a field in place of the file.", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Follow a recipe: from photos to masks, to detectors, to their evaluation. What is finished is skipped."""
    from cuts3d_cli.cli.progress import StageProgress, TrainingProgress
    from cuts3d_cli.cli.tables import print_failures, print_json
    from cuts3d_cli.config.recipe import assigned, read_recipe
    from cuts3d_cli.recipes.run import RecipeRun

    given = assigned(assignments or [])
    content = read_recipe(recipe, assignments=assignments or [])
    check_effects(
        [(section, field) for section, values in given.items() for field in values],
        config=content.config,
        reads=_reads(),
        idle=_idle(content.config),
    )
    say_how_to_go_on(content.config)
    watcher = TrainingProgress(stderr)
    try:
        whole = RecipeRun(
            content,
            bar=lambda name: StageProgress(stderr, name=name),
            events=watcher,
            say=say,
            failures=lambda failed: print_failures(failed, errors=stderr),
        )
        plan = whole.plan()
        if dry_run:
            if json:
                print_json({"recipe": str(recipe), "out": str(whole.out), **plan.to_json()})
            else:
                print_plan(plan, console=stdout)
            whole.needs(plan).check()
            return
        print_plan(plan, console=stderr)
        result = whole.run(plan)
    finally:
        watcher.close()
    if json:
        print_json(result.to_json())
    else:
        print_results(result, console=stdout)
    leave(failed=result.failed)


def _reads() -> dict[str, Collection[str]]:
    """Return what a recipe reads of the configuration."""
    whole = {name: [item.name for item, _ in section_fields(kind)] for name, kind in section_types().items()}
    of_run = (*NETWORK_FIELDS, *WORKER_FIELDS, *OUTPUT_FIELDS, "graphs", "claim_timeout")
    return {name: of_run if name == "run" else names for name, names in whole.items() if name != "eval"}


def _idle(config: Config) -> dict[str, Parts]:
    """Return the sections of stages that a recipe leaves out, each with the reason."""
    from cuts3d_cli.detector.train import uses_confidence
    from cuts3d_cli.recipes.steps import uses_depth

    idle: dict[str, Parts] = {}
    if not uses_depth(config):
        idle["depth"] = ("on a recipe that needs no depth",)
    if not uses_confidence(config.train):
        idle["confidence"] = ("on a recipe whose training uses no confidence",)
    return idle


def print_plan(plan: Plan, *, console: Console) -> None:
    """Print what there is to do, part by part, and whether the disk has room for it."""
    table = Table(title="to do", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("shards", "finished", "disk, MB"):
        table.add_column(column, justify="right")
    table.add_column("")
    for part in plan.parts:
        size = f"{part.bytes / 1e6:.1f}" if part.bytes else "-"
        table.add_row(part.name, str(part.shards), str(part.finished), size, part.note)
    console.print(table)
    needed, free = size_of(plan.bytes), size_of(plan.free)
    print_line(f"disk: about {needed} to be written (an estimate), {free} free", console=console)


def print_results(result: RecipeResult, *, console: Console) -> None:
    """Print AP and AR of every generation on every evaluation set, in percent, and where the detectors are."""
    if result.results:
        table = Table(title="percent, class-agnostic", title_justify="left")
        table.add_column("set", no_wrap=True)
        table.add_column("", no_wrap=True)
        for kind in ("box", "mask"):
            for column in COLUMNS:
                table.add_column(f"{kind} {column}", justify="right")
        for name, found in result.results.items():
            for what, one in found.items():
                table.add_row(name, what, *_cells(one.metrics.box), *_cells(one.metrics.mask))
            table.add_section()
        console.print(table)
    for name, path in result.weights.items():
        print_line(f"{name}: {path}", console=console)
    for name, number in result.failed.items():
        print_line(f"failed in {name}: {number}", console=console)


def _cells(figures: KindMetrics | None) -> list[str]:
    return [percent(getattr(figures, field, None)) for field in COLUMNS.values()]
