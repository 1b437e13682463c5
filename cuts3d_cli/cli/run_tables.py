"""What `cuts3d run` prints: the plan before, the results after."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from cuts3d_cli.evaluation.metrics import KindMetrics
from cuts3d_cli.recipes.plan import Plan
from cuts3d_cli.recipes.run import RecipeResult
from cuts3d_cli.wording import percent

COLUMNS = {"AP": "ap", "AP50": "ap50", "AR@100": "ar100"}


def print_plan(plan: Plan, *, console: Console) -> None:
    """What there is to do, part by part, and whether the disk has room for it."""
    table = Table(title="to do", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("shards", "finished", "disk, MB"):
        table.add_column(column, justify="right")
    table.add_column("")
    for part in plan.parts:
        size = f"{part.bytes / 1e6:.1f}" if part.bytes else "-"
        table.add_row(part.name, str(part.shards), str(part.finished), size, part.note)
    console.print(table)
    console.print(
        f"disk: about {_amount(plan.bytes)} to be written (an estimate), {_amount(plan.free)} free",
        highlight=False,
        soft_wrap=True,
    )
    if plan.bytes > plan.free:
        console.print("warning: the disk is likely too small: make room, or set recipe.out", highlight=False)


def print_results(result: RecipeResult, *, console: Console) -> None:
    """AP and AR of every generation on every evaluation set, in percent, and where the detectors are."""
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
        console.print(f"{name}: {path}", highlight=False, soft_wrap=True)
    for name, number in result.failed.items():
        console.print(f"failed in {name}: {number}", highlight=False, soft_wrap=True)


def _cells(figures: KindMetrics | None) -> list[str]:
    return [percent(getattr(figures, field, None)) for field in COLUMNS.values()]


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
