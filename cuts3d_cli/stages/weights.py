"""`cuts3d weights`: prints what the cache of weights holds."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from cuts3d_cli.backbones.weights import list_weights, verify, weights_dir
from cuts3d_cli.report import print_json


def list_all(*, json: bool, console: Console) -> None:
    """Print the backbones, and which of their weights are here."""
    statuses = list_weights()
    if json:
        print_json(
            [
                {
                    "name": status.spec.name,
                    "tensor": status.spec.tensor,
                    "patch": status.spec.patch,
                    "size": status.spec.size,
                    "tau_ncut": status.spec.tau_ncut,
                    "source": str(status.spec.source) if status.spec.source else None,
                    "licence": status.spec.licence,
                    "path": str(status.cached.path) if status.cached else None,
                    "sha256": status.cached.sha256 if status.cached else None,
                }
                for status in statuses
            ]
        )
        return
    table = Table(title=f"backbones; cache: {weights_dir()}", title_justify="left")
    for column in ("name", "tensor", "patch", "size", "tau_ncut", "comes from", "here"):
        table.add_column(column, overflow="fold")
    for status in statuses:
        spec = status.spec
        table.add_row(
            spec.name,
            spec.tensor,
            str(spec.patch),
            str(spec.size),
            f"{spec.tau_ncut:g}",
            str(spec.source) if spec.source else "a local file: --weights FILE",
            "yes" if status.cached else "no",
        )
    console.print(table)


def verify_all(*, json: bool, console: Console) -> bool:
    """Hash the cache again and print the outcome.

    Returns:
        Whether every file is as it was written.
    """
    checks = verify()
    if json:
        print_json([{"path": str(check.cached.path), "problem": check.problem} for check in checks])
    elif not checks:
        console.print(f"{weights_dir()} holds no weights", highlight=False, soft_wrap=True)
    else:
        for check in checks:
            console.print(f"{check.cached.path}: {check.problem or 'ok'}", highlight=False, soft_wrap=True)
    return all(check.problem is None for check in checks)
