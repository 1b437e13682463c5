"""`cuts3d config show`: the configuration in force."""

from __future__ import annotations

import dataclasses
import json as json_module
from typing import Annotated, Any

import typer

from cuts3d_cli.cli.common import Json
from cuts3d_cli.cli.options import check_choices
from cuts3d_cli.config import PRESETS, Config, as_dict, resolve, section_fields
from cuts3d_cli.errors import UsageError


def config_show(
    preset: Annotated[
        str | None,
        typer.Option("--preset", help=f"One of {', '.join(PRESETS)}.", show_default="paper"),
    ] = None,
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print all fields as tables in Markdown.")] = False,
) -> None:
    """Print the configuration in force here, as TOML: presets, cuts3d.toml and CUTS3D_* variables included."""
    from cuts3d_cli.cli.tables import print_json

    if json and markdown:
        raise UsageError("--json and --markdown are several formats: pass one of them")
    config = resolve(preset=preset)
    check_choices(config)
    if markdown:
        from cuts3d_cli.cli.config_markdown import as_markdown

        print(as_markdown(config), end="")
    elif json:
        print_json(everything(config))
    else:
        print(as_toml(config), end="")


def everything(config: Config) -> dict[str, dict[str, Any]]:
    """Return section -> field -> value, as plain JSON values."""
    return {item.name: as_dict(getattr(config, item.name)) for item in dataclasses.fields(config)}


def as_toml(config: Config) -> str:
    """Return the configuration as a `cuts3d.toml` with a comment on every field; what is unset is commented out."""
    lines = []
    for section in dataclasses.fields(config):
        values = getattr(config, section.name)
        lines.append(f"[{section.name}]")
        for item, _ in section_fields(type(values)):
            value = as_dict(values)[item.name]
            lines.append(f"# {item.metadata['help']}")
            lines.append(f"# {item.name} =" if value is None else f"{item.name} = {_toml_value(value)}")
        lines.append("")
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    # JSON is TOML here, but for what lies beyond 16 bits (its surrogates are no TOML) and for the delete character.
    return json_module.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
