"""`cuts3d weights`: prints what the cache of weights holds."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from cuts3d_cli.cli.tables import print_json
from cuts3d_cli.features.base import BackboneSpec
from cuts3d_cli.inspection.weights import all_weights
from cuts3d_cli.weights.cache import WeightsStatus, list_weights, verify, weights_dir
from cuts3d_cli.weights.specs import WeightsSpec


def list_all(*, json: bool, console: Console) -> None:
    """Print the backbones, and which of their weights are here."""
    statuses = list_weights(all_weights().values())
    if json:
        print_json([{**_facts(status.spec), **_place(status)} for status in statuses])
        return
    table = Table(title=f"backbones; cache: {weights_dir()}", title_justify="left")
    for column in ("name", "tensor", "patch", "size", "tau_ncut", "comes from", "here"):
        table.add_column(column, overflow="fold")
    for status in statuses:
        spec = status.spec
        facts = _facts(spec)
        table.add_row(
            spec.name,
            *("" if facts[name] is None else f"{facts[name]}" for name in ("tensor", "patch", "size", "tau_ncut")),
            str(spec.source) if spec.source else "a local file: --weights FILE",
            "yes" if status.cached else "no",
        )
    console.print(table)


def _facts(spec: WeightsSpec) -> dict[str, Any]:
    """Return what is fixed about a network. A ResNet, which a detector starts from, gives no features to cut."""
    features = spec if isinstance(spec, BackboneSpec) else None
    return {
        "name": spec.name,
        "tensor": features.tensor if features else None,
        "patch": features.patch if features else None,
        "size": features.size if features else None,
        "tau_ncut": features.tau_ncut if features else None,
        "source": str(spec.source) if spec.source else None,
        "licence": spec.licence,
    }


def _place(status: WeightsStatus) -> dict[str, Any]:
    return {
        "path": str(status.cached.path) if status.cached else None,
        "sha256": status.cached.sha256 if status.cached else None,
    }


def verify_all(*, json: bool, console: Console) -> bool:
    """Hash the cache again and print the outcome.

    Returns:
        Whether every file is as it was written.
    """
    checks = verify(all_weights().values())
    if json:
        print_json([{"path": str(check.cached.path), "problem": check.problem} for check in checks])
    elif not checks:
        console.print(f"{weights_dir()} holds no weights", highlight=False, soft_wrap=True)
    else:
        for check in checks:
            console.print(f"{check.cached.path}: {check.problem or 'ok'}", highlight=False, soft_wrap=True)
    return all(check.problem is None for check in checks)
