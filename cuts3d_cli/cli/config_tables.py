"""`cuts3d config show`: the configuration in force."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from cuts3d_cli.config import Config, as_dict, section_fields


def everything(config: Config) -> dict[str, dict[str, Any]]:
    """Section -> field -> value, as plain JSON values."""
    return {item.name: as_dict(getattr(config, item.name)) for item in dataclasses.fields(config)}


def as_toml(config: Config) -> str:
    """The configuration as a `cuts3d.toml` with a comment on every field; what is unset is commented out."""
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
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
