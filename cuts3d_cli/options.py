"""Turns the fields of the configuration into command-line options, so that names, types and help are written once."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from cuts3d_cli.config import PRESET_HELP, PRESETS, Config, resolve, section_fields

PANELS = {
    "pack": "Packing",
    "depth": "Depth",
    "features": "Features",
    "pseudo": "Cutting",
    "confidence": "Confidence",
    "run": "Running",
}


def with_config(*sections: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command `--preset` and an option for every field of some sections of the configuration.

    The command is called with the resolved configuration as its keyword argument `config`, in place of those options.

    Args:
        sections: names of fields of `Config`; where two share a field's name, the later one's option is prefixed.

    Returns:
        A decorator for the function of a Typer command.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        fields: dict[str, tuple[str, str]] = {}
        parameters = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.name != "config"
        ]
        parameters.append(
            _parameter(
                "preset",
                Literal[tuple(PRESETS)],
                typer.Option(help=PRESET_HELP, show_default="paper", rich_help_panel="Running"),
            )
        )
        for section in sections:
            for item, kind in section_fields(type(getattr(Config(), section))):
                # Two sections may use the same word, as in --weights; the later one says whose it is.
                name = item.name if item.name not in fields else f"{section}_{item.name}"
                fields[name] = (section, item.name)
                option = typer.Option(
                    *_flags(name, kind, item.metadata["flags"]),
                    help=item.metadata["help"],
                    show_default=_shown(item.default),
                    rich_help_panel=PANELS[section],
                )
                parameters.append(_parameter(name, kind, option))

        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            overrides: dict[str, dict[str, Any]] = {}
            for name, (section, key) in fields.items():
                value = arguments.pop(name)
                if value is not None:
                    overrides.setdefault(section, {})[key] = value.value if isinstance(value, Enum) else value
            config = resolve(preset=arguments.pop("preset"), overrides=overrides)
            command(**arguments, config=config)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    inner = kind
    if get_origin(kind) in (typing.Union, types.UnionType):
        inner = next(part for part in get_args(kind) if part is not type(None))
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[inner | None if not _is_literal(inner) else typing.Optional[inner], option],  # noqa: UP045
    )


def _is_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _flags(name: str, kind: Any, further: tuple[str, ...]) -> tuple[str, ...]:
    long = "--" + name.replace("_", "-")
    if kind is bool:
        return (f"{long}/--no-{name.replace('_', '-')}", *further)
    return (long, *further)


def _shown(default: Any) -> str | bool:
    if default is None:
        return False
    if isinstance(default, bool):
        return "on" if default else "off"
    return str(default)
