"""The command that follows a whole recipe: run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from cuts3d_cli.cli.common import DONE, FAILED_SAMPLES, Json, say, stderr, stdout


def run(
    recipe: Annotated[
        Path, typer.Argument(help="A TOML file with a section [recipe]; docs/pipeline.md has one.", show_default=False)
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what there is to do, what is finished, and the disk it needs.")
    ] = False,
    assignments: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer resolves it at run time
        typer.Option(
            "--set", metavar="SECTION.FIELD=VALUE", help="Set a field in place of the file.", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Follow a recipe: from photos to masks, to detectors, to their evaluation. What is finished is skipped."""
    from cuts3d_cli.cli.progress import StageProgress, TrainingProgress
    from cuts3d_cli.cli.run_tables import print_plan, print_results
    from cuts3d_cli.cli.tables import print_failures, print_json
    from cuts3d_cli.config.recipe import read_recipe
    from cuts3d_cli.recipes.run import RecipeRun

    watcher = TrainingProgress(stderr)
    try:
        whole = RecipeRun(
            read_recipe(recipe, assignments=assignments or []),
            bar=lambda name: StageProgress(stderr, name=name),
            watcher=watcher,
            say=say,
            failures=lambda failed: print_failures(failed, errors=stderr),
        )
        plan = whole.plan()
        if dry_run:
            if json:
                print_json({"recipe": str(recipe), "out": str(whole.out), **plan.to_json()})
            else:
                print_plan(plan, console=stdout)
            return
        print_plan(plan, console=stderr)
        result = whole.run()
    finally:
        watcher.close()
    if json:
        print_json(result.to_json())
    else:
        print_results(result, console=stdout)
    raise typer.Exit(FAILED_SAMPLES if result.failed else DONE)
