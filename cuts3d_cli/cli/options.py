"""Turns the fields of the configuration into command-line options, so that names, types and help are written once."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from cuts3d_cli.config import PRESET_HELP, PRESETS, Config, resolve, section_fields
from cuts3d_cli.depth.catalogue import DEPTHS
from cuts3d_cli.errors import UsageError

PANELS = {
    "pack": "Packing",
    "depth": "Depth",
    "features": "Features",
    "pseudo": "Cutting",
    "confidence": "Confidence",
    "train": "Training",
    "selftrain": "Self-training",
    "predict": "Detections",
    "eval": "A detector on datasets",
    "run": "Running",
}

CATALOGUES: Mapping[tuple[str, str], Mapping[str, Any]] = {("depth", "backend"): DEPTHS}
"""Section and field -> a catalogue of the names that it takes, which the configuration does not know."""


@dataclass(frozen=True)
class Only:
    """Some fields of a section, for a command that has no use for the others."""

    section: str
    fields: tuple[str, ...]


Switch = Callable[[Mapping[str, Any]], Mapping[str, str]]


def with_config(
    *sections: str | Only, switch: Switch | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command `--preset`, `--set`, and an option for every field of some sections of the configuration.

    The command is called with the resolved configuration as its keyword argument `config`, in place of those options.

    Args:
        sections: names of fields of `Config`; where two share a field's name, the later one's option is prefixed.
            Fields that are marked as advanced get no option of their own.
        switch: told the command's own arguments, it names sections to fill in place of others, as {"train":
            "selftrain"}.

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
        names = [wanted.section if isinstance(wanted, Only) else wanted for wanted in sections]
        for section, wanted in zip(names, sections, strict=True):
            for item, kind in section_fields(type(getattr(Config(), section))):
                if item.metadata["advanced"] or (isinstance(wanted, Only) and item.name not in wanted.fields):
                    continue
                # Two sections may use the same word, as in --weights; the later one says whose it is.
                name = item.name if item.name not in fields else f"{section}_{item.name}"
                fields[name] = (section, item.name)
                option = typer.Option(
                    *_flags(name, kind, item.metadata["flags"]),
                    help=item.metadata["help"],
                    metavar=_metavar(section, item.name),
                    show_default=_shown(item.default),
                    rich_help_panel=PANELS[section],
                )
                parameters.append(_parameter(name, kind, option))
        parameters.append(_parameter("set", list[str], _set_option(names)))

        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            overrides: dict[str, dict[str, Any]] = {}
            for name, (section, key) in fields.items():
                value = arguments.pop(name)
                if value is not None:
                    overrides.setdefault(section, {})[key] = value.value if isinstance(value, Enum) else value
            for assignment in arguments.pop("set") or []:
                section, key, text = _assignment(assignment, names)
                overrides.setdefault(section, {})[key] = text
            for section, instead in (switch(arguments) if switch else {}).items():
                if section in overrides:
                    overrides.setdefault(instead, {}).update(overrides.pop(section))
            config = resolve(preset=arguments.pop("preset"), overrides=overrides)
            for section, key in fields.values():
                _check_name(config, section, key)
            command(**arguments, config=config)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _metavar(section: str, key: str) -> str | None:
    """Return how a help page shows the values of a field that takes a name of a catalogue; None for all others."""
    catalogue = CATALOGUES.get((section, key))
    return None if catalogue is None else f"[{'|'.join(catalogue)}]"


def _check_name(config: Config, section: str, key: str) -> None:
    """Check a field that takes a name of a catalogue, wherever its value comes from."""
    catalogue, value = CATALOGUES.get((section, key)), getattr(getattr(config, section), key)
    if catalogue is not None and value not in catalogue:
        raise UsageError(f"{section}.{key} is '{value}': choose one of {', '.join(catalogue)}")


def _set_option(sections: Sequence[str]) -> Any:
    advanced = [item.name for name in sections for item, _ in _fields(name) if item.metadata["advanced"]]
    further = f" Further fields: {', '.join(advanced)}." if advanced else ""
    return typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help=f"Set any field of the configuration, as `config show` prints it; may be repeated.{further}",
        show_default=False,
        rich_help_panel="Running",
    )


def _fields(section: str) -> list[tuple[Any, Any]]:
    return section_fields(type(getattr(Config(), section)))


def _assignment(text: str, sections: Sequence[str]) -> tuple[str, str, str]:
    """Section, field and value of `field=value` or `section.field=value`."""
    target, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text}: write it as FIELD=VALUE")
    section, dot, key = target.strip().rpartition(".")
    if not dot:
        owners = [name for name in sections if key in {item.name for item, _ in _fields(name)}]
        if len(owners) != 1:
            problem = f"is in {' and '.join(owners)}: write SECTION.{key}=VALUE" if owners else "is no field here"
            raise UsageError(f"--set {text}: '{key}' {problem}")
        section = owners[0]
    return section, key, value.strip()


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    inner = kind
    if get_origin(kind) in (typing.Union, types.UnionType):
        inner = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(inner) is tuple:  # typer wants a fixed number of values; ours are one word, as in 240,320
        inner = str
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
    if isinstance(default, tuple):
        return ",".join(str(item) for item in default)
    return str(default)
